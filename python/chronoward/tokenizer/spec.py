"""What a tokenizer is asked to be: preset, time scheme, values, prompt; frozen and explicit.

`None` fields take the preset's default at construction, so a saved spec always says everything.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from chronoward.errors import ConfigError, FormatError

PRESETS = ("compact", "cehr", "events")
TIME_SCHEMES = ("day", "week", "month", "cehr_bert", "mix", "ethos", "log")
CALENDAR_SCHEMES = ("day", "week", "month", "cehr_bert", "mix")
VALUE_MODES = ("fused", "split", "none")
PROMPT_FIELDS = ("year", "age", "sex", "race")
CALENDARS = ("real", "shifted")
AGE_BINS = ("clinical", "years")
EVENT_ORDERS = ("canonical", "time")

_DEFAULTS: dict[str, dict[str, Any]] = {
    "compact": {
        "time_scheme": "log",
        "values": "fused",
        "age_bins": "clinical",
        "event_order": "canonical",
        "details": True,
    },
    "cehr": {
        "time_scheme": "day",
        "values": "none",
        "age_bins": "years",
        "event_order": "time",
        "details": False,
    },
    "events": {
        "time_scheme": "log",
        "values": "fused",
        "age_bins": "clinical",
        "event_order": "canonical",
        "details": False,
    },
}


def _check(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        message = f"{name} must be one of {', '.join(allowed)}; got {value!r}"
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """Choices that `fit` turns into a vocabulary and a grammar.

    Raises:
        ConfigError: an option is unknown, or two of them contradict each other.
    """

    preset: str = "compact"
    """compact (visits, fused values, log time), cehr (CEHR-GPT's grammar), events (no visits)."""
    time_scheme: str | None = None
    """day, week, month, cehr_bert, mix, ethos or log; the preset's own when not given."""
    values: str | None = None
    """fused (CODE//q3), split (code token, then a value token) or none."""
    n_value_bins: int = 10
    """Quantile bins per code and unit, at most."""
    n_text_categories: int = 8
    """Text categories kept per code, at most; each needs min_subjects."""
    min_subjects: int = 11
    """Codes, categories, bins and prompt cells with fewer subjects are not published."""
    prompt_fields: tuple[str, ...] = PROMPT_FIELDS
    """Fields of the prompt, in this order; calendar "shifted" removes the year."""
    calendar: str = "real"
    """real, or shifted (dates moved per subject: no year token)."""
    age_bins: str | None = None
    """clinical (days, months to 24, years, 90+) or years (completed years, 90+)."""
    event_order: str | None = None
    """Inside a moment: canonical (code order, duplicates gone) or time (source time, then code)."""
    details: bool | None = None
    """Emit visit details (ward stays) as detail_start .. detail_end; preset compact only."""
    hour_tokens: bool = False
    """cehr only: hours inside inpatient stays (i-H1 .. i-H23)."""
    max_age_years: int = 120
    """Cap on the clock."""

    def __post_init__(self) -> None:
        _check("preset", self.preset, PRESETS)
        for name, value in _DEFAULTS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        prompt = tuple(self.prompt_fields)
        if self.calendar == "shifted":
            prompt = tuple(field for field in prompt if field != "year")
        object.__setattr__(self, "prompt_fields", prompt)
        _check("time_scheme", self.time_scheme, TIME_SCHEMES)
        _check("values", self.values, VALUE_MODES)
        _check("calendar", self.calendar, CALENDARS)
        _check("age_bins", self.age_bins, AGE_BINS)
        _check("event_order", self.event_order, EVENT_ORDERS)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if tuple(f for f in PROMPT_FIELDS if f in self.prompt_fields) != self.prompt_fields:
            message = f"prompt_fields must be some of {PROMPT_FIELDS}, in this order"
            raise ConfigError(message)
        for name in ("n_value_bins", "n_text_categories", "min_subjects", "max_age_years"):
            if type(getattr(self, name)) is not int:
                message = f"{name} must be a whole number; got {getattr(self, name)!r}"
                raise ConfigError(message)
        if not 2 <= self.n_value_bins <= 100:
            message = f"n_value_bins must be between 2 and 100; got {self.n_value_bins}"
            raise ConfigError(message)
        if (
            self.n_text_categories < 0
            or self.min_subjects < 1
            or not 1 <= self.max_age_years <= 150
        ):
            message = "n_text_categories >= 0, min_subjects >= 1, max_age_years 1..150 expected"
            raise ConfigError(message)
        if self.hour_tokens and not self.is_calendar:
            message = "hour_tokens need preset cehr with a time scheme of days"
            raise ConfigError(message)
        if self.details and self.preset != "compact":
            message = "details are part of preset compact only"
            raise ConfigError(message)
        if self.event_order == "time" and self.values == "split":
            message = "values=split needs event_order=canonical"
            raise ConfigError(message)

    @property
    def is_calendar(self) -> bool:
        """Gaps count calendar days between dates (CEHR-GPT), not elapsed minutes."""
        return self.preset == "cehr" and self.time_scheme in CALENDAR_SCHEMES

    @property
    def keeps_units(self) -> bool:
        """A code in another unit is another entry; CEHR-GPT's tokens are concepts, units apart."""
        return self.preset != "cehr" or self.values != "none"

    @property
    def waits_from_observation(self) -> bool:
        """A timeline begins with observation, and a gap leads to its first visit or code; with
        CEHR-GPT it begins with the first visit."""
        return self.preset != "cehr"

    @property
    def resolution_min(self) -> int:
        """Minutes that one moment of a visit spans: 1, or an hour or a day in preset cehr."""
        if not self.is_calendar:
            return 1
        return 60 if self.hour_tokens else 1440

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values."""
        return {**asdict(self), "prompt_fields": list(self.prompt_fields)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TokenizerSpec:
        """Reads what `to_json` wrote.

        Raises:
            FormatError: unknown or missing keys.
        """
        names = {field.name for field in fields(cls)}
        if set(value) != names:
            message = f"tokenizer spec has unexpected or missing keys: {sorted(set(value) ^ names)}"
            raise FormatError(message)
        return cls(**{**value, "prompt_fields": tuple(value["prompt_fields"])})
