"""summary.json: the five numbers that matter, by name, and how long each step took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chronoward.evaluation.sections import read_metrics
from chronoward.files import read_json

if TYPE_CHECKING:
    from pathlib import Path


def summarize(out: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """The summary of a demo folder.

    Args:
        out: the demo folder.
        seconds: wall seconds by step.

    Returns:
        `auroc` and `observed_over_expected` (None where events or follow-up are too few; `question`
        says of what), `undetermined_share`, `prevalence_r2`, `omop_hard_violations`.
    """
    metrics = read_metrics(out / "evaluation")
    tasks = metrics["predictions"]["tasks"]
    task = max(tasks, key=_events)
    model = task["groups"][task["primary_group"]].get("model", {})
    ledger = read_json(out / "tokens" / "ingest_report.json")
    return {
        "schema": 1,
        "question": {
            "outcome": task["outcome"],
            "horizon_days": task["horizon_days"],
            "verdict": task["verdict"]["headline"],
        },
        "auroc": model.get("auroc", {}).get("value"),
        "observed_over_expected": model.get("oe", {}).get("value"),
        "undetermined_share": task["monte_carlo"]["mean_undetermined"],
        "prevalence_r2": _synthetic(metrics, "prevalence_r2"),
        "omop_hard_violations": metrics["omop"]["hard_violations"],
        "source_records": sum(int(t["records"]) for t in ledger["tables"].values()),
        "seconds": seconds,
    }


def _events(task: dict[str, Any]) -> int:
    counts = task["groups"][task["primary_group"]]["counts"]
    events = counts.get("n_events")
    return events if isinstance(events, int) else 0


def _synthetic(metrics: dict[str, Any], name: str) -> float | None:
    for metric in metrics.get("synthetic", {}).get("metrics", []):
        if metric["name"] == name and metric["synthetic"] is not None:
            return float(metric["synthetic"]["value"])
    return None
