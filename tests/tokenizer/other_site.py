"""Another site's clinic: other codes, units, texts, visits and races among many that are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from tests.tokenizer.clinic import make_codes, make_observation, make_world

if TYPE_CHECKING:
    World = tuple[pa.Table, pa.Table, pa.Table]

RENAMED = {
    "CPT4/xray": "CPT4/mri",
    "LOINC/culture": "LOINC/swab",
    "SNOMED/pregnancy": "AAA/first of all",
    "Visit/ER": "Visit/TELE",
    "Ward/1": "Ward/9",
    "Race/3": "Race/7",
    "Discharge/home": "Discharge/hospice",
    "mg/dL": "umol/L",
    "unclear": "CONTAMINATED",
}
_COLUMNS = ("code", "unit", "text_value")


def renamed(table: pa.Table) -> pa.Table:
    """The table with the other site's names."""
    for name in _COLUMNS:
        if name in table.column_names:
            values = [RENAMED.get(value, value) for value in table[name].to_pylist()]
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pa.array(values, table.schema.field(name).type))
    return table


def make_other_world(n_subjects: int, seed: int) -> World:
    """(events, observation, codes) of the other site."""
    events = renamed(make_world(n_subjects, seed)[0])
    order = ["subject_id", "available_time", "role", "table", "code", "unit", "numeric_value"]
    events = events.sort_by([(name, "ascending") for name in order])
    return events, make_observation(events), renamed(make_codes())
