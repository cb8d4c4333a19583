"""Visits mended in C++ are those of the SQL, on random visits full of overlaps and ties."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from chronoward import _core
from chronoward.data import visits
from chronoward.data.config import IngestConfig
from chronoward.data.omop_subjects import day_end
from chronoward.data.rules import CHANGING, REMOVING, Rule
from chronoward.data.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path

N_SUBJECTS = 400
CONFIG = IngestConfig()
AS_RECORDED = IngestConfig(merge_visits=False)
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
NULL_US = -(2**63)
EPOCH_DAYS = 18_000
CONCEPTS = (9201, 9203, 9202, 581478)  # inpatient, emergency, outpatient, ambulance
CLASSES = {9201: 1, 9203: 2}
FATES = [None, Rule.VISIT_MERGED, Rule.ED_LINKED, Rule.OUTPATIENT_IN_STAY]
CHANGES = [Rule.VISIT_EXTENDED, Rule.VISIT_INPATIENT_BY_LENGTH, Rule.VISIT_OVERLAP_CLAMPED]


def _moment(rng: np.random.Generator, n: int, days: int = 6) -> np.ndarray:
    hours = rng.choice([0, 6, 12, 18, 23], n)
    return (EPOCH_DAYS + rng.integers(0, days, n)) * DAY_US + hours * HOUR_US


def _timestamps(us: np.ndarray, known: np.ndarray) -> pa.Array:
    return pa.array(us, pa.int64(), mask=~known).cast(pa.timestamp("us"))


def _fill(work: Workspace, seed: int) -> None:
    """The tables that mending reads: subjects, visits, and records linked to them."""
    rng = np.random.default_rng(seed)
    n = 5 * N_SUBJECTS
    subject = np.sort(rng.integers(0, N_SUBJECTS, n))
    start = _moment(rng, n)
    is_date, ends_date = rng.random(n) < 0.2, rng.random(n) < 0.2
    length = rng.choice(
        [-6, 0, 1, 6, 12, 24, 30, 72], n, p=[0.05, 0.1, 0.2, 0.2, 0.2, 0.1, 0.1, 0.05]
    )
    finish = start + length * HOUR_US
    has_end = rng.random(n) < 0.85
    day = start // DAY_US * DAY_US
    end_day = finish // DAY_US * DAY_US
    rows = pa.table(
        {
            "tbl": pa.array(np.zeros(n), pa.uint16()),
            "key": [str(i) for i in range(n)],
            "ref": rng.permutation(n),
            "subject_id": subject,
            "concept": rng.choice(CONCEPTS, n),
            "code": pa.nulls(n, pa.string()),
            "moment": _timestamps(start, ~is_date),
            "day": _timestamps(day, np.ones(n, bool)),
            "start_bad": np.zeros(n, bool),
            "end_at": _timestamps(finish, has_end & ~ends_date),
            "end_day": _timestamps(end_day, has_end),
            "end_bad": np.zeros(n, bool),
            "type": np.zeros(n, np.int64),
            "discharge": rng.choice([0, 8536, 8863, 8717], n),
            "discharge_code": pa.nulls(n, pa.string()),
        }
    )
    work.run(f"CREATE TABLE visit_stage ({visits.VISIT_COLUMNS})")
    work.add_rows("visit_rows", rows)
    work.run("INSERT INTO visit_stage SELECT * FROM visit_rows")
    who = np.arange(N_SUBJECTS)
    death = _moment(rng, N_SUBJECTS, 8)
    work.add_rows(
        "subject",
        pa.table(
            {
                "subject_id": who,
                "birth": _timestamps(np.zeros(N_SUBJECTS, np.int64), np.ones(N_SUBJECTS, bool)),
                "death": _timestamps(death, rng.random(N_SUBJECTS) < 0.3),
            }
        ),
    )
    chosen = rng.integers(0, n, 4 * n)
    offset = rng.choice([-30, -12, 0, 2, 8, 20, 40], 4 * n) * HOUR_US
    time = start[chosen] + offset
    is_day = rng.random(4 * n) < 0.3
    time = np.where(is_day, time // DAY_US * DAY_US, time)
    work.add_rows(
        "record",
        pa.table(
            {
                "rid": np.arange(4 * n),
                "subject_id": subject[chosen],
                "visit_ref": rows["ref"].to_numpy()[chosen],
                "time": _timestamps(time, np.ones(4 * n, bool)),
                "date_only": is_day,
                "gone": pa.array(np.zeros(4 * n), pa.uint8()),
            }
        ),
    )
    work.run("CREATE TABLE death_record (subject_id BIGINT, gone UTINYINT, time TIMESTAMP)")


def _find_extents(work: Workspace) -> None:
    """The last times of each visit's records (`visits.extend_visits`)."""
    work.run(
        f"""CREATE TABLE visit_extent AS SELECT r.visit_ref AS ref,
          max(CASE WHEN r.date_only THEN CASE WHEN r.time > date_trunc('day', v.start)
              THEN {day_end("r.time")} END ELSE r.time END) AS last_any,
          max(r.time) FILTER (NOT r.date_only AND NOT v.end_only AND r.time > v.finish
              AND date_trunc('day', r.time) = date_trunc('day', v.finish)) AS last_same_day
        FROM record r JOIN visit_lived v ON r.visit_ref = v.ref AND r.subject_id = v.subject_id
        WHERE r.gone = 0 AND v.gone = 0 GROUP BY r.visit_ref"""
    )


def _us(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.timestamp("us")).cast(pa.int64()).fill_null(NULL_US).to_numpy()


def _by_core(
    lived: pa.Table, records: pa.Table, death: pa.Table, config: IngestConfig
) -> dict[str, Any]:
    """`lived` and `records` in the order of subjects; every subject in `death`."""
    n_subjects = len(death)
    row_of = {ref: i for i, ref in enumerate(lived["ref"].to_pylist())}
    offsets, record_offsets = (
        np.searchsorted(t["subject_id"].to_numpy(), np.arange(n_subjects + 1)).astype(np.int64)
        for t in (lived, records)
    )

    def flags(values: Any) -> np.ndarray:
        return np.asarray(values, np.uint8)

    concept = lived["concept"].to_pylist()
    return _core.mend_visits(
        visit_offsets=offsets,
        start=_us(lived["start"]),
        finish=_us(lived["finish"]),
        order=np.argsort(np.argsort(lived["ref"].to_numpy())).astype(np.int32),
        source_class=flags([CLASSES.get(c, 3) for c in concept]),
        is_start_date=flags(lived["start_only"].to_pylist()),
        is_end_date=flags(lived["end_only"].to_pylist()),
        is_gone=flags([gone != 0 for gone in lived["gone"].to_pylist()]),
        has_discharge=flags([d > 0 for d in lived["discharge"].to_pylist()]),
        death=_us(death["death"]),
        record_offsets=record_offsets,
        record_visit=np.array([row_of[r] for r in records["visit_ref"].to_pylist()], np.int64),
        record_time=_us(records["time"]),
        record_is_date=flags(records["date_only"].to_pylist()),
        inpatient_us=CONFIG.inpatient_hours * HOUR_US,
        ed_link_us=CONFIG.ed_link_hours * HOUR_US,
        merges=config.merge_visits,
    )


@pytest.mark.parametrize(
    ("seed", "config"), [*((seed, CONFIG) for seed in range(5)), (5, AS_RECORDED), (6, AS_RECORDED)]
)
def test_visits_mended_by_the_core_are_those_of_the_sql(
    tmp_path: Path, seed: int, config: IngestConfig
) -> None:
    work = Workspace(tmp_path, threads=1, memory_limit="1GB")
    try:
        _fill(work, seed)
        visits.place_visits(work, config, "WHEN p.subject_id IS NULL THEN 1::UTINYINT")
        visits.find_discharge_deaths(work)
        visits.settle_after_death(work, "false")
        lived = work.table("SELECT * FROM visit_lived ORDER BY subject_id, ref, key")
        records = work.table("SELECT * FROM record ORDER BY subject_id, rid")
        death = work.table("SELECT * FROM subject ORDER BY subject_id")
        _find_extents(work)
        visits.extend_visits(work, config)
        visits.merge_visits(work, config)
        visits.absorb_visits(work, config)
        visits.finish_visits(work, config)
        expected = work.table("SELECT * FROM visit ORDER BY vid").to_pylist()
        mapped = dict(work.rows("SELECT ref, vid FROM visit_map"))
        settled = {
            int(k): (g, c) for k, g, c in work.rows("SELECT key, gone, changes FROM visit_record")
        }
        linked = work.rows(
            "SELECT e.vid, v.vid, greatest(e.start, v.start), "
            "greatest(least(e.finish, v.finish), e.start, v.start) "
            "FROM visit_emergency e JOIN visit v ON v.head = e.home"
        )
    finally:
        work.close()
    found = _by_core(lived, records, death, config)
    refs = lived["ref"].to_pylist()
    discharges = lived["discharge"].to_pylist()
    concepts = lived["concept"].to_pylist()
    assert len(found["start"]) == len(expected) > N_SUBJECTS
    starts, finishes = (
        pa.array(found[name]).cast(pa.timestamp("us")).to_pylist() for name in ("start", "finish")
    )
    for i, visit in enumerate(expected):
        head, leaving = int(found["head"][i]), int(found["discharge"][i])
        assert refs[head] == visit["head"]
        assert concepts[head] == visit["concept"]
        assert (starts[i], finishes[i]) == (visit["start"], visit["finish"])
        assert found["visit_class"][i] == visit["class"]
        for name, flag in (("timed", "is_timed"), ("by_length", "is_by_length")):
            assert bool(found[flag][i]) == visit[name]
        assert bool(found["is_clamped"][i]) == visit["is_clamped"]
        assert (discharges[leaving] if leaving >= 0 else None) == visit["discharge"]
    seen = set()
    changes = lived["changes"].to_pylist()
    for i, key in enumerate(lived["key"].to_pylist()):
        gone, bits = settled[int(key)]
        fate = int(found["fate"][i])
        seen.add(fate)
        if fate < len(FATES):
            rule = FATES[fate]
            assert gone == (0 if rule is None else REMOVING.index(rule) + 1)
            assert mapped[refs[i]] - 1 == found["visit_of"][i]
        else:
            assert gone == lived["gone"][i].as_py() != 0
            assert found["visit_of"][i] == -1
        mine = sum(
            1 << CHANGING.index(rule)
            for bit, rule in enumerate(CHANGES)
            if int(found["changes"][i]) >> bit & 1
        )
        assert bits == ((changes[i] | mine) if gone == 0 else 0)
    assert seen == ({0, 1, 2, 3, 4} if config.merge_visits else {0, 4})
    details = {
        (refs[h], int(v) + 1, s, f)
        for h, v, s, f in zip(
            found["detail_head"],
            found["detail_visit"],
            pa.array(found["detail_start"]).cast(pa.timestamp("us")).to_pylist(),
            pa.array(found["detail_finish"]).cast(pa.timestamp("us")).to_pylist(),
            strict=True,
        )
    }
    assert details == set(linked)
    assert len(details) > 10 if config.merge_visits else not details
