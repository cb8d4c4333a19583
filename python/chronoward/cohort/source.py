"""Where a cohort's events come from: any source, or events that were prepared before."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chronoward.data import PreparedEvents, prepare
from chronoward.data.origin import as_source
from chronoward.errors import ConfigError
from chronoward.splits import hash_split, source_split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from chronoward.data.origin import SourceLike

PREPARED_MARK = "prepared.json"


@contextmanager
def opened(
    given: SourceLike, *, threads: int, memory_limit: str, temp_dir: Path | None = None
) -> Iterator[PreparedEvents]:
    """The events of an OMOP or MEDS source, or of a folder that `prepare` finished earlier.

    Args:
        given: what the user named.
        threads: for reading; results do not depend on it.
        memory_limit: for reading, e.g. `2GB`.
        temp_dir: where a raw source is prepared; the folder is removed afterwards.
    """
    source = as_source(given)
    if isinstance(source, Path) and (source / PREPARED_MARK).is_file():
        yield PreparedEvents.open(source)
        return
    with tempfile.TemporaryDirectory(prefix="chronoward-", dir=temp_dir) as folder:
        work_dir = Path(folder) / "events"
        yield prepare(source, work_dir, threads=threads, memory_limit=memory_limit)


def split_function(
    prepared: PreparedEvents, split: str
) -> Callable[[NDArray[np.int64]], NDArray[np.str_]]:
    """subject ids → split names: `source` (as the data have it, else hash) or `hash`.

    Raises:
        ConfigError: another rule.
    """
    if split not in ("source", "hash"):
        message = f"split must be source or hash, not {split!r}"
        raise ConfigError(message)
    splits = prepared.splits
    if split == "source" and splits is not None:
        return partial(source_split, splits=splits)
    return hash_split
