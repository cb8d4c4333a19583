from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.engine.toy import (
    DAY,
    DEATH,
    GAP,
    OUTCOME,
    START,
    exact_risk,
    toy_engine,
    toy_probabilities,
    toy_prompt,
)

from chronoward.engine import Rollout, SamplingParams
from chronoward.score.estimators import (
    N_CURVE,
    RowEstimate,
    combine,
    path_values,
    wanted_rollouts,
)
from chronoward.score.units import ScoreTask, ScoreUnit, score_unit

OUTCOME_IDS = np.array([OUTCOME], np.int32)
HORIZONS = np.array([2, 5], np.int64) * DAY


def estimate(
    estimator: str, n: int, *, p: np.ndarray | None = None, silent_min: int = 0, **task: object
) -> RowEstimate:
    """The toy subject's risks by 2 and 5 days from `n` rollouts."""
    params = SamplingParams(
        outcome_sets=(OUTCOME_IDS,), outcome_names=("toy",), mask_outcomes=estimator == "reach"
    )
    options = {"n_rollouts": n, "target_se": 0.01, "max_rollouts": 1000, **task}
    made = ScoreTask(estimator=estimator, params=params, horizons_min=HORIZONS, **options)
    engine = toy_engine(toy_probabilities() if p is None else p)
    prompt = toy_prompt(1, n_days=5, silent_min=silent_min)
    return score_unit(engine, ScoreUnit(made, [prompt]))[0][0]


@pytest.mark.parametrize("estimator", ["count", "scope", "reach"])
@pytest.mark.parametrize(("outcome", "death"), [(0.02, 0.03), (0.15, 0.2), (0.0005, 0.1)])
def test_estimates_equal_the_enumerated_risk(estimator: str, outcome: float, death: float) -> None:
    p = toy_probabilities(outcome, death)
    row = estimate(estimator, 4000, p=p)
    for h, days in enumerate((2, 5)):
        exact = exact_risk(p, days)
        assert abs(row.risk[h] - exact) <= 3 * row.mc_se[h]
        assert row.undetermined[h] == 0
        assert row.lower[h] == row.upper[h] == row.risk[h]


@pytest.mark.parametrize(("outcome", "death"), [(0.02, 0.03), (0.15, 0.2), (0.001, 0.0)])
def test_reach_never_varies_more_than_count(outcome: float, death: float) -> None:
    p = toy_probabilities(outcome, death)
    row = estimate("reach", 3000, p=p)
    for h, days in enumerate((2, 5)):
        exact = exact_risk(p, days)
        assert row.variance[h] <= exact * (1 - exact)


def test_reach_needs_few_rollouts_for_a_rare_outcome() -> None:
    p = toy_probabilities(0.0005, 0.02)
    exact = exact_risk(p, 5)
    assert exact <= 0.01
    row = estimate("reach", 2000, p=p)
    assert exact * (1 - exact) / row.variance[1] >= 10


def test_the_incidence_curve_rises_to_the_risk() -> None:
    for estimator in ("count", "scope", "reach"):
        row = estimate(estimator, 300)
        assert row.cif.shape == (2, N_CURVE)
        assert (np.diff(row.cif, axis=1) >= 0).all()
        assert row.cif[:, -1] == pytest.approx(row.risk)
        assert row.cif[1, 7] == pytest.approx(row.risk[0])  # 8/20 of five days are two days


def test_a_certain_outcome_has_risk_one() -> None:
    p = toy_probabilities()
    p[8] = 0  # after the visit's type only the outcome
    p[8, OUTCOME] = 1
    row = estimate("reach", 50, p=p)
    assert row.risk[1] == pytest.approx(1 - 0.03, abs=0.1)
    assert set(np.round(row.cif[1], 6)) >= {0.0}


def test_nothing_counts_before_time_at_risk() -> None:
    """In the silence no outcome is possible, so two silent days move the curve, not its height."""
    row = estimate("reach", 4000, silent_min=0)
    silent = estimate("reach", 4000, silent_min=DAY // 2)
    assert (silent.risk > 0).all()
    assert silent.risk[1] <= row.risk[1] + 4 * (row.mc_se[1] + silent.mc_se[1])


def path(status: str, end_day: int, p: float = 0.1, hit: bool = False) -> Rollout:
    """A path with a draw at day 1 (p) and a last token at `end_day`."""
    tokens = np.array([GAP, OUTCOME if hit else START, GAP], np.int32)
    days = np.array([1, 1, end_day], np.int32)
    return Rollout(
        subject_id=1, prediction_time_us=0, rollout=0, pool=0, status=status, token_id=tokens,
        time_min=days * DAY, log_p=np.zeros(3, np.float32), value_u=np.zeros(3),
        step_min=np.array([0, 1, 1], np.int32) * DAY,
        outcome_p=np.array([[0.9], [p], [0.0]], np.float32),
    )  # fmt: skip


def test_undetermined_paths_bound_the_estimate() -> None:
    paths = [path("deadline", 9), path("token_cap", 3), path("clock_cap", 3), path("death", 3)]
    for estimator, value in (("reach", 0.1), ("count", 0.0)):
        made = path_values(paths, estimator, 0, OUTCOME_IDS, 0, HORIZONS)
        row = combine(made, estimator)
        assert row.undetermined.tolist() == [0.0, 0.5]
        assert row.lower == pytest.approx([value, value])
        assert row.upper == pytest.approx([value, (2 + 2 * value) / 4])


def test_a_path_that_hit_is_determined() -> None:
    made = path_values([path("token_cap", 3, hit=True)], "count", 0, OUTCOME_IDS, 0, HORIZONS)
    assert made.curve[0, :, -1].tolist() == [1.0, 1.0]
    assert not made.undetermined.any()


def test_scope_sums_to_the_hit_and_clips_only_the_mean() -> None:
    made = path_values([path("deadline", 9, p=1.0)] * 3, "scope", 0, OUTCOME_IDS, 0, HORIZONS)
    assert made.curve[:, 0, -1].tolist() == [1.0, 1.0, 1.0]
    assert combine(made, "scope").risk.tolist() == [1.0, 1.0]
    one = path_values([path("deadline", 9, p=0.3, hit=True)], "scope", 0, OUTCOME_IDS, 0, HORIZONS)
    assert one.curve[0, 1, -1] == pytest.approx(0.3)


def value_by_hand(rollout: Rollout, estimator: str, start_min: int, minute: int) -> float:
    """One path's value by a minute, draw by draw."""
    hits = [
        int(t)
        for token, t in zip(rollout.token_id, rollout.time_min, strict=True)
        if token == OUTCOME and t > start_min
    ]
    if estimator == "count":
        return float(bool(hits) and hits[0] <= minute)
    free, total = 1.0, 0.0
    for i, (t, p) in enumerate(zip(rollout.step_min, rollout.outcome_p[:, 1], strict=True)):
        if start_min < t <= minute:
            free *= 1.0 - float(p)
            total += float(p)
        has_hit = i < len(rollout.token_id) and rollout.token_id[i] == OUTCOME
        if estimator == "scope" and has_hit and rollout.time_min[i] > start_min:
            break
    return total if estimator == "scope" else 1.0 - free


@given(st.data())
def test_paths_side_by_side_are_worth_what_each_is_draw_by_draw(data: st.DataObject) -> None:
    start_min = data.draw(st.integers(0, 2 * DAY))
    paths = []
    for _ in range(data.draw(st.integers(1, 5))):
        n = data.draw(st.integers(1, 12))
        clock = np.sort(data.draw(arrays(np.int32, n + 1, elements=st.integers(0, 7 * DAY))))
        n_tokens = data.draw(st.integers(n - 1, n))  # a draw with nothing left has no token
        tokens = data.draw(arrays(np.int32, n_tokens, elements=st.sampled_from([GAP, OUTCOME])))
        p = data.draw(arrays(np.float32, (n, 2), elements=st.floats(0, 0.875, width=32)))
        paths.append(
            replace(path("deadline", 9), token_id=tokens, time_min=clock[1:][:n_tokens],
                    step_min=clock[:-1], outcome_p=p)
        )  # fmt: skip
    for estimator in ("reach", "scope", "count"):
        found = path_values(paths, estimator, 1, OUTCOME_IDS, start_min, HORIZONS).curve
        for i, rollout in enumerate(paths):
            for h, horizon_min in enumerate(HORIZONS.tolist()):
                for point in (0, 7, N_CURVE - 1):
                    minute = start_min + horizon_min * (point + 1) // N_CURVE
                    by_hand = value_by_hand(rollout, estimator, start_min, minute)
                    assert found[i, h, point] == pytest.approx(by_hand, abs=1e-12)


def test_count_of_nothing_has_a_standard_error() -> None:
    made = path_values([path("deadline", 9)] * 20, "count", 0, OUTCOME_IDS, 0, HORIZONS)
    row = combine(made, "count")
    assert row.risk[0] == 0
    assert row.mc_se[0] == pytest.approx(np.sqrt(0.5 / 21 * (1 - 0.5 / 21) / 20))


def test_a_pilot_asks_for_what_the_standard_error_needs() -> None:
    row = estimate("reach", 500)
    n = wanted_rollouts([row], 0.01, least=8, most=10_000)
    assert n == int(np.ceil(row.variance.max() / 1e-4))
    assert wanted_rollouts([row], 0.5, least=8, most=100) == 8
    assert wanted_rollouts([row], 1e-6, least=8, most=100) == 100


def test_a_pilot_is_not_used_again() -> None:
    """The final batch has its own stream: with the pilot's N fixed, the same numbers come out."""
    free = estimate("reach", 0, n_rollouts=None, target_se=0.02)
    assert free.n_rollouts >= 8
    fixed = estimate("reach", free.n_rollouts)
    assert free.risk.tolist() == fixed.risk.tolist()


def test_death_competes() -> None:
    mortal = estimate("reach", 2000, p=toy_probabilities(0.05, 0.3)).risk[1]
    immortal = estimate("reach", 2000, p=toy_probabilities(0.05, 0.0)).risk[1]
    assert mortal < immortal
    assert exact_risk(toy_probabilities(0.05, 0.3), 5, outcome=OUTCOME) < exact_risk(
        toy_probabilities(0.05, 0.0), 5
    )
    assert DEATH not in OUTCOME_IDS
