"""The routine visit's panel: the only records whose content tells about hidden states.

Every item depends on one chain's state at the start of the week, or on the latent class, never on
two of them, so that the likelihood of a visit is a product over chains. Whether a lab is taken
depends on the date alone. Everything else in the record (`contents.py`) is noise given the events.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from chronoward.data.simulate.chains import N_CLASSES, SIZES
from chronoward.data.simulate.diseases import CHAINS
from chronoward.data.simulate.draws import (
    Draws,
    Purpose,
    choose,
    cumulative,
    fraction,
    integer_probability,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data.simulate.config import SimulationConfig

CLASS: Final = -1
"""Source of items that depend on the latent class instead of a chain."""
CHAIN_INDEX: Final = {build.__name__: i for i, build in enumerate(CHAINS)}
N_BINS: Final = 64
ABSENT: Final = -1


@dataclass(frozen=True)
class Lab:
    """A quantity on a grid of 64 values: value = low + step·bin, or low·ratio^bin.

    Attributes:
        key: its concept.
        unit: key of its unit's concept.
        low, step: the grid (step is the ratio when `is_log`).
        decimals: as written down.
        sd: standard deviation of the noise, in bins.
    """

    key: str
    unit: str
    low: float
    step: float
    decimals: int
    is_log: bool = False
    sd: float = 6.0

    def values(self) -> NDArray[np.float64]:
        """The 64 values, rounded as they are written."""
        bins = range(N_BINS)
        exact = [self.low * self.step**b if self.is_log else self.low + self.step * b for b in bins]
        return np.array([round(v, self.decimals) for v in exact])

    def distribution(self, center: float) -> NDArray[np.float64]:
        """Weights of the bins around a mean bin."""
        return np.array([math.exp(-0.5 * ((b - center) / self.sd) ** 2) for b in range(N_BINS)])


LABS: Final = {
    lab.key: lab
    for lab in (
        Lab("hba1c", "%", 4.0, 0.15, 1),
        Lab("creatinine", "mg/dL", 0.4, 1.04, 2, is_log=True),
        Lab("nt_probnp", "pg/mL", 20.0, 1.115, 0, is_log=True),
        Lab("systolic", "mm[Hg]", 80.0, 2.0, 0),
        Lab("eosinophils", "10*3/uL", 0.02, 0.02, 2),
        Lab("cognition", "{score}", 0.0, 30.0 / 63.0, 1),
        Lab("ldl", "mg/dL", 40.0, 4.0, 0),
        Lab("sodium", "mmol/L", 125.0, 0.4, 0),
        Lab("potassium", "mmol/L", 2.8, 0.05, 1),
        Lab("hemoglobin", "g/dL", 7.0, 0.18, 1),
    )
}


@dataclass(frozen=True, eq=False)
class Item:
    """A code (or lab) that a routine visit may hold.

    Attributes:
        key: concept.
        source: index of a chain, or `CLASS`.
        present: float64 [n_levels], probability that the code is recorded; None for labs.
        centers: float64 [n_levels], mean bin of a lab; None for codes.
    """

    key: str
    source: int
    present: tuple[float, ...] | None = None
    centers: tuple[float, ...] | None = None


def _by_class(frailty: tuple[float, ...], metabolic: tuple[float, ...]) -> tuple[float, ...]:
    """Sum of a frailty and a trait part, for each class."""
    index = np.arange(N_CLASSES)
    f, m = index // (SIZES[6] * SIZES[7]), index // SIZES[7] % SIZES[6]
    return tuple((np.asarray(frailty)[f] + np.asarray(metabolic)[m]).tolist())


def build_items(config: SimulationConfig) -> tuple[Item, ...]:
    """The panel of a configuration, in the fixed order of its draws."""
    again = config.visits.repeat_probability
    bnp, eosinophil = config.heart.bnp_separation * 6.0, config.airway.eosinophil_separation * 6.0
    mind, sugar = config.dementia.cognition_separation * 6.0, config.diabetes.hba1c_separation * 6.0
    heart, airway = CHAIN_INDEX["heart"], CHAIN_INDEX["airway"]
    dementia, knee = CHAIN_INDEX["dementia"], CHAIN_INDEX["knee"]
    cancer, diabetes = CHAIN_INDEX["cancer"], CHAIN_INDEX["diabetes"]
    ill = (0.02, 0.02, 0.03, 0.03, 0.12, 0.12)
    found = [0.0] * 4 + [again] * 8
    early, late, sick = 18.0, 18.0 + bnp, 18.0 + 1.25 * bnp
    bnp_centers = (early, early, late, late, sick, sick, late, sick, late, sick)
    return (
        Item("hypertension", CLASS, _by_class((0.0,) * 3, (0.0, again))),
        Item("hyperlipidemia", CLASS, _by_class((0.0,) * 3, (0.06, 0.3))),
        Item("fatigue", CLASS, _by_class((0.02, 0.06, 0.16), (0.0, 0.0))),
        Item("fall", CLASS, _by_class((0.005, 0.03, 0.12), (0.0, 0.0))),
        Item("systolic", CLASS, None, _by_class((22.0, 22.0, 22.0), (0.0, 8.0))),
        Item("creatinine", CLASS, None, _by_class((18.0, 22.0, 28.0), (0.0, 0.0))),
        Item("ldl", CLASS, None, _by_class((20.0, 20.0, 20.0), (0.0, 4.0))),
        Item("eosinophils", airway, None, (12.0,) * 3 + (12.0 + eosinophil,) * 3),
        Item("nt_probnp", heart, None, bnp_centers),
        Item("dyspnea", heart, (*ill, 0.3, 0.5, 0.3, 0.5)),
        Item("edema", heart, (*(0.8 * p for p in ill), 0.2, 0.5, 0.2, 0.5)),
        Item("heart_failure", heart, (0.0,) * 6 + (again,) * 4),
        Item("atrial_fibrillation", heart, (*(0.02,) * 6, 0.08, 0.08, 0.45, 0.45)),
        Item("impairment", dementia, (0.003, 0.2, 0.3, 0.0)),
        Item("cognition", dementia, None, (56.0, 56.0 - mind, 56.0 - 2 * mind, 56.0 - 3 * mind)),
        Item("dementia", dementia, (0.0, 0.0, 0.0, again)),
        Item("knee_pain", knee, (0.02, 0.3, 0.3, 0.1)),
        Item("knee_osteoarthritis", knee, (0.0, 0.0, again, again)),
        Item("weight_loss", cancer, (0.01, 0.04, 0.12, 0.35, *(0.1,) * 8)),
        Item("lung_cancer", cancer, tuple(found)),
        Item("hba1c", diabetes, None, (11.0, 11.0 + sugar, 11.0 + 1.4 * sugar, 11.0 + 0.5 * sugar)),
        Item("diabetes", diabetes, (0.0, 0.0, again, again)),
    )


# Labs that only some routine visits take: share relative to the configured probability.
_LAB_SHARES: Final = {
    "systolic": 1.4,
    "creatinine": 0.6,
    "ldl": 0.4,
    "eosinophils": 1.3,
    "nt_probnp": 1.2,
    "cognition": 0.5,
    "hba1c": 0.6,
}


@dataclass(frozen=True, eq=False)
class Panel:
    """Items compiled to integer probabilities.

    Attributes:
        items: as built.
        present: for each item int64 [n_levels] in units of 2^-24 (labs: None).
        bins: for each lab int64 [n_levels, 64] cumulative (codes: None).
        taken: int64 [n_items, 2], probability that a lab is taken, before and after the drift.
    """

    items: tuple[Item, ...]
    present: tuple[NDArray[np.int64] | None, ...]
    bins: tuple[NDArray[np.int64] | None, ...]
    taken: NDArray[np.int64]


def compile_panel(config: SimulationConfig) -> Panel:
    """Rounds the panel's probabilities."""
    items = build_items(config)
    base = config.records.lab_probability
    taken = [
        [base * _LAB_SHARES.get(i.key, 1.0) * r for r in (1.0, config.records.drift_lab_ratio)]
        for i in items
    ]
    return Panel(
        items=items,
        present=tuple(
            None if i.present is None else integer_probability(np.array(i.present)) for i in items
        ),
        bins=tuple(
            None
            if i.centers is None
            else cumulative(np.stack([LABS[i.key].distribution(c) for c in i.centers]))
            for i in items
        ),
        taken=integer_probability(np.minimum(np.array(taken), 0.95)),
    )


def draw_panel(
    panel: Panel,
    draws: Draws,
    subject: NDArray[np.int64],
    week: NDArray[np.int64],
    levels: NDArray[np.int64],
    is_late: NDArray[np.bool_],
) -> NDArray[np.int8]:
    """What each routine visit holds.

    Args:
        panel: the items.
        draws: the simulation's draws.
        subject, week: int64 [n], the visits.
        levels: int64 [n, n_items], the level of each item's source at each visit.
        is_late: bool [n], visits after the drift.

    Returns:
        int8 [n, n_items]: `ABSENT`, else 0 for a code and the bin for a lab.
    """
    n_items = len(panel.items)
    words = draws.words(Purpose.PANEL, subject, 2 * n_items, week=week)
    held = np.full((len(subject), n_items), ABSENT, dtype=np.int8)
    late = is_late.astype(np.int64)
    for k in range(n_items):
        present, bins = panel.present[k], panel.bins[k]
        if present is not None:
            held[fraction(words[2 * k]) < present[levels[:, k]], k] = 0
        elif bins is not None:
            rows = np.flatnonzero(fraction(words[2 * k]) < panel.taken[k][late])
            held[rows, k] = choose(words[2 * k + 1][rows], bins[levels[rows, k]])
    return held


def item_levels(
    panel: Panel, latent_class: NDArray[np.int64], routine_state: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """The level of each item's source, int64 [n_visits, n_items]."""
    columns = [
        latent_class if item.source == CLASS else routine_state[:, item.source].astype(np.int64)
        for item in panel.items
    ]
    return np.stack(columns, axis=1) if columns else np.zeros((len(latent_class), 0), np.int64)
