"""Every rate and half-life of the clinic, as frozen dataclasses that a YAML or JSON file can set.

Rates are a year, half-lives in weeks, the rest is a probability or a ratio unless a docstring says
otherwise. `draw_config` draws another clinic that keeps the properties; nothing in the code below
this file knows a number that it could change.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from chronoward.errors import ConfigError
from chronoward.files import read_settings
from chronoward.philox import hash64

if TYPE_CHECKING:
    from pathlib import Path

Censoring = Literal["none", "light", "heavy"]

# How far `draw_config` moves a field, by the end of its name: up to this factor either way. Names
# that end otherwise (dates, codes, censoring level) stay.
_FACTORS: Final = (
    ("separation", 1.1),
    ("age_slope", 1.15),
    ("frailty_shares", 1.0),
    ("share", 1.2),
    ("probability", 1.0),
    ("drug_effect", 1.15),
    ("ratio", 1.15),
    ("ratios", 1.15),
    ("half_life", 1.3),
    ("half_lives", 1.3),
    ("visit_rate", 1.2),
    ("rate", 1.3),
    ("rates", 1.3),
)
_FIXED_SECTIONS: Final = ("calendar", "records", "censoring")


@dataclass(frozen=True, kw_only=True)
class PopulationConfig:
    """Who comes to the clinic."""

    age_mean_years: float = 62.0
    age_sd_years: float = 13.0
    female_share: float = 0.53
    black_share: float = 0.18
    asian_share: float = 0.07
    site_b_share: float = 0.4
    smoker_share: float = 0.27
    frailty_shares: tuple[float, float, float] = (0.55, 0.32, 0.13)
    metabolic_share: float = 0.38
    """Share with the cardiometabolic trait: a cause of heart failure, and of diabetes."""
    frequent_share: float = 0.4
    """Share who see their doctor often, whatever their health."""
    dialysis_share: float = 0.02


@dataclass(frozen=True, kw_only=True)
class VisitConfig:
    """The routine visit: the one whose panel tells about every latent state."""

    rate: float = 0.65
    frequent_ratio: float = 1.5
    frailty_ratios: tuple[float, float, float] = (0.9, 1.05, 1.3)
    burst_rate: float = 0.2
    """How often a burst of visits begins that means nothing."""
    burst_half_life: float = 4.0
    burst_visit_probability: float = 0.8
    """Probability a week of a routine visit in a burst."""
    repeat_probability: float = 0.6
    """A chronic code is recorded again with this probability at each routine visit."""
    background_codes: float = 1.3
    """Mean number of codes a routine visit that mean nothing."""


@dataclass(frozen=True, kw_only=True)
class DeathConfig:
    """Death from other causes (diseases add theirs)."""

    rate: float = 0.0135
    age_slope: float = 0.85
    """Log ratio a decade, around 65."""
    frailty_ratios: tuple[float, float, float] = (0.55, 1.1, 2.6)
    male_ratio: float = 1.3


@dataclass(frozen=True, kw_only=True)
class AirwayConfig:
    """The spontaneous outcome: flares in short windows that no code announces."""

    severe_share: float = 0.35
    worsening_rate: float = 0.02
    window_rate: float = 0.085
    window_severe_ratio: float = 2.7
    window_half_life: float = 95.0
    window_visit_rate: float = 21.0
    """Routine visits a year in a window."""
    flare_rate_quiet: float = 0.006
    flare_rate_window: float = 0.85
    severe_ratio: float = 2.4
    smoker_ratio: float = 1.3
    age_slope: float = 0.3
    eosinophil_separation: float = 3.2
    """Distance of the two stages' mean values, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class HeartConfig:
    """The announced outcome: precursors in a short symptomatic stage, then the diagnosis."""

    onset_rate: float = 0.06
    age_slope: float = 0.45
    male_ratio: float = 1.3
    metabolic_ratio: float = 2.6
    black_ratio: float = 1.35
    prevalent_share: float = 0.2
    """Preclinical disease at entry, at 65 without the metabolic trait."""
    symptom_rate: float = 0.16
    symptom_half_life: float = 40.0
    false_symptom_rate: float = 0.02
    repeat_symptom_rate: float = 0.3
    diagnosis_rate: float = 1.6
    site_b_diagnosis_ratio: float = 0.75
    drug_effect: float = 0.55
    """Ratio by which the drug multiplies onset of symptoms and diagnosis: the causal effect."""
    drug_start_rate: float = 0.03
    drug_metabolic_ratio: float = 3.5
    drug_preclinical_rate: float = 0.15
    drug_stop_rate: float = 0.2
    refill_rate: float = 1.5
    symptom_death_rate: float = 0.12
    stable_death_rate: float = 0.07
    acute_death_rate: float = 0.35
    clinic_rate: float = 2.2
    acute_clinic_rate: float = 7.0
    acute_rate: float = 0.4
    acute_half_life: float = 9.0
    stiff_share_female: float = 0.65
    stiff_share_male: float = 0.35
    """The planted subtype: preserved ejection fraction."""
    stiff_acute_ratio: float = 0.6
    bnp_separation: float = 2.2


@dataclass(frozen=True, kw_only=True)
class DementiaConfig:
    """Slow, age-driven, and in competition with death."""

    impairment_rate: float = 0.013
    age_slope: float = 0.8
    conversion_rate: float = 0.22
    frail_ratio: float = 1.5
    prevalent_share: float = 0.02
    diagnosis_rate: float = 0.6
    death_rate: float = 0.16
    clinic_rate: float = 1.5
    cognition_separation: float = 1.5


@dataclass(frozen=True, kw_only=True)
class KneeConfig:
    """Osteoarthritis of the knee, then replacement."""

    onset_rate: float = 0.03
    age_slope: float = 0.25
    female_ratio: float = 1.5
    early_share: float = 0.12
    diagnosis_rate: float = 0.28
    clinic_rate: float = 0.8
    replacement_rate: float = 0.09


@dataclass(frozen=True, kw_only=True)
class CancerConfig:
    """Lung cancer: latent growth by stage, then treatment lines and survival by stage."""

    onset_rate: float = 0.005
    age_slope: float = 0.35
    smoker_ratio: float = 4.0
    spread_rate: float = 0.5
    metastasis_rate: float = 0.8
    diagnosis_rates: tuple[float, float, float] = (0.25, 0.7, 2.2)
    treatment_half_lives: tuple[float, float, float] = (8.0, 14.0, 16.0)
    treatment_rate: float = 15.0
    relapse_rates: tuple[float, float] = (0.12, 0.4)
    """From remission after local and after regional disease."""
    relapse_half_life: float = 70.0
    """The relapse window: who stays well as long leaves it with probability one half."""
    progression_rate: float = 0.65
    death_rates: tuple[float, float, float] = (0.02, 0.15, 0.55)
    """During treatment of local, regional and metastatic disease."""
    late_death_rates: tuple[float, float] = (0.7, 1.6)
    """On the second line, and without treatment."""


@dataclass(frozen=True, kw_only=True)
class DiabetesConfig:
    """Type 2 diabetes: caused by the metabolic trait, no cause of heart failure here."""

    onset_rate: float = 0.012
    metabolic_ratio: float = 3.0
    prevalent_share: float = 0.05
    diagnosis_rate: float = 0.5
    treatment_rate: float = 1.2
    lapse_rate: float = 0.25
    refill_rate: float = 1.5
    clinic_rate: float = 1.0
    hba1c_separation: float = 2.5


@dataclass(frozen=True, kw_only=True)
class IndependentConfig:
    """The control: a constant rate, with a visit of its own, for everyone."""

    rate: float = 0.005


@dataclass(frozen=True, kw_only=True)
class CensoringConfig:
    """What ends the record, but not the life; patients are the same at every level."""

    level: Censoring = "light"
    dropout_rate: float = 0.09
    after_stay_ratio: float = 3.0
    """Dropout in the half year after a stay: informative, through what is recorded."""
    old_ratio: float = 1.4
    heavy_ratio: float = 4.0
    heavy_years: tuple[float, float] = (2.0, 7.0)
    """Under heavy censoring the record ends at a uniform time after entry, at the latest."""
    gap_share: float = 0.07
    """Subjects who leave once and come back: two observation periods."""
    gap_weeks: tuple[int, int] = (20, 60)


@dataclass(frozen=True, kw_only=True)
class CalendarConfig:
    """Dates (ISO). Subjects enter between the first two; the last is the extract."""

    entry_from: str = "2010-01-04"
    entry_to: str = "2016-01-04"
    end: str = "2019-12-30"
    coding_switch: str = "2015-10-01"
    """Source codes change their vocabulary, as from ICD-9-CM to ICD-10-CM."""
    drift: str = "2017-07-01"
    """From here on more labs are taken, and some routine visits are remote."""


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """How things are written down: codes, labs, faults."""

    n_background_codes: int = 3400
    zipf_exponent: float = 1.0
    lab_probability: float = 0.4
    drift_lab_ratio: float = 1.3
    drift_remote_share: float = 0.25
    trap_ratio: float = 1.0
    """Multiplies how often each planted fault occurs; 0 plants none."""


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """A whole clinic."""

    population: PopulationConfig = field(default_factory=PopulationConfig)
    visits: VisitConfig = field(default_factory=VisitConfig)
    death: DeathConfig = field(default_factory=DeathConfig)
    airway: AirwayConfig = field(default_factory=AirwayConfig)
    heart: HeartConfig = field(default_factory=HeartConfig)
    dementia: DementiaConfig = field(default_factory=DementiaConfig)
    knee: KneeConfig = field(default_factory=KneeConfig)
    cancer: CancerConfig = field(default_factory=CancerConfig)
    diabetes: DiabetesConfig = field(default_factory=DiabetesConfig)
    independent: IndependentConfig = field(default_factory=IndependentConfig)
    censoring: CensoringConfig = field(default_factory=CensoringConfig)
    calendar: CalendarConfig = field(default_factory=CalendarConfig)
    records: RecordConfig = field(default_factory=RecordConfig)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON can hold it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SimulationConfig:
        """Defaults, changed where `values` says so.

        Args:
            values: nested mapping, section -> field -> value.

        Raises:
            ConfigError: an unknown section or field, or a value of another type or length.
        """
        sections: dict[str, Any] = {}
        known = {item.name for item in dataclasses.fields(cls)}
        for name, section in values.items():
            if name not in known or not isinstance(section, dict):
                message = f"simulation config: {name!r} is no section of it ({sorted(known)})"
                raise ConfigError(message)
            sections[name] = _section(name, getattr(cls(), name), section)
        return cls(**sections)


def _section(name: str, default: Any, values: dict[str, Any]) -> Any:
    known = {item.name: getattr(default, item.name) for item in dataclasses.fields(default)}
    changed: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            message = f"simulation config: {name}.{key} is not a field of it ({sorted(known)})"
            raise ConfigError(message)
        changed[key] = _coerced(f"{name}.{key}", known[key], value)
    return dataclasses.replace(default, **changed)


def _coerced(name: str, default: Any, value: Any) -> Any:
    """`value` in the default's type; numbers must be finite and not negative."""
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(default):
            message = f"simulation config: {name} needs {len(default)} numbers"
            raise ConfigError(message)
        return tuple(_coerced(name, a, b) for a, b in zip(default, value, strict=True))
    if isinstance(default, str):
        if name == "censoring.level" and value not in ("none", "light", "heavy"):
            message = "simulation config: censoring.level is one of none, light, heavy"
            raise ConfigError(message)
        return str(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < float("inf"):
        message = f"simulation config: {name} must be a finite number >= 0"
        raise ConfigError(message)
    if isinstance(default, int) and value != int(value):
        message = f"simulation config: {name} must be a whole number"
        raise ConfigError(message)
    return type(default)(value)


def load_config(path: Path) -> SimulationConfig:
    """Reads a YAML (or JSON) file of sections and fields; what it leaves out keeps its default.

    Raises:
        ConfigError: not YAML, or unknown or impossible fields.
        OSError: the file cannot be read.
    """
    return SimulationConfig.from_dict(read_settings(path))


def draw_config(seed: int) -> SimulationConfig:
    """Another clinic: every rate, half-life, ratio and share drawn anew around the shipped one.

    Each number moves by its own factor, log-uniform in a range by kind (rates and half-lives 0.77
    to 1.3), drawn from a hash of (seed, its name), so that the clinic's properties stay. One draw
    in forty is impossible (a week's probabilities add up to more than one) and is made again.

    Args:
        seed: any integer.
    """
    from chronoward.data.simulate.diseases import compile_chains  # builds on this module

    attempt = 0
    while True:
        config = _drawn((seed, attempt) if attempt else (seed,))
        try:
            compile_chains(config)
        except ConfigError:
            attempt += 1
        else:
            return config


def _drawn(key: tuple[int, ...]) -> SimulationConfig:
    base = SimulationConfig()
    sections = {}
    for section in dataclasses.fields(base):
        if section.name in _FIXED_SECTIONS:
            continue
        old = getattr(base, section.name)
        new = {
            item.name: _moved(key, section.name, item.name, getattr(old, item.name))
            for item in dataclasses.fields(old)
        }
        sections[section.name] = dataclasses.replace(old, **new)
    return dataclasses.replace(base, **sections)


def _moved(key: tuple[int, ...], section: str, name: str, value: Any) -> Any:
    factor = next((f for end, f in _FACTORS if name.endswith(end)), 1.0)
    if factor == 1.0 or isinstance(value, int | str):
        return value
    uniform = hash64("draw_config", *key, section, name) / 2.0**64
    ratio = math.exp((2.0 * uniform - 1.0) * math.log(factor))
    if isinstance(value, tuple):
        return tuple(round(part * ratio, 6) for part in value)
    return round(value * ratio, 6)
