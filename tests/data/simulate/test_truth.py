from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.special import logit

from chronoward.data.simulate import SimulationConfig
from chronoward.data.simulate.chains import DEATH, N_CLASSES
from chronoward.data.simulate.clinic import Clinic, run_clinic
from chronoward.data.simulate.cohorts import choose_index_rows, happened
from chronoward.data.simulate.draws import ONE
from chronoward.data.simulate.events import EVENTS, ROUTINE
from chronoward.data.simulate.oracle import probability_auroc
from chronoward.data.simulate.panel import ABSENT, CLASS
from chronoward.data.simulate.population import class_table
from chronoward.data.simulate.truth import Filter, probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTCOMES = ("heart_failure", "sim_spontaneous", "sim_independent", "knee_osteoarthritis")


@pytest.fixture(scope="module")
def small() -> Clinic:
    return run_clinic(SimulationConfig(), 300, seed=11, write=False)


def panel_factor(clinic: Clinic, visit: int, source: int, level: int) -> float:
    """Likelihood of one visit's panel items of one source, straight from the items."""
    factor = 1.0
    for k, item in enumerate(clinic.panel.items):
        if item.source != source:
            continue
        held = int(clinic.held[visit, k])
        present, bins = clinic.panel.present[k], clinic.panel.bins[k]
        if present is not None:
            p = present[level] / ONE
            factor *= p if held != ABSENT else 1 - p
        elif bins is not None and held != ABSENT:
            low = bins[level, held - 1] if held else 0
            factor *= (bins[level, held] - low) / ONE
    return factor


def enumerate_paths(
    clinic: Clinic, subject: int, m: int, c: int, weeks: list[tuple[int, int, bool]]
) -> NDArray[np.float64]:
    """Joint probability of the observed weeks and the last state: a sum over all paths.

    `weeks` holds (event or 0, routine visit or -1, whether the week's transition is known).
    """
    table = clinic.chains[m]
    out = np.zeros(table.n_states)

    def walk(week: int, state: int, probability: float) -> None:
        if week == len(weeks) or probability == 0.0:
            out[state] += probability
            return
        event, visit, transition_known = weeks[week]
        if visit >= 0:
            probability *= panel_factor(clinic, visit, m, state)
        if not transition_known:
            walk(week + 1, state, probability)
            return
        cell = int(clinic.population.context(week)[subject]) * N_CLASSES + c
        for b in range(table.p.shape[1]):
            if table.event[state, b] == event and table.event[state, b] != DEATH:
                p = table.p[state, b, cell] / ONE
                if p:
                    walk(week + 1, int(table.next_state[state, b]), probability * p)

    cell = int(clinic.population.context(0)[subject]) * N_CLASSES + c
    initial = np.diff(table.initial[cell], prepend=0) / ONE
    for state in range(table.n_states):
        walk(0, state, float(initial[state]))
    return out


def test_the_filter_equals_a_sum_over_all_paths(small: Clinic) -> None:
    course = small.course
    rows = np.flatnonzero((course.event == ROUTINE) & (course.week >= 3) & (course.week <= 5))[:4]
    filter_ = Filter(small)
    beliefs = filter_.beliefs(rows)
    prior = np.diff(class_table(small.config), axis=1, prepend=0) / ONE
    for i, row in enumerate(rows):
        subject, last = int(course.subject[row]), int(course.week[row])
        weight = prior[small.population.context(0)[subject]].copy()
        mine = (course.subject == subject) & (course.week <= last)
        visits = {int(course.week[r]): r for r in np.flatnonzero(mine & (course.event == ROUTINE))}
        expected = []
        for m in filter_.used:
            kernels = filter_.kernels[m]
            weeks = []
            for week in range(last + 1):
                own = np.flatnonzero(
                    mine & (course.week == week) & np.isin(course.event, list(kernels.events))
                )
                visit = int(filter_.visit_of[visits[week]]) if week in visits else -1
                known = week < last or kernels.name == "airway"
                event = int(course.event[own[0]]) if len(own) and known else 0
                weeks.append((event, visit, known))
            joint = np.stack(
                [enumerate_paths(small, subject, m, c, weeks) for c in range(N_CLASSES)], axis=1
            )
            weight *= joint.sum(axis=0)
            expected.append(joint / joint.sum(axis=0))
        for visit_row in visits.values():
            visit = int(filter_.visit_of[visit_row])
            weight *= [panel_factor(small, visit, CLASS, c) for c in range(N_CLASSES)]
        np.testing.assert_allclose(beliefs.weight[:, i], weight / weight.sum(), rtol=1e-9)
        for got, want in zip(beliefs.states, expected, strict=True):
            np.testing.assert_allclose(got[:, :, i], want, rtol=1e-9, atol=1e-15)


def followed(clinic: Clinic, rows: NDArray[np.int64], weeks: int) -> NDArray[np.bool_]:
    """Rows with the horizon before the extract and nobody away in it."""
    p, course = clinic.population, clinic.course
    subject, week = course.subject[rows], course.week[rows]
    away = (p.gap_start[subject] > week) & (p.gap_start[subject] <= week + weeks)
    away &= p.gap_start[subject] < p.gap_end[subject]
    return ~away & (week + weeks <= p.n_weeks[subject])


def calibration(n_subjects: int, seed: int) -> dict[str, tuple[float, float, float, float]]:
    """Outcome -> (observed / expected, its standard error, slope, its standard error)."""
    clinic = run_clinic(SimulationConfig(), n_subjects, seed, write=False)
    index = choose_index_rows(clinic, 1, OUTCOMES)
    filter_ = Filter(clinic)
    risks = probabilities(filter_, index.rows, filter_.beliefs(index.rows), OUTCOMES, (365,))
    out = {}
    for outcome in OUTCOMES:
        keep = index.at_risk[outcome] & followed(clinic, index.rows, 54)
        p = risks[outcome, 365][keep]
        y = happened(clinic, index.rows[keep], outcome, 365)
        x = logit(p)
        x = x - x.mean()
        # One Newton step from the truth (intercept 0, slope 1): the score test of the slope.
        information = float((p * (1 - p) * x * x).sum())
        slope = 1 + float((x * (y - p)).sum()) / information
        spread = float((p * (1 - p)).sum())
        out[outcome] = (y.sum() / p.sum(), spread**0.5 / p.sum(), slope, information**-0.5)
    return out


def test_the_truth_is_calibrated_within_its_own_error() -> None:
    for outcome, (ratio, ratio_se, slope, slope_se) in calibration(1200, seed=21).items():
        assert abs(ratio - 1) < 4 * ratio_se, (outcome, ratio)
        assert abs(slope - 1) < 4 * slope_se, (outcome, slope)


@pytest.mark.slow
def test_the_truth_is_calibrated_within_the_stated_limits() -> None:
    results = calibration(60_000, seed=5)
    for outcome in ("heart_failure", "sim_spontaneous", "knee_osteoarthritis"):
        ratio, ratio_se, slope, slope_se = results[outcome]
        assert abs(ratio - 1) < max(0.03, 3 * ratio_se), outcome
        assert abs(slope - 1) < max(0.05, 3 * slope_se), outcome


def test_risks_grow_with_the_horizon_and_stay_probabilities(small: Clinic) -> None:
    index = choose_index_rows(small, 2, OUTCOMES)
    filter_ = Filter(small)
    risks = probabilities(filter_, index.rows, filter_.beliefs(index.rows), OUTCOMES, (30, 365))
    for outcome in OUTCOMES:
        assert (risks[outcome, 30] >= 0).all()
        assert (risks[outcome, 30] <= risks[outcome, 365]).all()
        assert (risks[outcome, 365] < 1).all()


def test_a_prediction_needs_a_year_of_observation(small: Clinic) -> None:
    index = choose_index_rows(small, 3, OUTCOMES)
    assert (small.course.event[index.rows] == ROUTINE).all()
    assert small.course.week[index.rows].min() >= 53


def test_censoring_changes_what_is_seen_and_nothing_else() -> None:
    config = SimulationConfig.from_dict({"censoring": {"level": "heavy"}})
    light = run_clinic(SimulationConfig(), 200, seed=2, write=False)
    heavy = run_clinic(config, 200, seed=2, write=False)
    np.testing.assert_array_equal(light.course.event, heavy.course.event)
    np.testing.assert_array_equal(light.visits.start, heavy.visits.start)
    np.testing.assert_array_equal(light.held, heavy.held)
    assert len(heavy.shown) < 0.8 * len(light.shown)


def test_auroc_from_probabilities_is_a_sum_over_pairs() -> None:
    p, score = np.array([0.1, 0.5, 0.7]), np.array([1.0, 2.0, 2.0])
    won = total = 0.0
    for i in range(3):
        for j in range(3):
            if i != j:
                weight = p[i] * (1 - p[j])
                total += weight
                won += weight * ((score[i] > score[j]) + 0.5 * (score[i] == score[j]))
    assert probability_auroc(p, score) == pytest.approx(won / total)


def test_every_outcome_has_an_event() -> None:
    assert {e.outcome for e in EVENTS if e.outcome} >= set(OUTCOMES)
