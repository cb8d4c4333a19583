"""Evaluates scored risks: incident, recurrent and all rows, each beside what is trivial to do.

Rows of the train split are never judged: `held_out` if any row lies there, else whatever is not
`train`. The first group a reader is shown is `incident` (nobody who had the outcome before), since
repeated diagnoses make every model look good.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward import __version__
from chronoward.errors import ConfigError, DataError
from chronoward.evaluation.baselines import TrainLabels, fit_and_score
from chronoward.evaluation.prediction_metrics import (
    FEW,
    curves,
    group_metrics,
    raw_counts,
    standing,
    subgroup_row,
    survival_report,
    truth_report,
)
from chronoward.evaluation.prediction_rows import (
    DETAIL,
    CohortTable,
    OutcomeTable,
    TaskRows,
    covariates_of,
    join_task,
    match,
    read_cohort,
    read_outcomes,
    read_predictions,
    read_truth,
)
from chronoward.evaluation.suppression import hide, partition
from chronoward.evaluation.threads import single_threaded
from chronoward.evaluation.verdict import general_limits, verdict
from chronoward.files import read_json
from chronoward.survival import horizon_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

AGE_BANDS = ((0, 18), (18, 40), (40, 65), (65, 80), (80, 200))
SILENCE_BANDS = ((0, 1), (1, 30), (30, 180), (180, 365), (365, 1e9))
GROUPS = ("incident", "recurrent", "all")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How predictions are judged."""

    n_replicates: int = 400
    """Bootstrap draws of subjects."""
    seed: int = 0
    """Key of the bootstrap streams."""

    def __post_init__(self) -> None:
        if self.n_replicates < 2:
            message = f"n_replicates must be at least 2, got {self.n_replicates}"
            raise ConfigError(message)


@single_threaded
def evaluate_predictions(
    score_dir: Path,
    cohort_dir: Path,
    truth: Path | None = None,
    *,
    config: EvaluationConfig | None = None,
) -> dict[str, Any]:
    """Judges scored risks against a cohort's outcomes.

    Args:
        score_dir: `predictions_detail.parquet`, or `<outcome>/<days>/predictions.parquet`.
        cohort_dir: folder of `chronoward cohort`; only outcomes are needed for labels.
        truth: truth.parquet of a simulation, or None.
        config: bootstrap settings.

    Returns:
        The predictions section of metrics.json.

    Raises:
        DataError: columns are missing, rows repeat, risks are not probabilities, or scored rows are
            not in the cohort.
    """
    score_dir, cohort_dir = Path(score_dir), Path(cohort_dir)
    settings = config or EvaluationConfig()
    cohort, outcomes = read_cohort(cohort_dir), read_outcomes(cohort_dir)
    known_truth = read_truth(Path(truth)) if truth is not None else {}
    about = _about(cohort_dir)
    run = _run(score_dir)
    exponents = (run.get("calibration") or {}).get("exponents", {})
    tasks = []
    for (name, days), table in read_predictions(score_dir).items():
        if outcomes and name not in outcomes:
            message = f"{score_dir / DETAIL}: outcome {name} is not in the cohort"
            raise DataError(message)
        rows = join_task(
            table, days, cohort, outcomes.get(name), known_truth.get((name, days)), score_dir
        )
        rows, splits = _evaluated(rows, cohort)
        baselines = _baselines(rows, cohort, outcomes.get(name), days)
        task = _task(rows, baselines, cohort, float(days), settings)
        titles = about.get("titles", {})
        task |= {"outcome": name, "horizon_days": days, "title": titles.get(name, name)}
        task |= {"evaluated_splits": splits}
        task["calibration"] = exponents.get(name, {}).get(str(days))
        task["verdict"] = verdict(task)
        _add_oracles(task, truth)
        tasks.append(task)
    return {
        "tasks": tasks,
        "not_when": general_limits(about),
        "cohort": about,
        "run": run,
        "chronoward_version": __version__,
        "intervals": "95 %, clustered by subject",
        "n_replicates": settings.n_replicates,
    }


def _about(cohort_dir: Path) -> dict[str, Any]:
    path = cohort_dir / "cohort.json"
    about: dict[str, Any] = dict(read_json(path)) if path.exists() else {}
    about.setdefault("death_ascertainment", "not recorded")
    return about


def _run(score_dir: Path) -> dict[str, Any]:
    path = score_dir / "score.json"
    run = dict(read_json(path)) if path.exists() else {}
    if run.get("calibration"):
        run["calibration"] = _exponents(run["calibration"])  # its counts are small cells
    return {key: hide(value) if key in ("rows", "labels") else value for key, value in run.items()}


def _exponents(calibration: dict[str, Any]) -> dict[str, Any]:
    """A calibration without what counts people: outcome → horizon → group → exponent."""
    levels = {
        outcome: {
            days: {group: level["exponent"] for group, level in groups.items()}
            for days, groups in horizons.items()
        }
        for outcome, horizons in calibration["levels"].items()
    }
    return {"split": calibration["split"], "exponents": levels}


def _evaluated(rows: TaskRows, cohort: CohortTable | None) -> tuple[TaskRows, list[str]]:
    """Rows that may be judged, and the splits they come from."""
    keep = rows.eligible
    splits: list[str] = []
    if cohort is not None:
        split = np.where(rows.cohort_row >= 0, cohort.split[rows.cohort_row], "")
        held_out = split == "held_out"
        keep = keep & (held_out if held_out.any() else split != "train")
        splits = sorted(set(split[keep].tolist()) - {""})
    if not keep.any():
        message = "no scored row is left: all are of the train split or not at risk"
        raise DataError(message)
    return rows.take(np.flatnonzero(keep)), splits


def _baselines(
    rows: TaskRows, cohort: CohortTable | None, outcome: OutcomeTable | None, days: int
) -> dict[str, dict[str, Floats]]:
    """Baseline risks of all rows by group: fitted on train rows of that group where it can be.

    A baseline fitted on recurrences as well would be far too high for people who never had it.
    """
    if cohort is None or outcome is None or (rows.cohort_row < 0).any():
        return {}
    place = match(outcome.keys, cohort.keys)
    is_train = (place >= 0) & (cohort.split[place] == "train")
    train = np.flatnonzero(is_train & (outcome.prior | outcome.at_risk))
    prior = outcome.prior[train]
    found: dict[str, dict[str, Floats]] = {}
    for group, kept in (("all", prior | True), ("incident", ~prior), ("recurrent", prior)):
        chosen = train[kept]
        if len(chosen):
            labels = horizon_labels(outcome.time[chosen], outcome.cause[chosen], float(days))
            found[group] = fit_and_score(
                covariates_of(cohort, place[chosen], outcome.prior[chosen]),
                TrainLabels(labels.event, labels.weight, outcome.keys.subject[chosen]),
                covariates_of(cohort, rows.cohort_row, rows.prior),
            )
        found[group] = found.get(group) or found.get("all", {})
    return found


def _add_oracles(task: dict[str, Any], truth: Path | None) -> None:
    """Adds AUROCs of oracle.json beside the truth, and the gain measured against its age × sex."""
    path = None if truth is None else Path(truth).parent / "oracle.json"
    if path is None or not path.exists() or not task["truth"]:
        return
    found = read_json(path).get(task["outcome"], {}).get(str(task["horizon_days"]))
    if not found:
        return
    task["truth"]["oracles"] = found
    own = task["truth"]["scores"]["model"]["auroc"]["value"]
    trivial, best = found.get("age_sex"), found.get("time_aware")
    if trivial is not None and best is not None and best > trivial:
        task["truth"]["gain_share_of_oracle"] = (own - trivial) / (best - trivial)


def _take(baselines: dict[str, Floats], rows: Ints) -> dict[str, Floats]:
    return {name: risk[rows] for name, risk in baselines.items()}


def _task(
    rows: TaskRows,
    baselines: dict[str, dict[str, Floats]],
    cohort: CohortTable | None,
    horizon: float,
    settings: EvaluationConfig,
) -> dict[str, Any]:
    groups = {
        "incident": np.flatnonzero(~rows.prior),
        "recurrent": np.flatnonzero(rows.prior),
        "all": np.arange(len(rows.risk)),
    }
    draws = {"n_replicates": settings.n_replicates, "seed": settings.seed}
    report: dict[str, Any] = {
        "estimator": rows.estimator,
        "groups": {},
        "baselines_fitted": sorted(baselines.get("all", {})),
        "monte_carlo": _monte_carlo(rows),
        "censoring_survival_at_horizon": rows.labels.censoring_survival,
        "n_truncated_weights": rows.labels.n_truncated,
    }
    for name, place in groups.items():
        report["groups"][name] = group_metrics(
            rows.take(place), _take(baselines.get(name, {}), place), **draws
        )
    _add_counts(report["groups"], {n: raw_counts(rows.take(i), horizon) for n, i in groups.items()})
    primary = "incident" if len(groups["incident"]) else "all"
    shown = rows.take(groups[primary])
    report |= {
        "primary_group": primary,
        **dict(zip(("status", "reason"), standing(shown), strict=True)),
    }
    report["truth"] = truth_report(
        shown, _take(baselines.get(primary, {}), groups[primary]), seed=settings.seed
    )
    report["subgroups"] = {} if cohort is None else _subgroups(shown, cohort, horizon)
    enough = report["status"] != FEW
    report["curves"] = curves(shown) if enough else None
    report["survival"] = survival_report(shown, horizon, seed=settings.seed) if enough else None
    return report


def _add_counts(groups: dict[str, Any], raw: dict[str, dict[str, int]]) -> None:
    """Adds counts in which no small cell shows, nor follows by subtraction."""
    for field in raw["all"]:
        total = raw["all"][field]
        parts = partition([raw[name][field] for name in ("incident", "recurrent")])
        shown = dict(zip(("incident", "recurrent"), parts, strict=True))
        # rows less events are a cell as well; rows less subjects are not
        rest = raw["all"]["n_rows"] - total if field not in ("n_rows", "n_subjects") else 0
        shown["all"] = partition([total, rest])[0]
        for name in GROUPS:
            groups[name].setdefault("counts", {})[field] = shown[name]


def _monte_carlo(rows: TaskRows) -> dict[str, Any]:
    """Sampling error of the risks and what the rollouts left undetermined."""
    error = rows.mc_se[np.isfinite(rows.mc_se)]
    rollouts = rows.n_rollouts[np.isfinite(rows.n_rollouts)]
    open_share = rows.undetermined[np.isfinite(rows.undetermined)]
    spread = float(np.std(rows.risk))
    return {
        "median_se": float(np.median(error)) if len(error) else None,
        "p90_se": float(np.quantile(error, 0.9)) if len(error) else None,
        "share_of_risk_variance": (
            float(np.square(error).mean()) / spread**2 if len(error) and spread > 0 else None
        ),
        "median_rollouts": float(np.median(rollouts)) if len(rollouts) else None,
        "mean_undetermined": float(open_share.mean()) if len(open_share) else None,
        "max_undetermined": float(open_share.max()) if len(open_share) else None,
    }


def _subgroups(rows: TaskRows, cohort: CohortTable, horizon: float) -> dict[str, Any]:
    inside = np.flatnonzero(rows.cohort_row >= 0)
    rows = rows.take(inside)
    place = rows.cohort_row
    age = _banded(cohort.age_years[place], AGE_BANDS, "years")
    sex = np.array([{"F": "women", "M": "men"}.get(s, "unknown") for s in cohort.sex[place]])
    kinds = {"sex": sex, "age": age}
    kinds["age and sex"] = np.array([f"{s}, {a}" for s, a in zip(sex, age, strict=True)])
    if np.isfinite(cohort.silence_days[place]).any():
        silence = _banded(cohort.silence_days[place], SILENCE_BANDS, "days")
        kinds["time since the last event"] = silence
    if cohort.calendar_year.max(initial=-1) > 0 and _has_real_years(cohort):
        kinds["calendar year"] = cohort.calendar_year[place].astype(str)
    return {kind: _partition(rows, labels, horizon) for kind, labels in kinds.items()}


def _has_real_years(cohort: CohortTable) -> bool:
    """Whether calendar years look like years of records (shifted dates lie in the 2100s)."""
    return bool((cohort.calendar_year < 2100).all())


def _banded(values: Floats, bands: tuple[tuple[float, float], ...], unit: str) -> NDArray[Any]:
    labels = np.full(len(values), "unknown", dtype=object)
    for low, high in bands:
        name = f"{low:g}+ {unit}" if high >= 200 and low >= 80 else f"{low:g}–{high - 1:g} {unit}"
        if high - low == 1:
            name = f"{low:g} {unit}"
        labels[(values >= low) & (values < high)] = name
    return labels


def _partition(rows: TaskRows, labels: NDArray[Any], horizon: float) -> list[dict[str, Any]]:
    """One row a label, counts suppressed together, in natural order."""
    names = sorted(set(labels.tolist()), key=_natural)
    parts = [rows.take(np.flatnonzero(labels == name)) for name in names]
    raw = [raw_counts(part, horizon) for part in parts]
    shown = {
        field: partition([counts[field] for counts in raw])
        for field in ("n_rows", "n_subjects", "n_events")
    }
    return [
        {
            "label": name,
            "counts": {field: cells[i] for field, cells in shown.items()},
            **subgroup_row(part),
        }
        for i, (name, part) in enumerate(zip(names, parts, strict=True))
    ]


def _natural(label: str) -> tuple[str, float]:
    """Sorts "men, 5-9" before "men, 10-14"."""
    head, _, tail = label.rpartition(", ")
    digits = "".join(c if c.isdigit() else " " for c in tail).split()
    return head, float(digits[0]) if digits else 1e9


def meds_dev_results(section: dict[str, Any], dataset: str, model: str) -> list[dict[str, Any]]:
    """The predictions section as MEDS-DEV result records, one a task with estimates.

    Args:
        section: what `evaluate_predictions` returned.
        dataset: name of the data set.
        model: name of the model.
    """
    records = []
    for task in section["tasks"]:
        group = task["groups"][task["primary_group"]]
        if "model" not in group:
            continue
        own = group["model"]
        result = {
            "roc_auc_score": own["auroc"]["value"],
            "average_precision_score": own["average_precision"]["value"],
            "brier_score": own["brier"]["value"],
            "calibration_error": own["ece"],
        }
        records.append(
            {
                "dataset": dataset,
                "task": f"{task['outcome']}/{task['horizon_days']}d",
                "model": model,
                "result": {"samples_equally_weighted": result},
                "version": section["chronoward_version"],
            }
        )
    return records
