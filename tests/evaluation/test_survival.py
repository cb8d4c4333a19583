from __future__ import annotations

import numpy as np
import pytest

from chronoward import survival as sv


def censored_clinic(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    risk = generator.random(n)
    onset = generator.exponential(1 / (0.0002 + 0.002 * risk))
    death = generator.exponential(2000.0, n)
    censor = generator.exponential(700.0, n)
    time = np.minimum(np.minimum(onset, death), censor)
    cause = np.where(time == onset, sv.OUTCOME, np.where(time == death, sv.DEATH, sv.CENSORED))
    true = (onset <= 365) & (onset <= death)
    return time, cause, risk, true


def test_without_censoring_incidence_is_a_share() -> None:
    time = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    cause = np.array([1, 2, 1, 1, 1])
    assert sv.aalen_johansen(time, cause, np.array([0.5, 3.0, 9.0])) == pytest.approx(
        [0.0, 0.4, 0.6]
    )


def test_aalen_johansen_by_hand() -> None:
    time = np.array([1.0, 2.0, 2.0, 3.0])
    cause = np.array([sv.OUTCOME, sv.CENSORED, sv.DEATH, sv.OUTCOME])
    # 1/4, then one of three dies, then the last one left has it: 1/4 + 3/4 * 2/3 * 1
    assert sv.aalen_johansen(time, cause, np.array([1.0, 3.0])) == pytest.approx([0.25, 0.75])


def test_weights_undo_censoring_where_dropping_rows_does_not() -> None:
    time, cause, _, true = censored_clinic(40_000, 0)
    labels = sv.horizon_labels(time, cause, 365.0)
    weighted = (labels.weight * labels.event).sum() / labels.weight.sum()
    dropped = labels.event[labels.known].mean()
    assert weighted == pytest.approx(true.mean(), abs=0.007)
    assert dropped > true.mean() + 0.01
    exact = sv.aalen_johansen(time, cause, np.array([365.0]))[0]
    assert exact == pytest.approx(true.mean(), abs=0.007)


def test_followed_to_the_horizon_is_known_and_nobody_lost_weighs_one() -> None:
    time, cause = np.array([365.0, 365.0, 20.0]), np.array([sv.CENSORED, sv.CENSORED, sv.OUTCOME])
    labels = sv.horizon_labels(time, cause, 365.0)
    assert labels.known.all()
    assert labels.weight.tolist() == [1.0, 1.0, 1.0]
    assert labels.event.tolist() == [False, False, True]


def test_concordance_without_censoring_is_the_share_of_ordered_pairs() -> None:
    time, cause = np.array([1.0, 2.0, 3.0]), np.full(3, sv.OUTCOME)
    assert sv.uno_c(time, cause, np.array([0.9, 0.2, 0.5]), 10.0) == pytest.approx(2 / 3)
    assert np.isnan(sv.uno_c(time, np.zeros(3, int), np.ones(3), 10.0))


def test_concordance_does_not_depend_on_censoring() -> None:
    generator = np.random.default_rng(1)
    risk = generator.random(3000)
    onset = generator.exponential(1 / (0.0002 + 0.002 * risk))
    light, heavy = (
        sv.uno_c(
            np.minimum(onset, censor),
            np.where(onset <= censor, sv.OUTCOME, sv.CENSORED),
            risk,
            365.0,
        )
        for censor in (np.full(3000, 400.0), generator.exponential(500.0, 3000))
    )
    assert heavy == pytest.approx(light, abs=0.02)


def test_whoever_died_stays_a_control() -> None:
    time, cause = np.array([5.0, 1.0]), np.array([sv.OUTCOME, sv.DEATH])
    assert sv.uno_c(time, cause, np.array([0.9, 0.1]), 10.0) == 1.0
