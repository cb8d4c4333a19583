from __future__ import annotations

import numpy as np
import pytest

from chronoward.cohort.batch import US_PER_DAY
from chronoward.cohort.random_visit import Observation, Visits, random_visit

DAY = US_PER_DAY
SUBJECTS = np.arange(100, 400, dtype=np.int64)


def _periods(end_day: int = 2000, start_day: int = 0) -> Observation:
    n = len(SUBJECTS)
    return Observation(SUBJECTS, np.full(n, start_day * DAY), np.full(n, end_day * DAY))


def _visits(seed: int, low: int, high: int) -> Visits:
    rng = np.random.default_rng(seed)
    subject = np.sort(rng.integers(0, len(SUBJECTS), 3000))
    start = rng.integers(low * 24, high * 24, 3000) * (DAY // 24)
    return Visits(subject, start, start + rng.integers(0, 240, 3000) * (DAY // 24))


def _join(a: Visits, b: Visits) -> Visits:
    return Visits(
        np.r_[a.subject, b.subject], np.r_[a.start_us, b.start_us], np.r_[a.end_us, b.end_us]
    )


def _drawn(
    visits: Visits, periods: Observation, *, washout_days: int = 365, seed: int = 1
) -> dict[int, int]:
    subject, time_us, _ = random_visit(
        SUBJECTS, visits, periods, washout_days=washout_days, seed=seed
    )
    return dict(zip(subject.tolist(), time_us.tolist(), strict=True))


def test_later_visits_never_change_an_earlier_choice() -> None:
    early = _visits(0, 0, 1500)
    before = _drawn(early, _periods())
    after = _drawn(_join(early, _visits(1, 1520, 2000)), _periods())
    assert before
    assert {subject: after[subject] for subject in before} == before
    assert len(after) > len(before)  # who had no visit from the drawn day on may have one now


def test_the_index_is_a_visit_that_starts_after_the_washout() -> None:
    visits = _visits(2, 0, 2000)
    for subject, time_us in _drawn(visits, _periods()).items():
        mine = (visits.subject == subject) & (visits.end_us == time_us)
        assert visits.start_us[mine].max() >= 365 * DAY


def test_the_days_are_drawn_uniformly() -> None:
    # a visit a day, so that the index is the drawn day itself
    n = len(SUBJECTS)
    subject = np.repeat(np.arange(n), 101)
    start = np.tile(np.arange(100, 201) * DAY, n)
    drawn = _drawn(Visits(subject, start, start), _periods(200), washout_days=100)
    days = np.asarray(list(drawn.values())) // DAY - 100
    assert len(days) == n
    assert days.min() >= 0
    assert days.max() <= 100
    assert np.abs(np.quantile(days, [0.25, 0.5, 0.75]) - [25, 50, 75]).max() < 10


def test_several_periods_share_the_draw_by_their_length() -> None:
    n = len(SUBJECTS)
    periods = Observation(
        np.repeat(SUBJECTS, 2),
        np.tile([0, 1000 * DAY], n),
        np.tile([129 * DAY, 1069 * DAY], n),
    )
    subject = np.repeat(np.arange(n), 1070)
    start = np.tile(np.arange(1070) * DAY, n)
    visits = Visits(subject, start, start)
    # a washout of 100 days leaves 30 days of the first period and none of the second
    days = np.asarray(list(_drawn(visits, periods, washout_days=100).values())) // DAY
    assert ((days >= 100) & (days < 130)).all()
    second = np.asarray(list(_drawn(visits, periods, washout_days=0).values())) // DAY >= 1000
    assert second.mean() == pytest.approx(70 / 200, abs=0.08)


def test_everybody_is_accounted_for() -> None:
    periods = _periods()
    periods.end_us[:40] = 364 * DAY
    subject, _, left_out = random_visit(
        SUBJECTS, _visits(3, 0, 900), periods, washout_days=365, seed=0
    )
    assert left_out["too_short"] == 40
    assert len(subject) + sum(left_out.values()) == len(SUBJECTS)
    nobody = np.zeros(0, np.int64)
    _, _, none = random_visit(
        SUBJECTS, Visits(nobody, nobody, nobody), _periods(), washout_days=0, seed=0
    )
    assert none == {"too_short": 0, "no_visit_after": len(SUBJECTS)}


def test_a_subject_draws_the_same_in_any_company() -> None:
    visits, periods = _visits(4, 0, 2000), _periods()
    drawn = _drawn(visits, periods, washout_days=0, seed=5)
    subject = next(iter(drawn))
    alone = visits.subject == subject
    own = Visits(visits.subject[alone] * 0, visits.start_us[alone], visits.end_us[alone])
    ids = SUBJECTS[subject : subject + 1]
    _, time_us, _ = random_visit(ids, own, periods, washout_days=0, seed=5)
    assert time_us.tolist() == [drawn[subject]]
