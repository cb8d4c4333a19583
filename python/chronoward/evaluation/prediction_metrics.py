"""One group of rows, judged: the model and the baselines side by side, on the same rows.

The rules of when to keep silent live here: nothing is estimated from fewer than 20 events or
non-events, a verdict on O/E needs 400 events, a calibration curve 200 of each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward.evaluation import calibration as cal
from chronoward.evaluation import discrimination as disc
from chronoward.evaluation.decision_curve import THRESHOLDS, net_benefit, treat_all
from chronoward.evaluation.intervals import Estimate, cluster_index, percentile_interval
from chronoward.evaluation.suppression import SMALLEST_CELL, count
from chronoward.survival import (
    DEATH,
    SMALLEST_CENSORING_SURVIVAL,
    aalen_johansen,
    uno_c,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from chronoward.evaluation.prediction_rows import TaskRows

    Floats = NDArray[np.float64]

FEWEST_EVENTS = 20
UNSTABLE_EVENTS = 100
CURVE_EVENTS = 200
VERDICT_EVENTS = 400
FEW = "insufficient follow-up"


def standing(rows: TaskRows) -> tuple[str, str]:
    """Whether rows suffice for an estimate.

    Returns:
        ("ok" | "unstable" | "insufficient follow-up", reason in a sentence).
    """
    known = rows.labels.known
    events = int(rows.labels.event[known].sum())
    others = int(known.sum()) - events
    survival = rows.labels.censoring_survival
    if events < FEWEST_EVENTS:
        return FEW, f"fewer than {FEWEST_EVENTS} events by the horizon; nothing is estimated"
    if others < FEWEST_EVENTS:
        return FEW, f"fewer than {FEWEST_EVENTS} rows known to be free of the outcome"
    if survival < 2 * SMALLEST_CENSORING_SURVIVAL:
        return FEW, "fewer than one row in ten is followed to the horizon"
    if min(events, others) < UNSTABLE_EVENTS:
        return "unstable", f"fewer than {UNSTABLE_EVENTS} events or non-events: read with care"
    return "ok", ""


def raw_counts(rows: TaskRows, horizon: float) -> dict[str, int]:
    """Rows, subjects, events, deaths before the outcome, and rows lost to follow-up."""
    known, event = rows.labels.known, rows.labels.event
    died = (rows.cause == DEATH) & (rows.time <= horizon)
    return {
        "n_rows": len(known),
        "n_subjects": len(np.unique(rows.keys.subject)),
        "n_events": int((event & known).sum()),
        "n_deaths": int((died & ~event).sum()),
        "n_lost": int((~known).sum()),
    }


def _calibration_rows(rows: TaskRows, risk: Floats) -> cal.Rows:
    known = np.flatnonzero(rows.labels.known)
    cluster, n_clusters = cluster_index(rows.keys.subject[known])
    labels = rows.labels
    return cal.Rows(labels.event[known], risk[known], labels.weight[known], cluster, n_clusters)


def _brief(rows: cal.Rows, *, n_replicates: int, seed: int) -> dict[str, Any]:
    """What is shown of every score, the baselines included."""
    event, risk, weight = rows.event, rows.risk, rows.weight
    area = disc.clustered_delong(event, risk, rows.cluster, rows.n_clusters, weight)
    precision = disc.average_precision_interval(
        event, risk, rows.cluster, rows.n_clusters, weight, n_replicates=n_replicates, seed=seed
    )
    return {
        "auroc": area.to_json(),
        "average_precision": precision.to_json(),
        "brier": cal.brier_interval(rows).to_json(),
        "log_loss": cal.log_loss(event, risk, weight),
        "observed_expected": cal.observed_expected(event.astype(np.float64), rows).to_json(),
    }


def _full(rows: cal.Rows, brief: dict[str, Any], mc_variance: float, seed: int) -> dict[str, Any]:
    """The model's own metrics, calibration in detail included."""
    event, risk, weight = rows.event.astype(np.float64), rows.risk, rows.weight
    prevalence = float(np.average(event, weights=weight))
    own_brier = brief["brier"]["value"]
    return {
        **brief,
        "prevalence": prevalence,
        "brier_without_sampling_noise": own_brier - mc_variance,
        "scaled_brier": 1.0 - own_brier / (prevalence * (1.0 - prevalence)),
        "calibration_intercept": cal.calibration_intercept(rows).to_json(),
        "calibration_slope": cal.calibration_slope(rows).to_json(),
        "ece": cal.expected_calibration_error(event, risk, weight),
        **cal.calibration_indices(event, risk, weight),
        "null_floor": cal.null_floor(risk, weight, seed=seed),
    }


def group_metrics(
    rows: TaskRows, baselines: Mapping[str, Floats], *, n_replicates: int = 400, seed: int = 0
) -> dict[str, Any]:
    """Metrics of one group of rows.

    Args:
        rows: the group.
        baselines: risks of the same rows by name.
        n_replicates: bootstrap draws.
        seed: key of the streams.

    Returns:
        status, reason, and, where there is enough, model, baselines and differences.
    """
    status, reason = standing(rows)
    report: dict[str, Any] = {"status": status, "reason": reason}
    if status == FEW:
        return report
    own = _calibration_rows(rows, rows.risk)
    known = rows.labels.known
    variance = float(np.nan_to_num(np.square(rows.mc_se[known]), nan=0.0).mean())
    brief = _brief(own, n_replicates=n_replicates, seed=seed)
    report["model"] = _full(own, brief, variance, seed)
    report["baselines"], report["differences"] = {}, {}
    for name, risk in baselines.items():
        other = _calibration_rows(rows, risk)
        report["baselines"][name] = _brief(other, n_replicates=n_replicates, seed=seed)
        gain = disc.clustered_delong_difference(
            own.event, (own.risk, other.risk), own.cluster, own.n_clusters, own.weight
        )
        report["differences"][name] = gain.to_json()
    return report


def curves(rows: TaskRows) -> dict[str, Any]:
    """ROC, precision-recall, calibration, histogram of risks and net benefit of one group."""
    own = _calibration_rows(rows, rows.risk)
    event, risk, weight = own.event, own.risk, own.weight
    false_rate, true_rate = disc.roc_points(event, risk, weight)
    recall, precision = disc.precision_recall_points(event, risk, weight)
    enough = recall * event.sum() >= SMALLEST_CELL  # the first points would show single rows
    recall, precision = recall[enough], precision[enough]
    grid = np.array(THRESHOLDS)
    prevalence = float(np.average(event, weights=weight))
    return {
        "roc": {"false_positive_rate": false_rate, "true_positive_rate": true_rate},
        "precision_recall": {"recall": recall, "precision": precision},
        "calibration": _calibration_curve(own),
        "histogram": _histogram(own),
        "decision_curve": {
            "threshold": grid,
            "model": net_benefit(event, risk, grid, weight),
            "treat_all": treat_all(prevalence, grid),
        },
    }


def _calibration_curve(rows: cal.Rows) -> dict[str, Any]:
    report: dict[str, Any] = {"bins": cal.reliability_bins(rows, smallest=SMALLEST_CELL)}
    events = int(rows.event.sum())
    if min(events, len(rows.event) - events) < CURVE_EVENTS:
        report["smooth"] = None
        report["reason"] = f"a smooth curve needs {CURVE_EVENTS} events and non-events"
        return report
    curve = cal.smooth_curve(rows.event.astype(np.float64), rows.risk, rows.weight)
    if curve is not None:
        order = np.argsort(rows.risk, kind="stable")
        place = order[np.linspace(0, len(order) - 1, 60).astype(int)]
        report["smooth"] = {"predicted": rows.risk[place], "observed": curve.fitted[place]}
    return report


def _histogram(rows: cal.Rows) -> dict[str, Any]:
    top = float(np.quantile(rows.risk, 0.995)) or 1.0
    clipped = np.minimum(rows.risk, min(1.0, top))
    for n_bins in (30, 20, 14, 10, 7, 5):
        edges = np.linspace(0.0, min(1.0, top), n_bins + 1)
        events = np.histogram(clipped[rows.event], edges)[0]
        # fewer bins until hardly an event hides in a bin too small to show
        if events[events >= SMALLEST_CELL].sum() >= 0.85 * events.sum():
            break
    both = {"event": events, "no_event": np.histogram(clipped[~rows.event], edges)[0]}
    shown = {name: [count(int(n)) for n in counts] for name, counts in both.items()}
    return {"edges": edges, **shown}


def subgroup_row(rows: TaskRows) -> dict[str, Any]:
    """AUROC and O/E of a subgroup, where it has enough events."""
    status, reason = standing(rows)
    if status == FEW:
        return {"status": status, "reason": reason}
    own = _calibration_rows(rows, rows.risk)
    area = disc.clustered_delong(own.event, own.risk, own.cluster, own.n_clusters, own.weight)
    ratio = cal.observed_expected(own.event.astype(np.float64), own)
    return {
        "status": status,
        "reason": reason,
        "auroc": area.to_json(),
        "observed_expected": ratio.to_json(),
    }


def survival_report(
    rows: TaskRows, horizon: float, *, n_replicates: int = 200, seed: int = 0
) -> dict[str, Any] | None:
    """Aalen-Johansen incidence with death competing against the mean risk; Uno's C.

    Args:
        rows: the group.
        horizon: days.
        n_replicates: bootstrap draws of subjects.
        seed: key of the stream.

    Returns:
        None where follow-up times are unknown.
    """
    if not np.isfinite(rows.time).all():
        return None
    grid = np.linspace(0.0, horizon, 25)
    at = np.array([horizon])
    observed = float(aalen_johansen(rows.time, rows.cause, at)[0])
    mean = float(rows.risk.mean())
    cluster, n_clusters = cluster_index(rows.keys.subject)
    generator = np.random.Generator(np.random.Philox(key=seed))
    order = np.argsort(cluster, kind="stable")
    bounds = np.searchsorted(cluster[order], np.arange(n_clusters + 1))
    ratios = []
    for _ in range(n_replicates):
        drawn = (generator.random(n_clusters) * n_clusters).astype(np.int64)
        lengths = bounds[drawn + 1] - bounds[drawn]
        starts = np.repeat(bounds[drawn] - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
        sample = order[starts + np.arange(int(lengths.sum()))]
        expected = float(rows.risk[sample].mean())
        incidence = float(aalen_johansen(rows.time[sample], rows.cause[sample], at)[0])
        ratios.append(incidence / expected if expected > 0 else math.nan)
    ratio = Estimate(math.nan) if mean <= 0 else Estimate(observed / mean)
    interval = percentile_interval(ratio.value, np.array(ratios), lower_bound=0.0)
    return {
        "horizon_days": horizon,
        "aalen_johansen": observed,
        "death_incidence": float(aalen_johansen(rows.time, rows.cause, at, of=DEATH)[0]),
        "mean_risk": mean,
        "observed_expected": interval.to_json(),
        "uno_c": uno_c(rows.time, rows.cause, rows.risk, horizon),
        "incidence": _incidence_by_risk(rows, grid),
    }


def _incidence_by_risk(rows: TaskRows, grid: Floats) -> dict[str, Any]:
    """Observed cumulative incidence in thirds of predicted risk, each third's mean risk beside."""
    edges = np.quantile(rows.risk, [1 / 3, 2 / 3])
    third = np.searchsorted(edges, rows.risk, side="right")
    groups = []
    for index, label in enumerate(("lowest third", "middle third", "highest third")):
        inside = third == index
        if int(inside.sum()) < FEWEST_EVENTS:
            continue
        curve = aalen_johansen(rows.time[inside], rows.cause[inside], grid)
        mean = float(rows.risk[inside].mean())
        groups.append({"label": label, "observed": curve, "mean_risk": mean})
    return {"days": grid, "groups": groups}


def truth_report(
    rows: TaskRows, baselines: Mapping[str, Floats], *, n_replicates: int = 200, seed: int = 0
) -> dict[str, Any] | None:
    """AUROC and O/E against known probabilities (a simulation); None without them.

    Args:
        rows: the group.
        baselines: risks of the same rows by name.
        n_replicates: bootstrap draws.
        seed: key of the stream.
    """
    with_truth = np.flatnonzero(np.isfinite(rows.probability))
    if len(with_truth) < FEWEST_EVENTS:
        return None
    probability = rows.probability[with_truth]
    cluster, n_clusters = cluster_index(rows.keys.subject[with_truth])
    report: dict[str, Any] = {
        "n_rows": count(len(with_truth)),
        "oracle_auroc": disc.truth_auroc(probability, probability),
        "scores": {},
    }
    for name, risk in {"model": rows.risk, **baselines}.items():
        own = risk[with_truth]
        ones = np.ones(len(own))
        judged = cal.Rows(ones > 0, own, ones, cluster, n_clusters)
        area = disc.truth_auroc_interval(
            probability, own, cluster, n_clusters, n_replicates=n_replicates, seed=seed
        )
        report["scores"][name] = {
            "auroc": area.to_json(),
            "observed_expected": cal.observed_expected(probability, judged).to_json(),
        }
    trivial = report["scores"].get("age_sex")
    if trivial:
        room = report["oracle_auroc"] - trivial["auroc"]["value"]
        gain = report["scores"]["model"]["auroc"]["value"] - trivial["auroc"]["value"]
        report["gain_share"] = gain / room if room > 0 else None
    return report
