"""What a chain's event is in the record: which visit, in which slot of the week, for how long.

Slots are disjoint, so that no two visits of a subject overlap unless a fault is planted: routine
visits on the first two days, then one slot a clinic on the third, then stays, and death on the
last day. The end of a routine visit is therefore before everything else of its week: what happened
in the week's other chains is unknown at that time, and the filter says so exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Place = Literal["routine", "clinic", "pharmacy", "emergency", "stay"]

_HOUR: Final = 60
_DAY: Final = 24 * _HOUR


@dataclass(frozen=True)
class Event:
    """An event's visit.

    Attributes:
        name: how contents and chains call it.
        place: what kind of visit.
        start: earliest start, minutes into the week.
        jitter: the start is uniform in [start, start + jitter) minutes (stays: see schedule).
        duration: shortest and longest, minutes.
        outcome: name of the outcome that it records, or "".
    """

    name: str
    place: Place
    start: int
    jitter: int
    duration: tuple[int, int]
    outcome: str = ""


STAY_START: Final = 3 * _DAY + 6 * _HOUR
STAY_WINDOW: Final = 72 * _HOUR
STAY_JITTER: Final = 6 * _HOUR
DIAGNOSIS_DELAY: Final = 60
"""Minutes from a stay's start to its diagnosis."""
DEATH_START: Final = 6 * _DAY + 12 * _HOUR
DEATH_JITTER: Final = 10 * _HOUR

_CLINIC_DAY: Final = 2 * _DAY


def _clinic(name: str, minute: int, duration: tuple[int, int], outcome: str = "") -> Event:
    return Event(name, "clinic", _CLINIC_DAY + minute, 30, duration, outcome)


def _stay(name: str, hours: tuple[int, int], outcome: str = "") -> Event:
    lengths = (hours[0] * _HOUR, hours[1] * _HOUR)
    return Event(name, "stay", STAY_START, STAY_JITTER, lengths, outcome)


def _pharmacy(name: str, minute: int) -> Event:
    return Event(name, "pharmacy", _CLINIC_DAY + minute, 10, (5, 15))


# The first two take no visit of their own.
EVENTS: Final = (
    Event("nothing", "routine", 0, 0, (0, 0)),
    Event("death", "routine", DEATH_START, DEATH_JITTER, (0, 0)),
    Event("routine", "routine", 8 * _HOUR, 9 * _HOUR, (10, 40)),
    _stay("flare", (22, 60), "sim_spontaneous"),
    Event("heart_symptom", "emergency", _CLINIC_DAY + 19 * _HOUR, 60, (120, 210)),
    _pharmacy("heart_drug_start", 7 * _HOUR + 30),
    _pharmacy("heart_drug_refill", 7 * _HOUR + 30),
    _stay("heart_diagnosis", (40, 66), "heart_failure"),
    _clinic("heart_clinic_reduced", 8 * _HOUR + 30, (25, 45)),
    _clinic("heart_clinic_preserved", 8 * _HOUR + 30, (25, 45)),
    _stay("heart_acute_reduced", (30, 66)),
    _stay("heart_acute_preserved", (30, 66)),
    _clinic("dementia_diagnosis", 11 * _HOUR + 30, (40, 60), "dementia"),
    _clinic("dementia_clinic", 11 * _HOUR + 30, (25, 45)),
    _clinic("knee_diagnosis", 13 * _HOUR + 15, (20, 45), "knee_osteoarthritis"),
    _clinic("knee_clinic", 13 * _HOUR + 15, (15, 30)),
    _stay("knee_replacement", (40, 66)),
    _clinic("cancer_diagnosis_local", 14 * _HOUR + 45, (60, 120), "sim_lung_cancer"),
    _clinic("cancer_diagnosis_regional", 14 * _HOUR + 45, (60, 120), "sim_lung_cancer"),
    _clinic("cancer_diagnosis_metastatic", 14 * _HOUR + 45, (60, 120), "sim_lung_cancer"),
    _clinic("cancer_line_1_local", 14 * _HOUR + 45, (60, 200)),
    _clinic("cancer_line_1_regional", 14 * _HOUR + 45, (60, 200)),
    _clinic("cancer_line_1_metastatic", 14 * _HOUR + 45, (60, 200)),
    _clinic("cancer_line_2", 14 * _HOUR + 45, (60, 200)),
    _clinic("cancer_palliative", 14 * _HOUR + 45, (30, 60)),
    _clinic("cancer_follow_up", 14 * _HOUR + 45, (20, 40)),
    _clinic("diabetes_diagnosis", 10 * _HOUR, (20, 45), "sim_diabetes"),
    _clinic("diabetes_clinic", 10 * _HOUR, (20, 40)),
    _pharmacy("diabetes_refill", 8 * _HOUR),
    _stay("independent", (24, 48), "sim_independent"),
    Event("dialysis", "clinic", _CLINIC_DAY + 3 * _HOUR, 20, (200, 240)),
)
EVENT_ID: Final = {event.name: number for number, event in enumerate(EVENTS)}
ROUTINE: Final = EVENT_ID["routine"]
OUTCOMES: Final = tuple(dict.fromkeys(event.outcome for event in EVENTS if event.outcome))
