"""The first page in words: what was asked, whether the model beats what is trivial, when not to use
it. Every sentence follows from numbers in the same task; none is added by the page.
"""

from __future__ import annotations

from typing import Any

from chronoward.evaluation.prediction_metrics import FEW, VERDICT_EVENTS

NAMES = {
    "prevalence": "the same risk for everybody",
    "age_sex": "age and sex",
    "had_it_before": "“had it before”",
    "bag_of_codes": "a bag of codes (regression)",
}
RATIO_RANGE = (0.8, 1.25)
MOST_UNDETERMINED = 0.01


def verdict(task: dict[str, Any]) -> dict[str, Any]:
    """Verdict of one task.

    Args:
        task: the task's metrics.

    Returns:
        headline, level ("good" | "mixed" | "bad" | "none"), beats (by baseline), not_when (list).
    """
    group = task["groups"][task["primary_group"]]
    if task["status"] == FEW:
        return {
            "level": "none",
            "headline": f"Insufficient follow-up: {task['reason']}.",
            "beats": {},
            "not_when": ["at all: these risks could not be checked on these data"],
        }
    beats = {name: _beats(gain) for name, gain in group["differences"].items()}
    # one risk for all ranks nobody; so does "had it before" where nobody had it
    ranks = {name for name, found in group["baselines"].items() if found["auroc"]["lower"]}
    rivals = {name: how for name, how in beats.items() if name in ranks}
    level, headline = _headline(rivals, group)
    return {
        "level": level,
        "headline": headline,
        "beats": beats,
        "not_when": _not_when(task, group),
        "calibrated": _calibrated(group),
    }


def _beats(gain: dict[str, Any]) -> str:
    if gain["lower"] is None or gain["upper"] is None:
        return "unknown"
    if gain["lower"] > 0:
        return "yes"
    return "no" if gain["upper"] < 0 else "not shown"


def _headline(rivals: dict[str, str], group: dict[str, Any]) -> tuple[str, str]:
    area = group["model"]["auroc"]
    start = f"AUROC {_interval(area)}."
    if not rivals:
        return "mixed", f"{start} No baseline could be fitted: the cohort has no train rows."
    won = [NAMES[name] for name, how in rivals.items() if how == "yes"]
    lost = [NAMES[name] for name, how in rivals.items() if how != "yes"]
    if not lost:
        return "good", f"{start} Ranks better than {_list(won)}."
    if won:
        return (
            "mixed",
            f"{start} Ranks better than {_list(won)}, but not shown to beat {_list(lost)}.",
        )
    return "bad", f"{start} Not shown to rank better than {_list(lost)}."


def _interval(estimate: dict[str, Any]) -> str:
    if estimate["lower"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} (95 % {estimate['lower']:.3f} to {estimate['upper']:.3f})"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _calibrated(group: dict[str, Any]) -> str:
    """ "yes", "no" or "not judged" (too few events): O/E against 0.8 to 1.25."""
    events = group["counts"]["n_events"]
    ratio = group["model"]["observed_expected"]["value"]
    if isinstance(events, str) or events < VERDICT_EVENTS or ratio is None:
        return "not judged"
    return "yes" if RATIO_RANGE[0] <= ratio <= RATIO_RANGE[1] else "no"


def general_limits(about: dict[str, Any]) -> list[str]:
    """When not to use any of it.

    Args:
        about: cohort.json.
    """
    notes = ["As a medical device, or for the care of one person: it was never tested for that."]
    known = about.get("death_ascertainment", "not recorded")
    if known != "linked":
        whence = {
            "unknown": "where its deaths come from was not stated",
            "in_hospital": "only deaths in the hospital are known",
        }.get(known, f"deaths known from: {str(known).replace('_', ' ')}")
        notes.append(
            f"To compare with registers: deaths outside the record may be missing ({whence})."
        )
    return notes


def _not_when(task: dict[str, Any], group: dict[str, Any]) -> list[str]:
    """Clauses that go on after "not ..."."""
    notes = []
    if task["status"] == "unstable":
        notes.append("where a firm number is needed (fewer than 100 events or non-events)")
    ratio = group["model"]["observed_expected"]["value"]
    calibrated = _calibrated(group)
    if calibrated == "no":
        side = "too low" if ratio > 1 else "too high"
        notes.append(
            "where the risk itself matters, not only the order "
            f"(risks are {side}: observed / expected {ratio:.2f})"
        )
    if calibrated == "not judged":
        notes.append(
            f"where the risk itself matters (calibration is judged from {VERDICT_EVENTS} events on)"
        )
    silent = [
        row["label"]
        for rows in (task["subgroups"].get(kind, []) for kind in ("sex", "age"))
        for row in rows
        if row["status"] == FEW
    ]
    if silent:
        notes.append(f"in groups with too few events to check: {', '.join(silent)}")
    recurrent = task["groups"]["recurrent"]
    anybody = recurrent["counts"]["n_rows"] != 0
    if task["primary_group"] == "incident" and anybody and recurrent["status"] == FEW:
        notes.append("in people who already had it (too few to check)")
    undetermined = task["monte_carlo"]["mean_undetermined"]
    if undetermined is not None and undetermined > MOST_UNDETERMINED:
        notes.append(f"as single numbers ({undetermined:.1%} of futures ended undetermined)")
    return notes
