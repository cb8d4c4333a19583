"""The clinic's chains, built from the configuration: who falls ill, when it shows, who dies.

Causes and mere companions are both planted. Heart failure is caused by age, sex, race, the
metabolic trait and (protectively) the drug; hyperlipidemia and diabetes only go with the trait.
The drug is given more to those who are already ill: a naive comparison calls it harmful.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chronoward.data.simulate.chains import (
    AXES,
    DEATH,
    NO_EVENT,
    SIZES,
    Branch,
    Chain,
    Table,
    axis,
    by_age,
    by_flag,
    compile_chain,
    leaving,
    weekly,
)
from chronoward.data.simulate.events import EVENT_ID, ROUTINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from chronoward.data.simulate.chains import Axis
    from chronoward.data.simulate.config import SimulationConfig


def _shares(*parts: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Initial probabilities: state 0 takes what the other states leave, at least 0.3."""
    arrays = np.broadcast_arrays(*(np.asarray(p, dtype=np.float64) for p in parts))
    others = np.stack([np.zeros(()) + a for a in arrays], axis=-1)
    total = others.sum(axis=-1, keepdims=True)
    others = np.where(total > 0.7, others * (0.7 / np.maximum(total, 0.7)), others)
    return np.concatenate([1.0 - others.sum(axis=-1, keepdims=True), others], axis=-1)


def _everyone(probabilities: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(probabilities, dtype=np.float64).reshape(*[1] * len(AXES), -1)


def life(config: SimulationConfig) -> Chain:
    """Death from causes that are no chain of ours."""
    c = config.death
    rate = (
        c.rate
        * by_age(c.age_slope)
        * axis("frailty", c.frailty_ratios)
        * axis("sex", (1.0, c.male_ratio))
    )
    return Chain(
        "life", ("alive",), (Branch(0, DEATH, 0, weekly(np.minimum(rate, 4.0))),), _everyone([1.0])
    )


AIRWAY_STATES = (
    "mild, quiet",
    "mild, window",
    "mild, burst",
    "severe, quiet",
    "severe, window",
    "severe, burst",
)


def airway(config: SimulationConfig) -> Chain:
    """Routine visits, and flares.

    Visits come every few weeks in a window, every few days in a burst (which means nothing), and
    rarely otherwise: only the length of the gaps tells a window from a burst, not the order.
    """
    c, v = config.airway, config.visits
    visits = v.rate * by_flag("frequent", v.frequent_ratio) * axis("frailty", v.frailty_ratios)
    person = by_flag("smoker", c.smoker_ratio) * by_age(c.age_slope)
    flare = EVENT_ID["flare"]
    branches: list[Branch] = []
    for severe in (0, 1):
        quiet, window, burst = 3 * severe, 3 * severe + 1, 3 * severe + 2
        stage = c.severe_ratio if severe else 1.0
        enter = c.window_rate * (c.window_severe_ratio if severe else 1.0) * person
        outside = weekly(c.flare_rate_quiet * stage * person)
        inside = weekly(np.minimum(c.flare_rate_window * stage * person, 8.0))
        branches += [
            Branch(quiet, ROUTINE, quiet, weekly(visits)),
            Branch(quiet, flare, window, outside),
            Branch(quiet, NO_EVENT, window, weekly(enter)),
            Branch(quiet, NO_EVENT, burst, weekly(v.burst_rate)),
            Branch(window, ROUTINE, window, weekly(c.window_visit_rate)),
            Branch(window, flare, window, inside),
            Branch(window, NO_EVENT, quiet, leaving(c.window_half_life)),
            Branch(burst, ROUTINE, burst, v.burst_visit_probability),
            Branch(burst, flare, window, outside),
            Branch(burst, NO_EVENT, quiet, leaving(v.burst_half_life)),
        ]
    branches.append(Branch(0, NO_EVENT, 3, weekly(c.worsening_rate)))
    severe_share = np.minimum(c.severe_share * by_age(0.1), 0.8)
    parts = []
    for weight, ratio in ((1 - severe_share, 1.0), (severe_share, c.window_severe_ratio)):
        share = enter_share(c.window_rate * ratio * person, c.window_half_life)
        parts += [weight * (1 - share), weight * share, 0.0 * weight]
    return Chain(
        "airway", AIRWAY_STATES, tuple(branches), np.stack(np.broadcast_arrays(*parts), axis=-1)
    )


def enter_share(rate: Axis, half_life_weeks: float) -> Axis:
    """Share of time inside a window that opens at `rate` a year: its stationary probability."""
    opening, closing = weekly(rate), leaving(half_life_weeks)
    return opening / (opening + closing)


HEART_STATES = (
    "healthy",
    "healthy, drug",
    "preclinical",
    "preclinical, drug",
    "symptomatic",
    "symptomatic, drug",
    "reduced, stable",
    "reduced, acute",
    "preserved, stable",
    "preserved, acute",
)


def heart(config: SimulationConfig) -> Chain:
    """Heart failure with its precursors, its drug and its planted subtype."""
    c = config.heart
    e = EVENT_ID
    person = (
        by_age(c.age_slope)
        * axis("sex", (1.0, c.male_ratio))
        * by_flag("race", c.black_ratio)
        * by_flag("metabolic", c.metabolic_ratio)
    )
    site = by_flag("site", c.site_b_diagnosis_ratio)
    preserved = axis("sex", (c.stiff_share_female, c.stiff_share_male))
    branches: list[Branch] = []
    for drug in (0, 1):
        effect = c.drug_effect if drug else 1.0
        well, early, ill = 0 + drug, 2 + drug, 4 + drug
        diagnosis = weekly(c.diagnosis_rate * site * effect)
        branches += [
            Branch(well, e["heart_symptom"], well, weekly(c.false_symptom_rate)),
            Branch(well, NO_EVENT, early, weekly(c.onset_rate * person)),
            Branch(early, e["heart_symptom"], ill, weekly(c.symptom_rate * effect)),
            Branch(ill, e["heart_symptom"], ill, weekly(c.repeat_symptom_rate)),
            Branch(ill, NO_EVENT, early, leaving(c.symptom_half_life)),
            Branch(ill, e["heart_diagnosis"], 6, diagnosis * (1 - preserved)),
            Branch(ill, e["heart_diagnosis"], 8, diagnosis * preserved),
            Branch(ill, DEATH, ill, weekly(c.symptom_death_rate)),
        ]
        if drug:
            for state in (well, early, ill):
                branches += [
                    Branch(state, e["heart_drug_refill"], state, weekly(c.refill_rate)),
                    Branch(state, NO_EVENT, state - 1, weekly(c.drug_stop_rate)),
                ]
        else:
            start = c.drug_start_rate * by_flag("metabolic", c.drug_metabolic_ratio)
            for state, rate in ((well, start), (early, start + c.drug_preclinical_rate)):
                branches.append(Branch(state, e["heart_drug_start"], state + 1, weekly(rate)))
            ill_start = weekly(start + 2 * c.drug_preclinical_rate)
            branches.append(Branch(ill, e["heart_drug_start"], ill + 1, ill_start))
    for stable, kind in ((6, "reduced"), (8, "preserved")):
        acute = stable + 1
        acute_rate = c.acute_rate * (c.stiff_acute_ratio if kind == "preserved" else 1.0)
        branches += [
            Branch(stable, e[f"heart_clinic_{kind}"], stable, weekly(c.clinic_rate)),
            Branch(stable, e[f"heart_acute_{kind}"], acute, weekly(acute_rate)),
            Branch(stable, DEATH, stable, weekly(c.stable_death_rate)),
            Branch(acute, e[f"heart_clinic_{kind}"], acute, weekly(c.acute_clinic_rate)),
            Branch(acute, e[f"heart_acute_{kind}"], acute, weekly(2 * acute_rate)),
            Branch(acute, DEATH, acute, weekly(c.acute_death_rate)),
            Branch(acute, NO_EVENT, stable, leaving(c.acute_half_life)),
        ]
    early_share = c.prevalent_share * person
    on_drug = 0.05 * by_flag("metabolic", c.drug_metabolic_ratio)
    shares = (on_drug, 0.75 * early_share, 0.15 * early_share, 0.1 * early_share)
    initial = _shares(*shares, 0.0, 0.0, 0.0, 0.0, 0.0)
    return Chain("heart", HEART_STATES, tuple(branches), initial)


def dementia(config: SimulationConfig) -> Chain:
    """Impairment, undiagnosed and diagnosed dementia."""
    c = config.dementia
    e = EVENT_ID
    person = by_age(c.age_slope) * axis("frailty", (1.0, 1.0, c.frail_ratio))
    onset = weekly(np.minimum(c.impairment_rate * person, 2.0))
    diagnosis = weekly(c.diagnosis_rate)
    branches = (
        Branch(0, NO_EVENT, 1, onset),
        Branch(1, NO_EVENT, 2, weekly(c.conversion_rate)),
        Branch(2, e["dementia_diagnosis"], 3, diagnosis),
        Branch(2, DEATH, 2, weekly(0.5 * c.death_rate)),
        Branch(3, e["dementia_clinic"], 3, weekly(c.clinic_rate)),
        Branch(3, DEATH, 3, weekly(c.death_rate)),
    )
    share = c.prevalent_share * person
    states = ("healthy", "impaired", "undiagnosed", "diagnosed")
    return Chain("dementia", states, branches, _shares(3 * share, share, 0.0))


def knee(config: SimulationConfig) -> Chain:
    """Osteoarthritis of the knee: pain, diagnosis, replacement."""
    c = config.knee
    e = EVENT_ID
    person = by_age(c.age_slope) * axis("sex", (c.female_ratio, 1.0))
    branches = (
        Branch(0, NO_EVENT, 1, weekly(c.onset_rate * person)),
        Branch(1, e["knee_diagnosis"], 2, weekly(c.diagnosis_rate)),
        Branch(2, e["knee_clinic"], 2, weekly(c.clinic_rate)),
        Branch(2, e["knee_replacement"], 3, weekly(c.replacement_rate)),
        Branch(3, e["knee_clinic"], 3, weekly(0.5 * c.clinic_rate)),
    )
    states = ("healthy", "painful", "diagnosed", "replaced")
    return Chain("knee", states, branches, _shares(c.early_share * person, 0.0, 0.0))


CANCER_STATES = (
    "none",
    "latent local",
    "latent regional",
    "latent metastatic",
    "line 1 local",
    "line 1 regional",
    "line 1 metastatic",
    "remission after local",
    "remission after regional",
    "cured",
    "line 2",
    "palliative",
)


def cancer(config: SimulationConfig) -> Chain:
    """Lung cancer: latent stages, treatment lines, a relapse window, survival by stage."""
    c = config.cancer
    e = EVENT_ID
    person = by_age(c.age_slope) * by_flag("smoker", c.smoker_ratio)
    branches = [Branch(0, NO_EVENT, 1, weekly(c.onset_rate * person))]
    names = ("local", "regional", "metastatic")
    for stage, name in enumerate(names):
        latent, line_1 = 1 + stage, 4 + stage
        found = weekly(c.diagnosis_rates[stage])
        after = 7 + stage if stage < 2 else 10
        done = leaving(c.treatment_half_lives[stage])
        branches += [
            Branch(latent, e[f"cancer_diagnosis_{name}"], line_1, found),
            Branch(line_1, e[f"cancer_line_1_{name}"], line_1, weekly(c.treatment_rate)),
            Branch(line_1, NO_EVENT, after, done),
            Branch(line_1, DEATH, line_1, weekly(c.death_rates[stage])),
        ]
    branches += [
        Branch(1, NO_EVENT, 2, weekly(c.spread_rate)),
        Branch(2, NO_EVENT, 3, weekly(c.metastasis_rate)),
        Branch(3, DEATH, 3, weekly(c.death_rates[2])),
        Branch(9, e["cancer_follow_up"], 9, weekly(1.0)),
        Branch(10, e["cancer_line_2"], 10, weekly(c.treatment_rate)),
        Branch(10, NO_EVENT, 11, weekly(c.progression_rate)),
        Branch(10, DEATH, 10, weekly(c.late_death_rates[0])),
        Branch(11, e["cancer_palliative"], 11, weekly(0.6 * c.treatment_rate)),
        Branch(11, DEATH, 11, weekly(c.late_death_rates[1])),
    ]
    for remission, relapse in ((7, c.relapse_rates[0]), (8, c.relapse_rates[1])):
        branches += [
            Branch(remission, e["cancer_follow_up"], remission, weekly(4.0)),
            Branch(remission, NO_EVENT, 10, weekly(relapse)),
            Branch(remission, NO_EVENT, 9, leaving(c.relapse_half_life)),
        ]
    share = c.onset_rate * person
    initial = _shares(share, 0.5 * share, 0.2 * share, *[0.0] * 8)
    return Chain("cancer", CANCER_STATES, tuple(branches), initial)


def diabetes(config: SimulationConfig) -> Chain:
    """Type 2 diabetes with a drug that lowers its value."""
    c = config.diabetes
    e = EVENT_ID
    person = by_flag("metabolic", c.metabolic_ratio)
    branches = (
        Branch(0, NO_EVENT, 1, weekly(c.onset_rate * person)),
        Branch(1, e["diabetes_diagnosis"], 2, weekly(c.diagnosis_rate)),
        Branch(2, e["diabetes_clinic"], 2, weekly(c.clinic_rate)),
        Branch(2, e["diabetes_refill"], 3, weekly(c.treatment_rate)),
        Branch(3, e["diabetes_refill"], 3, weekly(c.refill_rate)),
        Branch(3, e["diabetes_clinic"], 3, weekly(c.clinic_rate)),
        Branch(3, NO_EVENT, 2, weekly(c.lapse_rate)),
    )
    states = ("healthy", "undiagnosed", "untreated", "treated")
    return Chain("diabetes", states, branches, _shares(c.prevalent_share * person, 0.0, 0.0))


def independent(config: SimulationConfig) -> Chain:
    """The control outcome: one state, one rate."""
    p = weekly(config.independent.rate)
    branch = Branch(0, EVENT_ID["independent"], 0, p)
    return Chain("independent", ("always",), (branch,), _everyone([1.0]))


def dialysis(config: SimulationConfig) -> Chain:
    """A few subjects with a visit nearly every week: the long tail of the timelines."""
    share = config.population.dialysis_share
    branch = Branch(1, EVENT_ID["dialysis"], 1, 0.62)
    return Chain("dialysis", ("no", "yes"), (branch,), _everyone([1 - share, share]))


CHAINS = (
    life,
    airway,
    heart,
    dementia,
    knee,
    cancer,
    diabetes,
    independent,
    dialysis,
)


def compile_chains(config: SimulationConfig) -> tuple[Table, ...]:
    """All chains of a configuration, in the fixed order of `CHAINS`.

    Raises:
        ConfigError: a rate so high that one week's probabilities exceed one.
    """
    return tuple(compile_chain(build(config)) for build in CHAINS)


def class_weights(config: SimulationConfig) -> NDArray[np.float64]:
    """Probability of each class given the context, float64 [n_contexts, N_CLASSES] (age: entry)."""
    p = config.population
    age = np.arange(SIZES[4]) - 8.0  # bands from 65
    frailty = np.asarray(p.frailty_shares)[None, :] * np.exp(
        0.09 * age[:, None] * np.array([-1.0, 0.5, 1.0])[None, :]
    )
    frailty = frailty / frailty.sum(axis=1, keepdims=True)
    by_frailty = frailty.reshape(1, 1, 1, 1, SIZES[4], 3, 1, 1)
    trait = np.clip(p.metabolic_share + 0.012 * age, 0.05, 0.9)
    metabolic = np.stack([1 - trait, trait], axis=-1).reshape(1, 1, 1, 1, SIZES[4], 1, 2, 1)
    frequent = axis("frequent", (1 - p.frequent_share, p.frequent_share))
    weights = np.broadcast_to(by_frailty * metabolic * frequent, SIZES)
    return weights.reshape(-1, int(np.prod(SIZES[5:])))
