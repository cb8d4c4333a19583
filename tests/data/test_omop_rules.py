from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronoward.data import IngestConfig, PreparedEvents, Rule, prepare, read_ledger
from chronoward.schema import Role

from .omop_rows import events_of, person, write_omop
from .trap_clinic import EXPECTED, TABLES, Outcome

if TYPE_CHECKING:
    from pathlib import Path

# Rules that an OMOP source under the default configuration cannot meet, or that are tested apart.
ELSEWHERE = {
    Rule.EXCLUDED_SUBJECT,
    Rule.MISSING_CODE,
    Rule.BIRTH_DUPLICATE,
    Rule.STATIC_DUPLICATE,
    Rule.UNMAPPED_DROPPED,
    Rule.MULTIPLE_TARGETS_MERGED,
    Rule.DETAIL_WITHOUT_VISIT,
    Rule.DISCHARGE_NOT_USED,
    Rule.MISSING_DETAIL_END,
    Rule.METADATA_NULLED,
}


@pytest.fixture(scope="module")
def trapped(tmp_path_factory: pytest.TempPathFactory) -> PreparedEvents:
    folder = tmp_path_factory.mktemp("traps")
    return prepare(write_omop(folder / "source", TABLES), folder / "work")


@pytest.fixture(scope="module")
def ledger(trapped: PreparedEvents) -> dict[tuple[str, str], list[Outcome]]:
    entries: dict[tuple[str, str], list[Outcome]] = {}
    for row in read_ledger(trapped.path / "ledger").to_pylist():
        outcome = (row["disposition"], row["rule"], row["changes"])
        entries.setdefault((row["table"], row["key"]), []).append(outcome)
    return entries


@pytest.fixture(scope="module")
def events(trapped: PreparedEvents) -> list[dict[str, Any]]:
    return [row for table in trapped.batches() for row in table.to_pylist()]


@pytest.mark.parametrize("key", EXPECTED, ids="-".join)
def test_a_trap_is_met_by_its_rule(
    ledger: dict[tuple[str, str], list[Outcome]], key: tuple[str, str]
) -> None:
    disposition, rule, changes = EXPECTED[key]
    ((found, found_rule, found_changes),) = ledger[key]
    assert (found, found_rule, sorted(found_changes)) == (disposition, rule, sorted(changes))


def test_what_is_no_trap_is_kept_unchanged(
    ledger: dict[tuple[str, str], list[Outcome]],
) -> None:
    others = {
        key: found
        for key, found in ledger.items()
        if key not in EXPECTED and key[0] != "death" and found != [("kept", None, [])]
    }
    assert others == {}


def test_every_rule_has_a_trap(trapped: PreparedEvents) -> None:
    assert {Rule(name) for name in trapped.report["rules"]} == set(Rule) - ELSEWHERE


def test_the_second_death_is_merged_into_the_first(
    ledger: dict[tuple[str, str], list[Outcome]],
) -> None:
    assert sorted(ledger["death", "2"], key=str) == [
        ("kept", None, ["death_date_only"]),
        ("merged", "death_duplicate", []),
    ]


def test_the_ledger_holds_every_record_of_every_table(trapped: PreparedEvents) -> None:
    source = trapped.path.parent / "source"
    connection = duckdb.connect()
    connection.register("ledger", read_ledger(trapped.path / "ledger"))
    keys = {name: next(iter(rows[0])) for name, rows in TABLES.items()}
    for name in set(TABLES) - {"concept", "concept_ancestor", "cdm_source"}:
        for first, second in (("s", "l"), ("l", "s")):
            n = connection.sql(
                f"WITH s AS (SELECT {keys[name]}::VARCHAR AS key FROM "
                f"read_csv('{source}/{name}.csv', all_varchar = true)), l AS "
                f"(SELECT key FROM ledger WHERE \"table\" = '{name}') "
                f"SELECT count(*) FROM {first} ANTI JOIN {second} USING (key)"
            ).fetchall()
            assert n == [(0,)], name


def test_the_sums_of_the_report_match_the_tables(trapped: PreparedEvents) -> None:
    report = trapped.report
    for name, counts in report["tables"].items():
        removed = sum(n for rule, n in counts.items() if rule in set(Rule) and Rule(rule).removes)
        assert counts["records"] == counts["kept"] + removed
        assert counts["records"] == len(TABLES[name])
    for rule, n in report["rules"].items():
        assert n == sum(counts.get(rule, 0) for counts in report["tables"].values())


def _of(events: list[dict[str, Any]], subject: int, *roles: Role) -> list[dict[str, Any]]:
    return [row for row in events if row["subject_id"] == subject and row["role"] in roles]


def test_visits_are_disjoint_and_hold_their_events(events: list[dict[str, Any]]) -> None:
    visits = {(r["subject_id"], r["visit_id"]): r for r in events if r["role"] == Role.VISIT}
    last: dict[int, tuple[int, datetime]] = {}
    for (subject, number), row in sorted(visits.items()):
        previous = last.get(subject, (-1, datetime(1, 1, 1)))
        assert number == previous[0] + 1
        assert row["time"] >= previous[1]
        last[subject] = (number, row["end_time"])
    for row in events:
        if row["role"] in (Role.CODE, Role.DETAIL, Role.DISCHARGE):
            home = visits[row["subject_id"], row["visit_id"]]
            assert home["time"] <= row["available_time"] <= home["end_time"]


def test_a_stay_starts_with_its_emergency_visit(events: list[dict[str, Any]]) -> None:
    (stay,) = _of(events, 8, Role.VISIT)
    assert (stay["code"], stay["time"]) == ("Visit/IP", datetime(2020, 2, 1, 10))
    (detail,) = _of(events, 8, Role.DETAIL)
    assert (detail["code"], detail["end_time"]) == ("Visit/ER", datetime(2020, 2, 1, 14))


def test_availability_follows_type_and_status(events: list[dict[str, Any]]) -> None:
    known = [row["available_time"] for row in _of(events, 10, Role.CODE)]
    assert known == [datetime(2020, 2, 1, 10, 1), datetime(2020, 2, 5, 13)]


def test_a_visit_without_end_ends_with_its_last_record(events: list[dict[str, Any]]) -> None:
    (row,) = _of(events, 11, Role.VISIT)
    assert row["end_time"] == datetime(2020, 2, 1, 15)


def test_a_long_visit_is_a_stay(events: list[dict[str, Any]]) -> None:
    assert [row["code"] for row in _of(events, 13, Role.VISIT)] == ["Visit/IP"]


def test_deaths_close_a_life(events: list[dict[str, Any]]) -> None:
    (row,) = _of(events, 2, Role.DEATH)
    assert row["time"] == datetime(2020, 6, 1, 23, 59, 59)
    (row,) = _of(events, 16, Role.DEATH)
    assert row["time"] == datetime(2020, 2, 5, 11)
    for subject in (2, 16):
        assert [r for r in events if r["subject_id"] == subject][-1]["role"] == Role.DEATH


def test_units_are_one_and_a_strange_one_stays_apart(events: list[dict[str, Any]]) -> None:
    labs = [row for row in _of(events, 1, Role.CODE) if row["table"] == "measurement"]
    by_time = {row["time"].minute: row for row in labs if row["time"].second == 0}
    converted = by_time[11]
    assert converted["unit"] == "mg/dL"
    assert converted["numeric_value"] == pytest.approx(99.1, abs=0.01)
    assert {row["unit"] for row in labs if row["code"] == "OMOP/3016723"} == {"mg/dL"}
    assert {row["unit"] for row in labs if row["code"] == "OMOP/3013682"} == {"mg/dL", None}


def test_drugs_are_ingredients(events: list[dict[str, Any]]) -> None:
    drugs = [row["code"] for row in _of(events, 1, Role.CODE) if row["table"] == "drug_exposure"]
    assert drugs == ["RxNorm/A", "RxNorm/A", "RxNorm/A", "RxNorm/B"]


def test_unmapped_codes_keep_their_source_value(events: list[dict[str, Any]]) -> None:
    assert "Source/X1" in {row["code"] for row in _of(events, 1, Role.CODE)}


def test_no_note_reaches_any_file(trapped: PreparedEvents) -> None:
    for path in trapped.path.rglob("*"):
        assert path.is_dir() or b"a secret" not in path.read_bytes()


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "prepared.json"
    }


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_permuted_rows_and_other_threads_give_the_same_bytes(
    trapped: PreparedEvents, tmp_path: Path, threads: int
) -> None:
    permuted = {
        name: sorted(rows, key=lambda row: hash((threads, str(row)))) if name != "death" else rows
        for name, rows in TABLES.items()
    }
    source = write_omop(tmp_path / "source", permuted)
    again = prepare(source, tmp_path / "work", threads=threads)
    assert _bytes_of(again.path) == _bytes_of(trapped.path)


def test_parquet_parts_and_any_letter_case_give_the_same_events(
    trapped: PreparedEvents, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for name in TABLES:
        csv = trapped.path.parent / "source" / f"{name}.csv"
        table = duckdb.sql(f"FROM read_csv('{csv}', all_varchar = true)").to_arrow_table()
        if name in ("person", "death", "cdm_source"):
            (source / f"{name}.csv").parent.mkdir(exist_ok=True)
            (source / f"{name.upper()}.CSV").write_bytes(csv.read_bytes())
            continue
        renamed = table.rename_columns([column.upper() for column in table.column_names])
        (source / name.upper()).mkdir(parents=True, exist_ok=True)
        for part in range(3):
            rows = renamed.take(pa.array(range(part, renamed.num_rows, 3), pa.int64()))
            pq.write_table(rows, source / name.upper() / f"part-{part}.parquet")
    again = prepare(source, tmp_path / "work")
    assert again.report == trapped.report
    assert events_of(again).equals(events_of(trapped))


def test_of_stays_with_one_end_an_emergency_visit_belongs_to_the_first(tmp_path: Path) -> None:
    """Of many subjects, as a join that takes any of them shows in large tables only."""
    n = 3000
    visits = []
    for subject in range(1, n + 1):
        stay = ("2020-01-01 10:00:00", "2020-01-04 10:00:00")
        moments = (stay, (stay[1], stay[1]), ("2020-01-01 06:00:00", "2020-01-01 09:00:00"))
        for place, (start, end) in enumerate(moments):
            visits.append(
                {
                    "visit_occurrence_id": 3 * subject + place,
                    "person_id": subject,
                    "visit_concept_id": 9203 if place == 2 else 9201,
                    "visit_start_date": start[:10],
                    "visit_start_datetime": start,
                    "visit_end_date": end[:10],
                    "visit_end_datetime": end,
                }
            )
    people = [person(subject) for subject in range(1, n + 1)]
    source = write_omop(tmp_path / "source", {"person": people, "visit_occurrence": visits})
    counts = prepare(source, tmp_path / "work").report["tables"]["visit_occurrence"]
    assert counts == {"records": 3 * n, "kept": 2 * n, "ed_linked": n}


def test_a_visit_without_a_type_that_starts_at_midnight_has_times_where_others_do(
    tmp_path: Path,
) -> None:
    """A record of a day of it is known at its end."""
    starts = ("2020-01-01 00:00:00", "2020-02-01 09:00:00", "2020-03-01 10:00:00")
    visits = [
        {
            "visit_occurrence_id": place,
            "person_id": 1,
            "visit_concept_id": 9201,
            "visit_start_date": start[:10],
            "visit_start_datetime": start,
            "visit_end_datetime": start[:8] + "03" + start[10:],
        }
        for place, start in enumerate(starts)
    ]
    day = {"condition_start_date": "2020-01-02", "visit_occurrence_id": 0}
    record = {"condition_occurrence_id": 1, "person_id": 1, "condition_concept_id": 5} | day
    tables = {"person": [person()], "visit_occurrence": visits, "condition_occurrence": [record]}
    config = IngestConfig(midnight_share=0.5)
    source = write_omop(tmp_path / "source", tables)
    rules = prepare(source, tmp_path / "work", config=config).report["rules"]
    assert rules["date_only_in_visit"] == 1
    assert "date_only_day" not in rules
