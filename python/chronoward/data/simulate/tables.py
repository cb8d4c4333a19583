"""The clinic as OMOP CDM 5.4 tables: columns of NumPy arrays, written as CSV.

A column that is not given is empty. Times are minutes since 1970, dates days; `NO_TIME` means none
of either, `NONE` no integer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from chronoward.data.simulate.omop_fields import columns
from chronoward.files import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.data.simulate.omop import Rows

Columns = dict[str, Any]

_TYPES = {
    "i": pa.int64(),
    "f": pa.float64(),
    "d": pa.date32(),
    "t": pa.timestamp("s"),
    "s": pa.string(),
}
NONE = -1
NO_TIME = -(1 << 40)


def strings(index: NDArray[np.int64], values: list[str]) -> pa.Array:
    """`values[index]`, null where the index is negative."""
    safe = pa.array(index, mask=index < 0)
    return pa.array(values, pa.string()).take(safe)


def _column(kind: str, value: Any, n: int) -> pa.Array:
    if value is None:
        return pa.nulls(n, _TYPES[kind])
    if isinstance(value, pa.Array):
        return value
    if isinstance(value, int | float | str):
        return pa.repeat(pa.scalar(value, _TYPES[kind]), n)
    array = np.asarray(value)
    if kind == "t":
        return pa.array(array * 60, pa.int64(), mask=array == NO_TIME).cast(_TYPES[kind])
    if kind == "d":
        none = array == NO_TIME
        return pa.array(np.where(none, 0, array).astype(np.int32), mask=none).cast(_TYPES[kind])
    if kind == "f":
        return pa.array(array, mask=np.isnan(array))
    if kind == "i":
        return pa.array(array, pa.int64(), mask=array == NONE)
    return pa.array(array.tolist() if isinstance(array, np.ndarray) else array, pa.string())


def build_table(name: str, rows: Rows) -> pa.Table:
    """A CDM table from the columns that are known, planted rows last.

    Raises:
        KeyError: a column that the table does not have (a fault of ours).
    """
    fields = columns(name)
    known = {field for field, _ in fields}
    parts = []
    for n, given in ((rows.n, rows.columns), *rows.extra):
        if set(given) - known:
            raise KeyError(name, sorted(set(given) - known))
        arrays = {field: _column(kind, given.get(field), n) for field, kind in fields}
        for field in rows.text:
            arrays[field] = arrays[field].cast(pa.string())
        parts.append(pa.table(arrays))
    base = parts[0]
    for field, at, values in rows.patches:
        mask = np.zeros(rows.n, dtype=np.bool_)
        mask[at] = True
        column = base.column(field).combine_chunks()
        column = pc.replace_with_mask(column, pa.array(mask), pa.array(values, pa.string()))
        base = base.set_column(base.schema.get_field_index(field), field, column)
    return pa.concat_tables([base, *parts[1:]])


def write_csv(folder: Path, name: str, table: pa.Table) -> None:
    """Writes `<folder>/<name>.csv`, whole or not at all."""
    with atomic_path(folder / f"{name}.csv") as temporary:
        pyarrow.csv.write_csv(table, temporary)
