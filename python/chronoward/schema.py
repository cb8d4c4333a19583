"""The event table: what every source becomes and every reader may rely on.

One row an event. Invariants: a subject's rows are contiguous; subjects ascend; within a subject
rows are ordered by (available_time, role, table, code, unit, numeric_value, text_value, time,
visit_id, end_time) with nulls first, so that a permuted input gives the same bytes.

| column | type | meaning |
|---|---|---|
| subject_id | int64, not null | may be negative |
| time | timestamp[us] | when it happened; null for static facts |
| available_time | timestamp[us] | when it could be known; null for static facts; >= time |
| role | uint8, not null | `Role` |
| table | text, not null | OMOP table it came from, else "" |
| code | text, not null | `VOCABULARY/CONCEPT_CODE`, `OMOP/<concept_id>`, or the MEDS code |
| numeric_value | float32 | |
| text_value | text | category of a value that is not a number |
| unit | text | unit code after conversion, null where there is none |
| visit_id | int64 | 0.. within the subject, in order of start; null for events outside visits |
| end_time | timestamp[us] | of visits and details |

Texts are strings, or dictionaries of strings where a table comes from a work folder.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


class Role(IntEnum):
    """What an event is to the tokenizer; the order is the canonical order inside one timestamp."""

    BIRTH = 0
    SEX = 1
    RACE = 2
    STATIC = 3  # other facts without a time (ethnicity, ...): kept, not tokenized
    VISIT = 4  # code = visit type, e.g. Visit/IP; time..end_time
    DETAIL = 5  # code = visit_detail type; time..end_time
    CODE = 6
    DISCHARGE = 7  # code = where to; time = the visit's end
    DEATH = 8


SPLITS = ("train", "tuning", "held_out")


@cache
def event_schema() -> pa.Schema:
    """Arrow schema of the event table (see the module's docstring)."""
    import pyarrow as pa

    time = pa.timestamp("us")
    return pa.schema(
        [
            pa.field("subject_id", pa.int64(), nullable=False),
            pa.field("time", time),
            pa.field("available_time", time),
            pa.field("role", pa.uint8(), nullable=False),
            pa.field("table", pa.string(), nullable=False),
            pa.field("code", pa.string(), nullable=False),
            pa.field("numeric_value", pa.float32()),
            pa.field("text_value", pa.string()),
            pa.field("unit", pa.string()),
            pa.field("visit_id", pa.int64()),
            pa.field("end_time", time),
        ]
    )


ABSENT_COLUMNS = ("text_value", "unit", "visit_id", "end_time")
TEXT_COLUMNS = ("table", "code", "text_value", "unit")


@cache
def stored_event_schema() -> pa.Schema:
    """Arrow schema of the event table in a work folder: texts as dictionaries.

    Files lack those of `ABSENT_COLUMNS` that no event of the source has.
    """
    import pyarrow as pa

    schema = event_schema()
    for name in TEXT_COLUMNS:
        place = schema.get_field_index(name)
        kind = pa.dictionary(pa.int32(), pa.string())
        schema = schema.set(place, schema.field(name).with_type(kind))
    return schema


@cache
def observation_schema() -> pa.Schema:
    """Arrow schema of observation periods: several a subject, disjoint, ascending."""
    import pyarrow as pa

    time = pa.timestamp("us")
    return pa.schema(
        [
            pa.field("subject_id", pa.int64(), nullable=False),
            pa.field("start_time", time, nullable=False),
            pa.field("end_time", time, nullable=False),
        ]
    )


@cache
def code_schema() -> pa.Schema:
    """Arrow schema of the code table: one row a (table, code) seen in the events.

    `concept_id` 0 means unmapped. `parent_codes` are direct or transitive ancestors, nearest first.
    `is_inpatient` is set for visit codes of the inpatient class.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("table", pa.string(), nullable=False),
            pa.field("code", pa.string(), nullable=False),
            pa.field("description", pa.string()),
            pa.field("concept_id", pa.int64(), nullable=False),
            pa.field("vocabulary_id", pa.string()),
            pa.field("domain_id", pa.string()),
            pa.field("concept_class_id", pa.string()),
            pa.field("parent_codes", pa.list_(pa.string()), nullable=False),
            pa.field("sex_specific", pa.string()),  # "F", "M" or null
            pa.field("is_inpatient", pa.bool_(), nullable=False),
        ]
    )
