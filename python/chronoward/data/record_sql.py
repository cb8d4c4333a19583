"""Records of any table by SQL: every cast that `chronoward.data.omop_tables` counts, in DuckDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward.data.meds_rows import NULL_US
from chronoward.data.omop_tables import CLINICAL, Columns, key_expression
from chronoward.data.record_numbers import as_flags, as_us, number_ids, number_texts
from chronoward.data.record_rows import (
    END_BAD,
    HAS_NUMBER,
    ID_COLUMNS,
    NUMBER_BAD,
    START_BAD,
    TIME_COLUMNS,
    ReadRecords,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from chronoward.data.record_numbers import RecordNumberings
    from chronoward.data.source import SourceTable
    from chronoward.data.workspace import Workspace

_BATCH_ROWS = 1 << 17


def read_by_sql(
    work: Workspace, table: SourceTable, person: str, numberings: RecordNumberings
) -> Iterator[ReadRecords]:
    """Yields a clinical table's records.

    Args:
        work: the database.
        table: the source table.
        person: SQL expression of the subject's id.
        numberings: grow with what is new.
    """
    columns = ", ".join(f"{sql} AS {name}" for name, sql in projection(table, person).items())
    work.run("SET preserve_insertion_order = true")
    for batch in work.stream(f"SELECT {columns} FROM {table.scan}", _BATCH_ROWS):
        text_key = batch["key_text"]
        subject = batch["subject"].fill_null(NULL_US).to_numpy(zero_copy_only=False)
        is_text = text_key.is_valid()
        key = batch["key"].fill_null(NULL_US).to_numpy(zero_copy_only=False)
        yield ReadRecords(
            subject=np.ascontiguousarray(subject, np.int64),
            key=np.ascontiguousarray(key, np.int64),
            text_key_row=np.flatnonzero(is_text.to_numpy(zero_copy_only=False)),
            text_keys=text_key.filter(is_text),
            columns=_number(batch, numberings),
        )
    work.run("SET preserve_insertion_order = false")


def _number(batch: pa.RecordBatch, numberings: RecordNumberings) -> dict[str, NDArray[Any]]:
    """The columns of a batch as numbers; those that it does not have are left out."""
    found: dict[str, NDArray[Any]] = {}
    has = set(batch.schema.names)
    for name in TIME_COLUMNS:
        if name in has:
            found[name] = as_us(batch[name])
    for name in ID_COLUMNS:
        if name in has:
            found[name] = number_ids(batch[name], numberings.ids)
    if "source_value" in has:
        found["source_value"] = number_texts(batch["source_value"], numberings.source_values)
    if "text" in has:
        found["text"] = number_texts(batch["text"], numberings.texts, is_value=True)
    unit = number_ids(batch["unit"], numberings.ids) if "unit" in has else None
    text = number_texts(batch["unit_text"], numberings.unit_texts) if "unit_text" in has else None
    if unit is not None or text is not None:
        found["unit"] = numberings.number_units(unit, text)
    if "visit_ref" in has:
        ref = batch["visit_ref"].fill_null(NULL_US).to_numpy(zero_copy_only=False)
        found["visit_ref"] = np.ascontiguousarray(ref, np.int64)
    flags = as_flags(batch["start_bad"]) * START_BAD
    if "end_bad" in has:
        flags |= as_flags(batch["end_bad"]) * END_BAD
    if "number" in has:
        number = batch["number"]
        found["number"] = np.ascontiguousarray(
            number.fill_null(0.0).to_numpy(zero_copy_only=False), np.float64
        )
        flags |= as_flags(batch["number_bad"]) * NUMBER_BAD
        flags |= as_flags(number.is_valid()) * HAS_NUMBER
    found["flags"] = flags.astype(np.uint8)
    return found


def projection(table: SourceTable, person: str) -> dict[str, str]:
    """SQL of what is read of a clinical table, by name; what it does not have is left out."""
    spec, c = CLINICAL[table.name], Columns(table)
    columns = {"subject": person} | _keys(table)
    ids = {
        "concept": spec.concept,
        "source_concept": spec.source_concept,
        "type": spec.type,
        "status": spec.status,
        "value_concept": spec.value_concept,
        "operator": spec.operator,
        "unit": spec.unit,
    }
    columns |= {name: c.integer(column) for name, column in ids.items() if c.has(column)}
    if c.has(spec.source_value):
        columns["source_value"] = c.text(spec.source_value)
    if c.has(spec.unit_text):
        columns["unit_text"] = c.text(spec.unit_text)
    texts = [c.text(column) for column in spec.text if c.has(column)]
    if texts:
        columns["text"] = f"COALESCE({', '.join(texts)})"
    if c.has("visit_occurrence_id"):
        columns["visit_ref"] = c.reference("visit_occurrence_id")
    if c.has(spec.number):
        columns["number"] = c.number(spec.number)
        columns["number_bad"] = c.failed(spec.number, c.number(spec.number))
    times = {"moment": (spec.at, c.time), "end_at": (spec.end_at, c.time)}
    times |= {"day": (spec.day, c.day), "end_day": (spec.end_day, c.day)}
    columns |= {name: cast(column) for name, (column, cast) in times.items() if c.has(column)}
    columns["start_bad"] = c.start_bad(spec.day, spec.at)
    if c.has(spec.end_day) or c.has(spec.end_at):
        day, at = c.time(spec.end_day), c.time(spec.end_at)
        columns["end_bad"] = (
            f"(({c.failed(spec.end_day, day)} AND {at} IS NULL)"
            f" OR ({c.failed(spec.end_at, at)} AND {day} IS NULL))"
        )
    return columns


def _keys(table: SourceTable) -> dict[str, str]:
    """The key as an integer where it is written as one, else as text."""
    key = CLINICAL[table.name].key
    text = key_expression(table, key)
    if key not in table.columns:
        return {"key": "NULL::BIGINT", "key_text": text}
    whole = f"TRY_CAST({text} AS BIGINT)"
    if table.columns[key] == "INTEGER":
        return {"key": whole, "key_text": f"CASE WHEN {whole} IS NULL THEN {text} END"}
    same = f"{whole}::VARCHAR = {text}"
    return {
        "key": f"CASE WHEN {same} THEN {whole} END",
        "key_text": f"CASE WHEN ({same}) IS NOT TRUE THEN {text} END",
    }
