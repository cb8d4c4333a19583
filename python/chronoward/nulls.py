"""Arrow numbers as NumPy arrays, with a number of our own in the place of null."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward._core import fill_null

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


def without_nulls(column: pa.Array | pa.ChunkedArray, null: np.generic) -> NDArray[Any]:
    """A column of numbers as an array of the dtype of `null`.

    Args:
        column: numbers that `null`'s dtype holds; timestamps for int64, in their own unit.
        null: stands for nulls.

    Returns:
        (n,), not to be written to: where nothing is null it is the column's own memory.

    Raises:
        pa.ArrowInvalid: a number is beyond the dtype.
    """
    chunks = getattr(column, "chunks", [column])
    parts = [_plain(chunk, null) for chunk in chunks if len(chunk)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, null.dtype)


def _plain(chunk: pa.Array, null: np.generic) -> NDArray[Any]:
    import pyarrow as pa

    wanted = pa.from_numpy_dtype(null.dtype)
    is_stamp = pa.types.is_timestamp(chunk.type)
    chunk = chunk.view(pa.int64()).cast(wanted) if is_stamp else chunk.cast(wanted)
    valid, values = chunk.buffers()
    plain = np.frombuffer(values, null.dtype, len(chunk), chunk.offset * null.dtype.itemsize)
    if not chunk.null_count:
        return plain
    bits = f"u{null.dtype.itemsize}"  # copied as they are, a NaN too
    bitmap = np.frombuffer(valid, np.uint8)
    filled = fill_null(plain.view(bits), bitmap, chunk.offset, int(null.view(bits)))
    return filled.view(null.dtype)
