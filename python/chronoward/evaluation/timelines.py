"""timelines.json: what the report draws as timelines. Synthetic or consented subjects only.

{"schema": 1,
 "subjects": [SUBJECT, ...],
 "rollouts": null or {"title", "outcome", "horizon_days", "prefix": SUBJECT, "paths": [PATH, ...],
                      "risk": null or {"days", "mean", "lower", "upper"}},
 "note": optional, a sentence for the reader}

SUBJECT {"title", "age_years" (at day 0, or null), "sex", "end": "death" or "observation",
"end_day", "visits": [{"start", "end", "type"}], "events": [{"day", "domain", "label", "value",
"unit"}]}.
A visit may carry "inpatient" (bool); without it its type says so (IP, ERIP). sex is F, M or U.
Days are floats from the subject's first visit; in a prefix and its paths from the prediction time
(prefix: <= 0, paths: > 0). PATH is {"visits", "events", "end" (a rollout's status), "end_day",
"outcome_day" (or null)}. domain is one of condition, drug, procedure, measurement, observation,
device, other; label is plain text; value is a number or null.
"""

from __future__ import annotations

from typing import Any

from chronoward.errors import FormatError

SUBJECT_KEYS = ("title", "visits", "events")
PATH_KEYS = ("visits", "events", "end_day")


def check_timelines(value: dict[str, Any]) -> None:
    """Refuses what cannot be drawn.

    Raises:
        FormatError: naming the place and the missing key.
    """
    for number, subject in enumerate(value.get("subjects", [])):
        _check_subject(subject, f"subjects[{number}]", SUBJECT_KEYS)
    rollouts = value.get("rollouts")
    if rollouts is None:
        return
    _require(rollouts, "rollouts", ("title", "outcome", "horizon_days", "prefix", "paths"))
    _check_subject(rollouts["prefix"], "rollouts.prefix", ("visits", "events"))
    for number, path in enumerate(rollouts["paths"]):
        _check_subject(path, f"rollouts.paths[{number}]", PATH_KEYS)


def _require(value: Any, where: str, keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        message = f"timelines.json: {where} lacks {', '.join(missing)}"
        raise FormatError(message)


def _check_subject(value: Any, where: str, keys: tuple[str, ...]) -> None:
    _require(value, where, keys)
    for number, event in enumerate(value["events"]):
        _require(event, f"{where}.events[{number}]", ("day", "domain", "label"))
    for number, visit in enumerate(value["visits"]):
        _require(visit, f"{where}.visits[{number}]", ("start", "end", "type"))
