"""Generated events become OMOP rows by the stated rules, and nothing contradicts anything."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import pytest
from tests.synthesize.event_tables import (
    at,
    code_map,
    demographics,
    events,
    lives,
    observation,
    row,
)

from chronoward.data import cdm
from chronoward.errors import LimitError
from chronoward.schema import Role
from chronoward.synthesize.omop_writer import omop_tables
from chronoward.synthesize.times import before_midnight

if TYPE_CHECKING:
    import pyarrow as pa


def _written() -> tuple[pa.Table, pa.Table]:
    events, periods = lives()
    return before_midnight(events, periods), periods


@pytest.fixture(scope="module")
def tables() -> dict[str, list[dict[str, Any]]]:
    return {name: table.to_pylist() for name, table in omop_tables(*_written(), code_map()).items()}


def test_every_clinical_table_has_all_columns_in_order() -> None:
    written = omop_tables(*_written(), code_map())
    assert tuple(written) == cdm.CLINICAL_TABLES
    for name, table in written.items():
        assert table.column_names == [f.column for f in cdm.fields(name)]


def test_keys_start_after_the_units_base_and_are_one_a_row() -> None:
    written = omop_tables(*_written(), code_map(), base=5000, key_type="BIGINT")
    for name, table in written.items():
        if name in ("person", "death"):
            continue
        keys = table[f"{name}_id"].to_pylist()
        assert keys == list(range(5001, 5001 + len(keys)))
        assert str(table.schema.field(f"{name}_id").type) == "int64"


def test_a_unit_with_more_rows_than_keys_is_refused() -> None:
    with pytest.raises(LimitError, match="more than the 2 keys of a unit"):
        omop_tables(*_written(), code_map(), stride=2)


def test_a_person_is_born_at_the_origin_and_says_synthetic(
    tables: dict[str, list[dict[str, Any]]],
) -> None:
    person = tables["person"][0]
    assert person["birth_datetime"] == datetime(1950, 6, 15)
    assert (person["year_of_birth"], person["month_of_birth"], person["day_of_birth"]) == (
        1950,
        6,
        15,
    )
    assert person["gender_concept_id"] == 8532
    assert person["race_concept_id"] == 8527
    assert person["ethnicity_concept_id"] == 0
    assert person["person_source_value"] == "synthetic-1"


def test_a_condition_in_the_last_moment_of_a_stay_is_a_billing_diagnosis_at_its_start(
    tables: dict[str, list[dict[str, Any]]],
) -> None:
    known, billed, local, *_ = tables["condition_occurrence"]
    assert (known["condition_type_concept_id"], billed["condition_type_concept_id"]) == (
        32817,
        32821,
    )
    assert known["condition_start_datetime"] == billed["condition_start_datetime"]
    assert billed["condition_start_datetime"] == at("2010-03-01 08:00")
    assert billed["condition_end_date"] == date(2010, 3, 4)
    assert (local["condition_concept_id"], local["condition_source_concept_id"]) == (0, 1569178)


def test_an_end_at_midnight_is_the_end_of_the_day_before(
    tables: dict[str, list[dict[str, Any]]],
) -> None:
    stay = tables["visit_occurrence"][0]
    assert stay["visit_end_datetime"] == datetime(2010, 3, 4, 23, 59, 59)
    assert tables["death"][0]["death_datetime"] == datetime(2010, 12, 31, 23, 59, 59)
    assert tables["visit_detail"][0]["visit_detail_end_datetime"] == stay["visit_end_datetime"]


def test_events_outside_visits_carry_no_visit(tables: dict[str, list[dict[str, Any]]]) -> None:
    assert [v["visit_concept_id"] for v in tables["visit_occurrence"]] == [9201, 9202]
    assert tables["drug_exposure"][2]["visit_occurrence_id"] is None
    assert tables["visit_occurrence"][1]["preceding_visit_occurrence_id"] == 1
    assert tables["visit_occurrence"][0]["discharged_to_concept_id"] == 581476


def test_a_drug_lasts_a_day_in_a_stay_else_thirty_cut_at_the_end_of_life(
    tables: dict[str, list[dict[str, Any]]],
) -> None:
    inside, outside, last = tables["drug_exposure"]
    assert [d["days_supply"] for d in (inside, outside, last)] == [1, 30, 12]
    assert [d["drug_type_concept_id"] for d in (inside, outside)] == [32817, 32838]
    assert last["drug_exposure_end_date"] == date(2010, 12, 31)


def test_a_code_goes_to_the_table_of_its_domain(tables: dict[str, list[dict[str, Any]]]) -> None:
    assert [o["observation_concept_id"] for o in tables["observation"]] == [4222303, 0, 0]
    local = tables["observation"][1]
    assert local["observation_source_concept_id"] == 2_000_000_123
    assert tables["observation"][2]["observation_source_value"] == "TRANSFER//ward"
    assert tables["measurement"][2]["measurement_source_value"] == "LAB//50912//mg"


def test_values_units_and_categories_are_written(tables: dict[str, list[dict[str, Any]]]) -> None:
    pressure, category, unknown = tables["measurement"]
    assert pressure["value_as_number"] == 120.1
    assert (pressure["unit_concept_id"], pressure["unit_source_value"]) == (8876, "mm[Hg]")
    assert (category["value_as_concept_id"], category["value_source_value"]) == (9191, "POS")
    assert unknown["unit_concept_id"] is None


def test_an_observation_period_ends_at_death(tables: dict[str, list[dict[str, Any]]]) -> None:
    first, second = tables["observation_period"]
    assert first["observation_period_end_date"] == date(2010, 12, 31)
    assert second["observation_period_end_date"] == date(2010, 5, 2)


def test_the_same_unit_gives_the_same_tables() -> None:
    assert omop_tables(*_written(), code_map()) == omop_tables(*_written(), code_map())


def _exposures(days: list[tuple[str, str]]) -> tuple[pa.Table, pa.Table]:
    """One subject with a stay a span, and in it one condition known at the start."""
    rows = demographics(1, "1950-01-01")
    for i, (start, end) in enumerate(days):
        span = {"visit_id": i, "end_time": at(end)}
        rows.append(row(Role.VISIT, start, "visit_occurrence", "Visit/OP", **span))
        rows.append(row(Role.CODE, start, "condition_occurrence", "SNOMED/84114007", visit_id=i))
    return events(rows), observation([(1, days[0][0], "2015-01-01")])


@pytest.mark.parametrize(("second", "eras"), [("2010-01-31", 1), ("2010-02-01", 2)])
def test_eras_join_gaps_of_thirty_days(second: str, eras: int) -> None:
    written = omop_tables(*_exposures([("2010-01-01", "2010-01-01"), (second, second)]), code_map())
    assert written["condition_era"].num_rows == eras
    assert sum(written["condition_era"]["condition_occurrence_count"].to_pylist()) == 2


def test_a_death_at_the_very_start_stays_where_it_is() -> None:
    rows = [
        *demographics(1, "1950-01-01"),
        row(Role.DEATH, "2010-01-02 00:00", "death", "MEDS_DEATH"),
    ]
    periods = observation([(1, "2010-01-02 00:00", "2010-01-02 00:00")])
    written = omop_tables(before_midnight(events(rows), periods), periods, code_map())
    period = written["observation_period"].to_pylist()[0]
    assert period["observation_period_start_date"] == date(2010, 1, 2)
    assert period["observation_period_end_date"] == date(2010, 1, 2)
    assert written["death"]["death_date"].to_pylist() == [date(2010, 1, 2)]
