"""The dials of ingestion; the defaults are the rules of a cautious data engineer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from chronoward.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST = 1_000_000
_NUMBERS = (
    *("sentinel_years", "inpatient_concepts", "emergency_concepts", "billing_types"),
    "admission_statuses",
)
_CHOICES: dict[str, tuple[str, ...]] = {
    "concept_policy": ("standard", "source", "standard_then_source"),
    "observation_end": ("last_event", "extract_date"),
    "calendar": ("auto", "real", "shifted"),
    "prenatal_policy": ("keep", "quarantine"),
    "death_ascertainment": ("unknown", "in_hospital", "linked"),
}


@dataclass(frozen=True, kw_only=True)
class VisitPattern:
    """How a MEDS source without visit columns writes its visits: a start code and an end code."""

    start: str
    """Prefix of the code that opens the visit, e.g. `HOSPITAL_ADMISSION`."""
    end: str | None
    """Prefix of the code that closes it; None when the opening event has an `end_time`."""
    visit_type: str | None
    """Visit code, e.g. `Visit/IP`; None: `Visit/` and the code's second part."""
    is_detail: bool = False
    """A stay inside a visit (an ICU stay), not a visit of its own."""


DEFAULT_PATTERNS: tuple[VisitPattern, ...] = (
    VisitPattern(start="HOSPITAL_ADMISSION", end="HOSPITAL_DISCHARGE", visit_type="Visit/IP"),
    VisitPattern(start="ED_REGISTRATION", end="ED_OUT", visit_type="Visit/ER"),
    VisitPattern(start="VISIT", end=None, visit_type=None),
    VisitPattern(start="ICU_ADMISSION", end="ICU_DISCHARGE", visit_type=None, is_detail=True),
)


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """What ingestion may decide differently at another site.

    Raises:
        ConfigError: an unknown choice, or a number outside its range.
    """

    concept_policy: Literal["standard", "source", "standard_then_source"] = "standard_then_source"
    """Which concept names an event; `standard` drops unmapped records."""
    observation_end: Literal["last_event", "extract_date"] = "last_event"
    """End of follow-up of subjects without an observation period."""
    extract_date: str | None = None
    """Day of extraction, `YYYY-MM-DD`; None: cdm_source.source_release_date where there is one."""
    calendar: Literal["auto", "real", "shifted"] = "auto"
    """`auto`: shifted when more than half of the start dates lie after the extract date or 2100."""
    prenatal_policy: Literal["keep", "quarantine"] = "keep"
    """What becomes of records up to `prenatal_days` before birth."""
    prenatal_days: int = 300
    """Length of a pregnancy, generously."""
    sentinel_years: tuple[int, ...] = (1, 1900, 9999)
    """Years that mean "unknown"."""
    inpatient_concepts: tuple[int, ...] = (9201, 262, 8717, 8920, 8971, 32037, 581379)
    """Visit concepts of the class inpatient."""
    emergency_concepts: tuple[int, ...] = (9203, 8870, 581381)
    """Visit concepts of the class emergency."""
    inpatient_hours: int = 24
    """A visit at least this long is a stay, whatever its concept."""
    ed_link_hours: int = 24
    """An emergency visit that ends at most this long before a stay belongs to it."""
    merge_visits: bool = True
    """Overlapping visits of a class become one, and a stay takes the visits inside it; else every
    visit stays one of its own (stays after others of the same start), and what overlaps starts when
    the one before it ends."""
    billing_types: tuple[int, ...] = (32821, 32837, 32810, 32809, 32855, 38000200, 38000230)
    """Type concepts of diagnoses that are known when the stay is billed, not when it starts."""
    admission_statuses: tuple[int, ...] = (32890,)
    """Condition statuses that are known at admission, whatever their type."""
    drg_vocabularies: tuple[str, ...] = ("DRG", "MS-DRG", "APR-DRG")
    """Vocabularies of diagnosis-related groups (available at the stay's end)."""
    midnight_share: float = 0.2
    """From this share of datetimes at 00:00:00 on, midnight means "date only"."""
    drug_stop: bool = False
    """Emit a second event (text value `stop`) at a drug's end."""
    text_top_k: int = 20
    """Text categories kept per code."""
    text_min_subjects: int = 11
    """Subjects a text category needs."""
    artificial_share_warning: float = 0.2
    """Above this share of records in artificial visits, visit-level numbers are not reliable."""
    sex_specific_min_subjects: int = 500
    """A code with so many subjects, all of one sex, is taken as specific to it."""
    death_ascertainment: Literal["unknown", "in_hospital", "linked"] = "unknown"
    """How deaths came to be known; printed beside every competing-risk result."""
    visit_patterns: tuple[VisitPattern, ...] = DEFAULT_PATTERNS
    """Visits of MEDS sources without visit columns."""

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                message = f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                raise ConfigError(message)
        for name in (
            "prenatal_days",
            "inpatient_hours",
            "ed_link_hours",
            "text_top_k",
            "text_min_subjects",
            "sex_specific_min_subjects",
        ):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= _MOST:
                message = f"{name} must be a whole number from 0 to {_MOST}, got {value!r}"
                raise ConfigError(message)
        for name in ("midnight_share", "artificial_share_warning"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0.0 <= value <= 1.0:
                message = f"{name} must lie between 0 and 1, got {value!r}"
                raise ConfigError(message)
        for name in _NUMBERS:
            if any(type(number) is not int for number in getattr(self, name)):
                message = f"{name} must hold whole numbers"
                raise ConfigError(message)
        if self.extract_date is not None:
            _check_date(self.extract_date)

    def to_json(self) -> dict[str, Any]:
        """The dials as JSON can hold them."""
        return {
            name: [list_item(item) for item in value] if isinstance(value, list | tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> IngestConfig:
        """The inverse of `to_json`.

        Raises:
            ConfigError: an unknown key.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            message = f"unknown ingest options: {', '.join(unknown)}"
            raise ConfigError(message)
        arguments = {
            name: tuple(item) if isinstance(item, list) else item for name, item in value.items()
        }
        if "visit_patterns" in arguments:
            arguments["visit_patterns"] = tuple(
                VisitPattern(**item) for item in arguments["visit_patterns"]
            )
        make: Any = cls
        try:
            made: IngestConfig = make(**arguments)
        except TypeError:
            message = "an ingest option has a value of another type"
            raise ConfigError(message) from None
        return made


CEHRGPT_DIALS = IngestConfig(
    concept_policy="standard",
    inpatient_concepts=(9201, 262, 8971, 8920),
    emergency_concepts=(),
    inpatient_hours=24 * 365 * 110,  # longer than anybody stays
    merge_visits=False,
    billing_types=(),
    drg_vocabularies=(),
)
"""What CEHR-GPT does: stays by concept only, visits as recorded, diagnoses at their own times."""


def list_item(item: Any) -> Any:
    """One element of a JSON list: tuples become lists, everything else stays."""
    return list(item) if isinstance(item, tuple) else item


def _check_date(text: str) -> None:
    from datetime import date

    try:
        date.fromisoformat(text)
    except ValueError:
        message = f"extract_date must be YYYY-MM-DD, got {text!r}"
        raise ConfigError(message) from None
