"""What a model must beat: prevalence, age and sex, "had it before", a bag of codes.

All four are fitted on the cohort's train rows and scored on the evaluated ones; the caller fits
them for incident and recurrent rows apart. Labels censored before the horizon are left out and the
others weighted for it, in the fit as in the evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from chronoward.evaluation.calibration import log_loss, natural_spline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

BASELINES = ("prevalence", "age_sex", "had_it_before", "bag_of_codes")
SMALLEST_CODE_ROWS = 11
N_FOLDS = 3
PENALTIES = (0.003, 0.03, 0.3)


@dataclass(frozen=True)
class Covariates:
    """What baselines may look at, n rows: all of it known at the prediction time."""

    age_years: Floats
    sex: NDArray[Any]  # str
    prior_outcome: Bools
    codes: sparse.csr_array  # (n, n_codes) counts

    def take(self, rows: Ints) -> Covariates:
        """The same for some rows."""
        return Covariates(
            self.age_years[rows], self.sex[rows], self.prior_outcome[rows], self.codes[rows]
        )


@dataclass(frozen=True)
class TrainLabels:
    """Labels of the train rows: `weight` 0 where the outcome is unknown."""

    event: Bools
    weight: Floats
    subject: Ints


def _age_sex_design(covariates: Covariates, knots: Floats) -> Floats:
    age = np.nan_to_num(covariates.age_years, nan=float(knots[len(knots) // 2])) / 10.0
    spline = natural_spline(age, knots / 10.0)
    female = (covariates.sex == "F").astype(np.float64)
    male = (covariates.sex == "M").astype(np.float64)
    return np.column_stack([spline, female, male, spline * female[:, None]])


def _age_knots(age_years: Floats) -> Floats:
    known = age_years[np.isfinite(age_years)]
    if len(known) == 0:
        return np.array([30.0, 50.0, 70.0])
    knots = np.unique(np.quantile(known, [0.05, 0.35, 0.65, 0.95]))
    return knots if len(knots) >= 3 else float(knots.mean()) + np.array([-10.0, 0.0, 10.0])


def _standardize(train: Floats, other: Floats) -> tuple[Floats, Floats]:
    centre, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    return (train - centre) / spread, (other - centre) / spread


def _logistic(design: Any, labels: TrainLabels, penalty: float) -> LogisticRegression:
    model = LogisticRegression(C=penalty, max_iter=500, tol=1e-6)
    return model.fit(design, labels.event, sample_weight=labels.weight)


def _known(labels: TrainLabels) -> Ints:
    return np.flatnonzero(labels.weight > 0)


def _subset(labels: TrainLabels, rows: Ints) -> TrainLabels:
    return TrainLabels(labels.event[rows], labels.weight[rows], labels.subject[rows])


def _code_design(train: Covariates, other: Covariates) -> tuple[Any, Any]:
    """Log counts of codes seen in enough train rows, beside age, sex and the outcome's history."""
    seen = np.asarray((train.codes > 0).sum(axis=0)).ravel()
    kept = np.flatnonzero(seen >= SMALLEST_CODE_ROWS)
    knots = _age_knots(train.age_years)
    first, second = _standardize(_age_sex_design(train, knots), _age_sex_design(other, knots))

    def stack(covariates: Covariates, dense: Floats) -> Any:
        counts = sparse.csr_array(covariates.codes[:, kept], dtype=np.float64)
        counts.data = np.log1p(counts.data)
        prior = covariates.prior_outcome.astype(np.float64)[:, None]
        return sparse.csr_array(
            sparse.hstack([counts, sparse.csr_array(np.hstack([dense, prior]))])
        )

    return stack(train, first), stack(other, second)


def _best_penalty(design: Any, labels: TrainLabels) -> float:
    """Inner cross-validation by subject; the smallest log loss wins."""
    fold = np.unique(labels.subject, return_inverse=True)[1] % N_FOLDS
    losses = []
    for penalty in PENALTIES:
        total = 0.0
        for held in range(N_FOLDS):
            inside, outside = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
            event = labels.event
            if len(outside) == 0 or len(np.unique(event[inside])) < 2:
                continue
            model = _logistic(design[inside], _subset(labels, inside), penalty)
            risk = model.predict_proba(design[outside])[:, 1]
            weight = labels.weight[outside]
            total += log_loss(event[outside], risk, weight) * float(weight.sum())
        losses.append(total)
    return PENALTIES[int(np.argmin(losses))]


def fit_and_score(
    train: Covariates, labels: TrainLabels, evaluated: Covariates
) -> dict[str, Floats]:
    """Fits the baselines on train rows and scores the evaluated ones.

    Args:
        train: covariates of the train rows.
        labels: their labels.
        evaluated: covariates of the rows to score.

    Returns:
        Risks float64[m] by name; empty where the train rows hold one class only.
    """
    rows = _known(labels)
    train, labels = train.take(rows), _subset(labels, rows)
    if len(rows) == 0 or labels.event.all() or not labels.event.any():
        return {}
    n = len(evaluated.age_years)
    overall = float(np.average(labels.event, weights=labels.weight))
    knots = _age_knots(train.age_years)
    design, target = _standardize(_age_sex_design(train, knots), _age_sex_design(evaluated, knots))
    age_sex = _logistic(design, labels, 1.0).predict_proba(target)[:, 1]
    codes, code_target = _code_design(train, evaluated)
    model = _logistic(codes, labels, _best_penalty(codes, labels))
    return {
        "prevalence": np.full(n, overall),
        "age_sex": age_sex,
        "had_it_before": _by_history(train, labels, evaluated, overall),
        "bag_of_codes": model.predict_proba(code_target)[:, 1],
    }


def _by_history(
    train: Covariates, labels: TrainLabels, evaluated: Covariates, overall: float
) -> Floats:
    """Rate among those who had it before and those who had not, shrunk by one pseudo-row."""
    rates = []
    for had in (False, True):
        inside = train.prior_outcome == had
        weight = labels.weight[inside]
        hits = float((weight * labels.event[inside]).sum())
        rates.append((hits + overall) / (float(weight.sum()) + 1.0))
    return np.where(evaluated.prior_outcome, rates[1], rates[0])
