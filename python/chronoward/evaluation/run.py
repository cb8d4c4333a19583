"""What the `evaluate` subcommands write: section files, the cohort's flow, MEDS-DEV records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chronoward import __version__
from chronoward.evaluation.predictions import meds_dev_results
from chronoward.evaluation.sections import plain, write_section
from chronoward.evaluation.suppression import hide, suppress_steps
from chronoward.files import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

FLOW_REASONS = (
    ("too_short", "observed beyond the washout"),
    ("no_visit_after", "with a visit from the drawn date on"),
    ("outside_observation", "prediction time inside an observation period"),
    ("washout", "observed long enough before"),
    ("not_alive", "alive"),
    ("no_time_at_risk", "alive and observed when the time at risk starts"),
)


def write_predictions(out: Path, section: dict[str, Any], cohort_dir: Path) -> Path:
    """Writes predictions.json, cohort.json, meds_dev_result.json and metrics.json.

    Args:
        out: the evaluation folder.
        section: what `evaluate_predictions` returned.
        cohort_dir: where flow.json lies.

    Returns:
        Path of metrics.json.
    """
    write_section(out, "predictions", section)
    write_section(out, "cohort", cohort_section(cohort_dir, section["cohort"]))
    records = meds_dev_results(section, dataset=cohort_dir.name, model="chronoward")
    write_json(out / "meds_dev_result.json", plain(records))
    return add_provenance(out, {"chronoward_version": __version__, "score": section["run"]})


def add_provenance(out: Path, facts: dict[str, Any]) -> Path:
    """Adds facts (hashes, seeds, versions, commands) to the folder's provenance.

    Args:
        out: the evaluation folder.
        facts: JSON values by name; earlier ones of the same name are replaced.

    Returns:
        Path of metrics.json.
    """
    path = out / "provenance.json"
    kept = dict(read_json(path)) if path.exists() else {}
    return write_section(out, "provenance", {**kept, **facts})


def cohort_section(cohort_dir: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The cohort's definition and its flow, without small cells.

    Args:
        cohort_dir: where flow.json lies.
        about: cohort.json.
    """
    path = cohort_dir / "flow.json"
    flow = read_json(path) if path.exists() else {}
    steps = _steps(flow) if "candidates" in flow else []
    outcomes = hide(flow.get("outcomes", {}))
    return {"definition": about, "flow": steps, "outcomes": outcomes}


def _steps(flow: dict[str, Any]) -> list[dict[str, Any]]:
    is_drawn = "subjects" in flow
    left = int(flow["subjects" if is_drawn else "candidates"])
    labels, counts = ["people" if is_drawn else "candidate prediction times"], [left]
    for key, label in FLOW_REASONS:
        if key not in flow:
            continue
        left -= int(flow[key])
        labels.append(label)
        counts.append(left)
    shown = suppress_steps(counts)
    return [{"label": text, "n_rows": n} for text, n in zip(labels, shown, strict=True)]
