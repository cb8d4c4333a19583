"""Texts of event tables as numbers: each distinct text is looked at once a batch, never once a row.

Tables that come from a work folder have their texts as dictionaries already (`stored_event_schema`
in `chronoward.schema`); plain strings are encoded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward.nulls import without_nulls

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    from numpy.typing import NDArray


def numbers_of(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[Any]]:
    """Numbers of a column's texts and what they stand for.

    Args:
        column: string, or dictionary of string.

    Returns:
        int32 (n,), -1 for null; the distinct texts, perhaps some that do not occur.
    """
    indices, texts = encoded(column)
    return indices, texts.to_pylist()


def encoded(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], pa.Array]:
    """As `numbers_of`, the texts left in Arrow: those of a file's batches lie at one place."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        found = column.unify_dictionaries().combine_chunks()
    else:
        found = pc.dictionary_encode(column).combine_chunks()
    if isinstance(found, pa.ChunkedArray):  # an empty column stays chunked
        return np.zeros(0, np.int32), pa.array([], pa.string())
    return without_nulls(found.indices, np.int32(-1)), found.dictionary


def pair_numbers(
    batch: pa.Table, names: tuple[str, str], number: Callable[[str, str], int]
) -> NDArray[np.int64]:
    """A number for each row's pair of texts.

    Args:
        batch: holds the two columns.
        names: of the columns.
        number: called once for each pair that occurs; null is "".

    Returns:
        int64 (n,).
    """
    (first, firsts), (second, seconds) = (numbers_of(batch[name]) for name in names)
    n_seconds = len(seconds) + 1
    packed = (first.astype(np.int64) + 1) * n_seconds + second + 1
    present, place = np.unique(packed, return_inverse=True)
    texts = [("", *(t or "" for t in side)) for side in (firsts, seconds)]
    found = [number(texts[0][p // n_seconds], texts[1][p % n_seconds]) for p in present.tolist()]
    return np.array(found, np.int64)[place]
