from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from chronoward.evaluation import calibration as cal


def rows(risk: np.ndarray, seed: int = 0, weight: np.ndarray | None = None) -> cal.Rows:
    event = np.random.default_rng(seed).random(len(risk)) < risk
    ones = np.ones(len(risk)) if weight is None else weight
    return cal.Rows(event, risk, ones, np.arange(len(risk)), len(risk))


def risks(n: int, seed: int = 1) -> np.ndarray:
    return expit(np.random.default_rng(seed).normal(-1.5, 1.0, n))


def test_brier_and_log_loss_equal_scikit_learn() -> None:
    own = rows(risks(500))
    weight = np.random.default_rng(2).random(500)
    assert cal.brier(own.event, own.risk) == pytest.approx(
        metrics.brier_score_loss(own.event, own.risk), abs=1e-12
    )
    assert cal.log_loss(own.event, own.risk, weight) == pytest.approx(
        metrics.log_loss(own.event, own.risk, sample_weight=weight), abs=1e-12
    )


def test_slope_equals_an_unpenalized_logistic_regression() -> None:
    own = rows(risks(2000))
    x = logit(own.risk)[:, None]
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, own.event)
    assert cal.calibration_slope(own).value == pytest.approx(model.coef_[0, 0], abs=1e-5)


def test_a_perfect_model_is_calibrated_within_its_intervals() -> None:
    own = rows(risks(20_000))
    ratio = cal.observed_expected(own.event.astype(float), own)
    slope, intercept = cal.calibration_slope(own), cal.calibration_intercept(own)
    assert ratio.lower < 1 < ratio.upper
    assert slope.lower < 1 < slope.upper
    assert intercept.lower < 0 < intercept.upper


def test_too_extreme_predictions_have_a_slope_below_one() -> None:
    true = risks(20_000)
    extreme = expit(2 * logit(true))
    own = cal.Rows(
        np.random.default_rng(3).random(20_000) < true,
        extreme,
        np.ones(20_000),
        np.arange(20_000),
        20_000,
    )
    assert cal.calibration_slope(own).value == pytest.approx(0.5, abs=0.05)


def test_constant_predictions_have_no_slope() -> None:
    assert np.isnan(cal.calibration_slope(rows(np.full(300, 0.2))).value)


def test_error_of_a_perfect_model_is_its_null_floor() -> None:
    own = rows(risks(4000))
    event = own.event.astype(float)
    floor = cal.null_floor(own.risk, own.weight)
    assert cal.expected_calibration_error(event, own.risk, own.weight) < 2.5 * floor["ece"]
    assert cal.calibration_indices(event, own.risk, own.weight)["ici"] < 3 * floor["ici"]


def test_ici_sees_a_shift() -> None:
    own = rows(risks(20_000))
    shifted = np.clip(own.risk + 0.1, 0, 1)
    found = cal.calibration_indices(own.event.astype(float), shifted, own.weight)
    assert found["ici"] == pytest.approx(0.1, abs=0.02)
    assert found["e50"] <= found["e90"] <= found["emax"]


def test_bins_hold_enough_events_and_cover_all_rows() -> None:
    own = rows(risks(1000))
    bins = cal.reliability_bins(own, smallest=11)
    assert sum(b["n"] for b in bins) == 1000
    for one in bins:
        events = one["observed"] * one["n"]
        assert min(events, one["n"] - events) >= 11 - 1e-9
        assert one["lower"] < one["observed"] < one["upper"]


def test_separated_data_do_not_hang() -> None:
    design = np.column_stack([np.ones(4), [0.0, 1.0, 2.0, 3.0]])
    event = np.array([0.0, 0.0, 1.0, 1.0])
    assert cal.fit_logistic(design, event, np.ones(4), np.zeros(4)) is None


def test_natural_spline_is_linear_beyond_the_outer_knots() -> None:
    x = np.array([10.0, 11.0, 12.0])
    basis = cal.natural_spline(x, np.array([0.0, 1.0, 2.0, 3.0]))
    assert np.allclose(np.diff(basis, n=2, axis=0), 0.0)
