"""A source of five subjects, small enough to say every label by hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronoward.cohort import CohortConfig, build_cohort, parse_index
from chronoward.errors import ConfigError, DataError, StateError
from chronoward.files import read_json
from chronoward.schema import Role, code_schema, event_schema, observation_schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

HF = ("condition_occurrence", "SNOMED/84114007")
START = datetime(2010, 1, 1)


def _day(day: float) -> datetime:
    return START + timedelta(days=day)


@dataclass
class Source:
    """What build_cohort needs of PreparedEvents."""

    rows: list[dict[str, Any]]
    periods: list[tuple[int, float, float]]
    has_visits: bool = True
    calendar: str = "real"

    @property
    def report(self) -> dict[str, Any]:
        return {"death_ascertainment": "linked"}

    @property
    def n_subjects(self) -> int:
        return len({row["subject_id"] for row in self.rows})

    @property
    def codes(self) -> pa.Table:
        pairs = sorted({(row["table"], row["code"]) for row in self.rows} | {HF})
        return pa.table(
            {
                "table": [t for t, _ in pairs],
                "code": [c for _, c in pairs],
                "description": pa.nulls(len(pairs), pa.string()),
                "concept_id": [316139 if p == HF else 0 for p in pairs],
                "vocabulary_id": pa.nulls(len(pairs), pa.string()),
                "domain_id": pa.nulls(len(pairs), pa.string()),
                "concept_class_id": pa.nulls(len(pairs), pa.string()),
                "parent_codes": pa.array([[]] * len(pairs), pa.list_(pa.string())),
                "sex_specific": pa.nulls(len(pairs), pa.string()),
                "is_inpatient": [c == "Visit/IP" for _, c in pairs],
            }
        ).cast(code_schema())

    @property
    def observation(self) -> pa.Table:
        rows = [
            {"subject_id": s, "start_time": _day(a), "end_time": _day(b)}
            for s, a, b in self.periods
        ]
        return pa.Table.from_pylist(rows, observation_schema())

    def batches(self) -> Iterator[pa.Table]:
        rows = sorted(
            self.rows,
            key=lambda r: (r["subject_id"], r["available_time"] or datetime.min, r["role"]),
        )
        yield pa.Table.from_pylist(rows, event_schema())


def _events(subject_id: int, *events: tuple[Role, str, str, float | None, float | None]) -> list:
    born = [(Role.BIRTH, "person", "MEDS_BIRTH", -3652.425 * 5, None)]
    static = [(Role.SEX, "person", "Gender/F", None, None)]
    return [
        {
            "subject_id": subject_id,
            "time": None if day is None else _day(day),
            "available_time": None if day is None else _day(day),
            "role": int(role),
            "table": table,
            "code": code,
            "end_time": None if end is None else _day(end),
        }
        for role, table, code, day, end in [*born, *static, *events]
    ]


def _visit(day: float, code: str = "Visit/IP") -> tuple[Role, str, str, float, float]:
    return (Role.VISIT, "visit_occurrence", code, day, day + 2)


def _hf(day: float) -> tuple[Role, str, str, float, None]:
    return (Role.CODE, *HF, day, None)


def _source() -> Source:
    rows = [
        *_events(1, _visit(400), _hf(500)),  # new onset after 98 days
        *_events(2, _visit(400), _hf(100), _hf(450)),  # had it before
        *_events(3, _visit(400), (Role.DEATH, "death", "MEDS_DEATH", 600, None)),
        *_events(4, _visit(400)),  # lost to follow-up after 300 days
        *_events(5, _visit(100)),  # too early: washout
    ]
    periods = [(1, 0, 2000), (2, 0, 2000), (3, 0, 600), (4, 0, 702), (5, 0, 2000)]
    return Source(rows, periods)


def _splits(ids: NDArray[np.int64]) -> NDArray[np.str_]:
    return np.asarray(["train"] * len(ids))


def _build(out: Path, source: Source | None = None, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "index": "discharge",
        "outcomes": ("heart_failure",),
        "horizon_days": (365,),
    }
    config = CohortConfig(**{**settings, **changes})
    return build_cohort(source or _source(), out, config, split_of=_splits)  # type: ignore[arg-type]


def test_labels_censoring_and_prior_outcomes_are_right(tmp_path: Path) -> None:
    flow = _build(tmp_path / "c")
    labels = pq.read_table(tmp_path / "c" / "outcomes.parquet").to_pylist()
    seen = {
        row["subject_id"]: (
            row["event"],
            row["days_to_event"],
            row["prior_outcome"],
            row["at_risk"],
        )
        for row in labels
    }
    assert seen == {
        1: ("outcome", 98.0, False, True),
        2: ("outcome", 48.0, True, False),
        3: ("death", 198.0, False, True),
        4: ("censored", 300.0, False, True),
    }
    assert {key: flow[key] for key in ("candidates", "washout", "rows")} == {
        "candidates": 5,
        "washout": 1,
        "rows": 4,
    }
    assert flow["outcomes"]["heart_failure"] == {
        "prior_outcome": 1,
        "at_risk": 3,
        "365": {"events": 1, "deaths": 1, "censored": 1},
    }
    cohort = pq.read_table(tmp_path / "c" / "cohort.parquet")
    assert cohort["boolean_value"].to_pylist() == [True, True, False, None]


@pytest.mark.parametrize("risk_start_days", [0, 200])
def test_flow_steps_add_up(tmp_path: Path, risk_start_days: int) -> None:
    flow = _build(tmp_path / "c", risk_start_days=risk_start_days)
    steps = ("outside_observation", "washout", "not_alive", "no_time_at_risk", "rows")
    assert flow["candidates"] == sum(flow[step] for step in steps)


def test_an_outcome_before_the_time_at_risk_is_a_prior_one(tmp_path: Path) -> None:
    source = _source()
    source.rows += _events(6, _visit(400), _hf(410), _hf(700))[2:]
    source.rows += _events(7, _visit(400), _hf(460))[2:]
    source.periods += [(6, 0, 2000), (7, 0, 2000)]
    flow = _build(tmp_path / "c", source, risk_start_days=30)
    labels = pq.read_table(tmp_path / "c" / "outcomes.parquet").to_pylist()
    seen = {r["subject_id"]: (r["event"], r["days_to_event"], r["at_risk"]) for r in labels}
    assert seen[6] == ("outcome", 298.0, False)
    assert seen[7] == ("outcome", 58.0, True)
    assert flow["outcomes"]["heart_failure"]["prior_outcome"] == 2
    assert flow["no_time_at_risk"] == 0


def test_who_dies_or_leaves_before_the_time_at_risk_has_no_row(tmp_path: Path) -> None:
    flow = _build(tmp_path / "c", risk_start_days=250)  # 3 dies after 198 days
    assert (flow["no_time_at_risk"], flow["rows"]) == (1, 3)
    flow = _build(tmp_path / "d", risk_start_days=301)  # 4 leaves after 300
    assert (flow["no_time_at_risk"], flow["rows"]) == (2, 2)


def test_a_time_at_risk_that_starts_after_the_horizon_is_refused() -> None:
    with pytest.raises(ConfigError, match="time at risk"):
        CohortConfig(index="discharge", outcomes=("a",), horizon_days=(30, 365), risk_start_days=30)


def test_the_first_record_of_a_code_or_its_descendants_is_an_index(tmp_path: Path) -> None:
    named = _build(tmp_path / "a", index="first=heart_failure", washout_days=0)
    coded = _build(tmp_path / "b", index=f"code={HF[1]}", washout_days=0)
    assert named == coded
    a, b = (pq.read_table(tmp_path / name / "cohort.parquet") for name in "ab")
    assert a.equals(b)
    assert a["prediction_time"].to_pylist() == [_day(500), _day(100)]
    with pytest.raises(ConfigError, match="no events of code"):
        _build(tmp_path / "c", index="code=SNOMED/0")


def test_covariates_hold_only_what_was_available(tmp_path: Path) -> None:
    _build(tmp_path / "c")
    rows = pq.read_table(tmp_path / "c" / "covariates.parquet").to_pylist()
    names = read_json(tmp_path / "c" / "codes.json")
    bags = {
        r["subject_id"]: {
            names[i]: n for i, n in zip(r["code_index"], r["code_count"], strict=True)
        }
        for r in rows
    }
    assert bags[1] == {}
    assert bags[2] == {"condition_occurrence|SNOMED/84114007": 1}
    assert rows[0]["sex"] == "F"
    assert [row["silence_days"] for row in rows[:2]] == [0.0, 0.0]  # the visit has just ended
    assert rows[0]["age_years"] == pytest.approx(50 + 402 / 365.2425)


@pytest.mark.parametrize("index", ["random_visit", "age=51", "first=heart_failure", "discharge"])
def test_rows_do_not_depend_on_the_order_of_subjects(tmp_path: Path, index: str) -> None:
    forward, backward = _source(), _source()
    backward.rows.reverse()
    for name, source in (("a", forward), ("b", backward)):
        _build(tmp_path / name, source, index=index, washout_days=0)
    for file in ("cohort", "outcomes", "covariates"):
        a, b = (pq.read_table(tmp_path / name / f"{file}.parquet") for name in "ab")
        assert a.equals(b)


def test_a_source_without_visits_is_asked_at_its_moments(tmp_path: Path) -> None:
    source = _source()
    source.rows = [row for row in source.rows if row["role"] != Role.VISIT]
    source.has_visits = False
    source.periods = [(1, 0, 500), (2, 0, 450), (3, 0, 600), (4, 0, 702)]
    flow = _build(tmp_path / "c", source, index="random_visit", washout_days=0)
    # two subjects have a code, at the very end of their observation; one was never observed
    assert [flow[step] for step in ("subjects", "too_short", "no_visit_after")] == [5, 1, 2]
    assert flow["candidates"] == 2


def test_an_index_file_gives_its_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    times = pa.array([_day(450), _day(460)], pa.timestamp("us"))
    pq.write_table(pa.table({"subject_id": [1, 1], "prediction_time": times}), path)
    flow = _build(tmp_path / "c", index=f"file={path}")
    assert flow["rows"] == 2


@pytest.mark.parametrize(
    ("ids", "days", "message"),
    [([1, 99], [450, 450], "not in the source"), ([1, 1], [450, 450], "repeats")],
)
def test_a_faulty_index_file_is_refused(
    tmp_path: Path, ids: list[int], days: list[int], message: str
) -> None:
    path = tmp_path / "rows.parquet"
    times = pa.array([_day(d) for d in days], pa.timestamp("us"))
    pq.write_table(pa.table({"subject_id": ids, "prediction_time": times}), path)
    with pytest.raises(DataError, match=message):
        _build(tmp_path / "c", index=f"file={path}")


def test_an_output_folder_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(StateError, match="not empty"):
        _build(tmp_path)


def test_a_cohort_without_rows_says_where_they_went(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="washout"):
        _build(tmp_path / "c", washout_days=5000)


@pytest.mark.parametrize("text", ["age", "age=x", "first=", "birthday", "discharge=1"])
def test_an_unknown_index_rule_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="index rule"):
        parse_index(text)


def test_zero_horizons_are_refused() -> None:
    with pytest.raises(ConfigError, match="horizons"):
        CohortConfig(index="discharge", outcomes=("a",), horizon_days=(0,))
