"""`fingerprints.arrow`: what each subject's timeline was encoded from, as a number.

Columns `subject_id` int64, ascending, and `fingerprint` uint64 (`Tokenizer.fingerprints`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from chronoward import files
from chronoward.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.uint64(), nullable=False),
    ]
)


class Fingerprints:
    """Collects the fingerprints of subjects, who come in ascending order, and writes them."""

    def __init__(self) -> None:
        self._subject_id = [np.zeros(0, np.int64)]
        self._fingerprint = [np.zeros(0, np.uint64)]

    def add(self, subject_id: NDArray[np.int64], fingerprint: NDArray[np.uint64]) -> None:
        """Adds subjects, (n,) each."""
        self._subject_id.append(subject_id)
        self._fingerprint.append(fingerprint)

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        columns = (np.concatenate(self._subject_id), np.concatenate(self._fingerprint))
        table = pa.table([pa.array(column) for column in columns], schema=_SCHEMA)
        with files.atomic_path(path) as temporary, pa.ipc.new_file(temporary, _SCHEMA) as sink:
            sink.write_table(table.combine_chunks())


def read_fingerprints(paths: list[Path]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The last fingerprint of every subject.

    Args:
        paths: files, what is later counts.

    Returns:
        subject_id int64 (n,), ascending; fingerprint uint64 (n,).

    Raises:
        FormatError: a file is not one of fingerprints.
        OSError: a file cannot be read.
    """
    subjects, fingerprints = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for path in reversed(paths):
        try:
            table = pa.ipc.open_file(path.read_bytes()).read_all()
        except pa.ArrowInvalid:
            table = None
        if table is None or not table.schema.equals(_SCHEMA):
            message = f"{path} is not a file of fingerprints"
            raise FormatError(message)
        subjects.append(table["subject_id"].to_numpy())
        fingerprints.append(table["fingerprint"].to_numpy())
    found, first = np.unique(np.concatenate(subjects), return_index=True)  # the first is the latest
    return found, np.concatenate(fingerprints)[first]
