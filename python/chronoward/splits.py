"""Which subject is in which split: as the source says, else by a hash of the subject's id.

The hash depends on nothing but the id, so a subject keeps its split when data are added, and the
cohort, the token store and any other tool agree without passing a file around.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chronoward.errors import DataError
from chronoward.philox import splitmix64
from chronoward.schema import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_TRAIN_TENTHS = 8


def hash_split(subject_ids: NDArray[np.int64]) -> NDArray[np.str_]:
    """splitmix64(uint64 subject_id) mod 10: 0–7 train, 8 tuning, 9 held_out.

    Args:
        subject_ids: int64 (n,).
    """
    tenth = (splitmix64(subject_ids) % np.uint64(10)).astype(np.int64)
    return np.asarray(SPLITS)[np.maximum(tenth - (_TRAIN_TENTHS - 1), 0)]


def source_split(subject_ids: NDArray[np.int64], splits: pa.Table) -> NDArray[np.str_]:
    """The splits that a source gives.

    Args:
        subject_ids: int64 (n,).
        splits: columns subject_id int64 and split string, each subject once.

    Raises:
        DataError: a subject without a split, or a split of another name.
    """
    ids = np.asarray(splits["subject_id"].to_numpy())
    names = np.asarray(splits["split"].to_pylist())
    if unknown := sorted(set(names.tolist()) - set(SPLITS)):
        message = f"subject_splits: unknown splits {unknown}; expected {list(SPLITS)}"
        raise DataError(message)
    order = np.argsort(ids, kind="stable")
    position = np.searchsorted(ids[order], subject_ids)
    known = position < len(ids)
    known[known] = ids[order][position[known]] == subject_ids[known]
    if not known.all():
        message = f"subject_splits: {int((~known).sum())} subjects have no split"
        raise DataError(message)
    return names[order][position]
