"""The exact truth: P(outcome recorded by t + H | what was recorded until t, alive, event-free).

A forward filter over (class, state of each chain), factorized over chains given the class, then
propagation of the chains to the horizon with death competing. No sampling: `mc_se` is 0. What the
filter conditions on is what is in the files: which events took place in which week, what each
routine visit's panel held, who was away, and that the subject lived.

A prediction is made at the end of a routine visit. Of that week the visit is known, but nothing
else: everything else comes later in the week (`events.py`). So the airway chain, which owns the
visit, is one week ahead of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from chronoward.data.simulate.chains import N_CLASSES
from chronoward.data.simulate.draws import ONE
from chronoward.data.simulate.events import DIAGNOSIS_DELAY, EVENTS, ROUTINE
from chronoward.data.simulate.kernels import Kernel, chain_kernels
from chronoward.data.simulate.panel import ABSENT, CLASS, Panel
from chronoward.data.simulate.population import class_table
from chronoward.data.simulate.schedule import MINUTES_PER_DAY, MINUTES_PER_WEEK, week_start

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from chronoward.data.simulate.clinic import Clinic
    from chronoward.data.simulate.population import Population

CHUNK_SUBJECTS: Final = 1024
CHUNK_ROWS: Final = 1024
NORMALIZE_WEEKS: Final = 13
# Chains without influence on anything that is predicted: no deaths, no outcome, no class.
UNUSED: Final = ("dialysis",)


@dataclass(frozen=True, eq=False)
class Beliefs:
    """Posterior at prediction times, [n] rows.

    Attributes:
        weight: float64 [N_CLASSES, n], sums to 1.
        states: for each chain float64 [n_states, N_CLASSES, n]; sums to 1 over states.
    """

    weight: NDArray[np.float64]
    states: tuple[NDArray[np.float64], ...]


def panel_likelihood(
    panel: Panel, held: NDArray[np.int8], late: NDArray[np.bool_], *, use_values: bool
) -> dict[int, NDArray[np.float64]]:
    """Likelihood of routine visits' panels, for each source float64 [n_levels, n].

    Whether a lab is taken tells nothing; what a lab shows tells if `use_values`.
    """
    del late  # labs are taken with a probability of the date alone: a constant factor
    out: dict[int, NDArray[np.float64]] = {}
    for k, item in enumerate(panel.items):
        present, bins = panel.present[k], panel.bins[k]
        column = held[:, k]
        if present is not None:
            p = (present / ONE)[:, None]
            factor = np.where(column[None, :] == ABSENT, 1.0 - p, p)
        elif bins is not None and use_values:
            p = np.diff(bins, axis=1, prepend=0) / ONE
            factor = np.where(column[None, :] == ABSENT, 1.0, p[:, np.maximum(column, 0)])
        else:
            continue
        out[item.source] = out.get(item.source, 1.0) * factor
    return out


class Filter:
    """The forward filter of one clinic."""

    def __init__(self, clinic: Clinic, *, use_values: bool = True) -> None:
        self.clinic = clinic
        self.kernels = tuple(chain_kernels(t) for t in clinic.chains)
        self.used = [m for m, k in enumerate(self.kernels) if k.name not in UNUSED]
        routine = np.flatnonzero(clinic.course.event == ROUTINE)
        self.visit_of = np.full(len(clinic.course.event), -1, dtype=np.int64)
        self.visit_of[routine] = np.arange(len(routine))
        late = np.zeros(len(routine), dtype=np.bool_)
        self.likelihood = panel_likelihood(clinic.panel, clinic.held, late, use_values=use_values)
        self.owner = {e: m for m in self.used for e in self.kernels[m].events}
        prior = class_table(clinic.config)
        self.class_prior = np.diff(prior, axis=1, prepend=0) / ONE

    def beliefs(self, rows: NDArray[np.int64]) -> Beliefs:
        """The posterior at the end of routine visits.

        Args:
            rows: int64 [n], ascending rows of the course that are routine visits.
        """
        course = self.clinic.course
        weight = np.empty((N_CLASSES, len(rows)))
        states = [np.empty((self.kernels[m].n_states, N_CLASSES, len(rows))) for m in self.used]
        subjects = np.unique(course.subject[rows])
        for start in range(0, len(subjects), CHUNK_SUBJECTS):
            chunk = subjects[start : start + CHUNK_SUBJECTS]
            low = np.searchsorted(course.subject[rows], chunk[0])
            high = np.searchsorted(course.subject[rows], chunk[-1], side="right")
            _FilterChunk(self, chunk, rows[low:high]).run(
                weight[:, low:high], [s[:, :, low:high] for s in states]
            )
        return Beliefs(weight, tuple(states))


class _FilterChunk:
    """Filters a chunk of subjects week by week until their last prediction."""

    def __init__(self, owner: Filter, subjects: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        self.f = owner
        self.subjects = subjects
        self.rows = rows
        course = owner.clinic.course
        self.population: Population = owner.clinic.population
        self.last_week = np.zeros(len(subjects), np.int64)
        position = np.searchsorted(subjects, course.subject[rows])
        np.maximum.at(self.last_week, position, course.week[rows])
        low = np.searchsorted(course.subject, subjects[0])
        high = np.searchsorted(course.subject, subjects[-1], side="right")
        span = np.arange(low, high)
        inside = np.isin(course.subject[span], subjects)
        span = span[inside & np.isin(course.event[span], list(owner.owner))]
        order = span[np.argsort(course.week[span], kind="stable")]
        self.events = order
        self.event_weeks = course.week[order]
        context = self.population.context(0, subjects)
        self.weight = owner.class_prior[context].T.copy()
        self.belief = []
        for m in owner.used:
            table = owner.clinic.chains[m]
            p = np.diff(table.initial, axis=1, prepend=0) / ONE
            by_context = p.reshape(-1, N_CLASSES, table.n_states)[context]
            self.belief.append(np.ascontiguousarray(by_context.transpose(2, 1, 0)))
        self.context = np.full(len(subjects), -1)

    def run(self, weight: NDArray[np.float64], states: list[NDArray[np.float64]]) -> None:
        """Fills the posterior of each row (views of the caller's arrays)."""
        course, f = self.f.clinic.course, self.f
        row_of = {int(row): i for i, row in enumerate(self.rows)}
        for week in range(int(self.last_week.max(initial=-1)) + 1):
            self._refresh(week)
            low, high = np.searchsorted(self.event_weeks, [week, week + 1])
            events = self.events[low:high]
            place = np.searchsorted(self.subjects, course.subject[events])
            routine = course.event[events] == ROUTINE
            self._see(place[routine], events[routine])
            before = self.belief
            after = self._step(week, before, events, place)
            wanted = [
                (p, row_of[e]) for p, e in zip(place, events.tolist(), strict=True) if e in row_of
            ]
            if wanted:
                at = np.array([p for p, _ in wanted])
                to = np.array([i for _, i in wanted])
                known = [
                    (after if f.kernels[m].name == "airway" else before)[i][:, :, at]
                    for i, m in enumerate(f.used)
                ]
                self._save(at, to, known, weight, states)
            self.belief = after
            if week % NORMALIZE_WEEKS == NORMALIZE_WEEKS - 1:
                self._normalize()

    def _refresh(self, week: int) -> None:
        """Gathers the probabilities again when contexts (ages) move."""
        context = self.population.context(week, self.subjects)
        if np.array_equal(context, self.context):
            return
        self.context = context
        self.quiet = [self.f.kernels[m].quiet.gather(context) for m in self.f.used]

    def _see(self, place: NDArray[np.int64], events: NDArray[np.int64]) -> None:
        """Multiplies in the panels of this week's routine visits."""
        visit = self.f.visit_of[events]
        for source, likelihood in self.f.likelihood.items():
            if source == CLASS:
                self.weight[:, place] *= likelihood[:, visit]
            else:
                i = self.f.used.index(source)
                self.belief[i][:, :, place] *= likelihood[:, None, visit]

    def _step(
        self,
        week: int,
        before: list[NDArray[np.float64]],
        events: NDArray[np.int64],
        place: NDArray[np.int64],
    ) -> list[NDArray[np.float64]]:
        population, f = self.population, self.f
        kinds = f.clinic.course.event[events]
        owners = np.array([f.owner[int(e)] for e in kinds], dtype=np.int64)
        away = np.flatnonzero(
            (population.gap_start[self.subjects] <= week)
            & (week < population.gap_end[self.subjects])
        )
        after = []
        for i, m in enumerate(f.used):
            kernels = f.kernels[m]
            belief = kernels.quiet.apply(before[i], self.quiet[i])
            for e in np.unique(kinds[owners == m]).tolist():
                at = place[kinds == e]
                belief[:, :, at] = _apply_at(kernels.events[e], before[i], self.context, at)
            if len(away):
                belief[:, :, away] = _apply_at(kernels.away, before[i], self.context, away)
            after.append(belief)
        return after

    def _normalize(self) -> None:
        for i, belief in enumerate(self.belief):
            total = belief.sum(axis=0)
            self.weight *= total
            self.belief[i] = belief / np.where(total > 0, total, 1.0)
        self.weight /= self.weight.sum(axis=0)

    def _save(
        self,
        at: NDArray[np.int64],
        to: NDArray[np.int64],
        known: list[NDArray[np.float64]],
        weight: NDArray[np.float64],
        states: list[NDArray[np.float64]],
    ) -> None:
        class_weight = self.weight[:, at].copy()
        for i, belief in enumerate(known):
            total = belief.sum(axis=0)
            class_weight *= total
            states[i][:, :, to] = belief / np.where(total > 0, total, 1.0)
        weight[:, to] = class_weight / class_weight.sum(axis=0)


def _apply_at(
    kernel: Kernel,
    belief: NDArray[np.float64],
    context: NDArray[np.int64],
    at: NDArray[np.int64],
) -> NDArray[np.float64]:
    return kernel.apply(belief[:, :, at], kernel.gather(context[at]))


def _within_week(outcome: str, minutes_left: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of a week's cases of an outcome that are recorded within so many minutes of it.

    Several stays in one week are spread over it and may come a day later; that is left out.
    """
    event = next(e for e in EVENTS if e.outcome == outcome)
    first = event.start + (DIAGNOSIS_DELAY if event.place == "stay" else 0)
    return np.clip((minutes_left - first + 1) / event.jitter, 0.0, 1.0)


def probabilities(
    filter_: Filter,
    rows: NDArray[np.int64],
    beliefs: Beliefs,
    outcomes: Iterable[str],
    horizons_days: Iterable[int],
) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Propagates beliefs to the horizons.

    Args:
        filter_: the clinic's filter.
        rows: int64 [n], rows of the course (routine visits) at whose ends the questions are asked.
        beliefs: the posterior there.
        outcomes: names.
        horizons_days: whole days.

    Returns:
        For each (outcome, horizon) float64 [n]: the probability that the outcome is recorded in
        (t, t + H] while the subject lives, for an event-free subject (others: meaningless).
    """
    outcomes, horizons = list(outcomes), sorted(horizons_days)
    out = {(o, h): np.empty(len(rows)) for o in outcomes for h in horizons}
    for start in range(0, len(rows), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        chunk = Beliefs(beliefs.weight[:, part], tuple(s[:, :, part] for s in beliefs.states))
        for key, p in _propagate(filter_, rows[part], chunk, outcomes, horizons).items():
            out[key][part] = p
    return out


def _propagate(
    f: Filter, rows: NDArray[np.int64], beliefs: Beliefs, outcomes: list[str], horizons: list[int]
) -> dict[tuple[str, int], NDArray[np.float64]]:
    course, population = f.clinic.course, f.clinic.population
    subject, first_week = course.subject[rows], course.week[rows]
    into_week = f.clinic.visits.end[rows] - week_start(population, subject, first_week)
    kernels = [f.kernels[m] for m in f.used]
    needed = [i for i, c in enumerate(kernels) if c.kills or c.outcome_name in outcomes]
    chains = [kernels[i] for i in needed]
    belief = [beliefs.states[i] for i in needed]
    alive = [np.ones((N_CLASSES, len(rows))) for _ in chains]
    out = {(o, h): np.zeros(len(rows)) for o in outcomes for h in horizons}
    context = np.full(len(rows), -1)
    last = (int(into_week.max(initial=0)) + horizons[-1] * MINUTES_PER_DAY) // MINUTES_PER_WEEK
    for k in range(last + 1):
        now = population.context(first_week + k, subject)
        if not np.array_equal(now, context):
            context = now
            forward = [c.forward.gather(context) for c in chains]
            hits = [c.outcome.gather(context) for c in chains]
        others = _products_without_own(alive)
        for i, c in enumerate(chains):
            if k == 0 and c.name == "airway":
                continue  # its week is known already
            if c.outcome_name in outcomes:
                mass = c.outcome.apply(belief[i], hits[i]).sum(axis=0) * others[i]
                recorded = (beliefs.weight * mass).sum(axis=0)
                for h in horizons:
                    left = into_week + h * MINUTES_PER_DAY - k * MINUTES_PER_WEEK
                    out[c.outcome_name, h] += recorded * _within_week(c.outcome_name, left)
            belief[i] = c.forward.apply(belief[i], forward[i])
            if c.kills:
                alive[i] = belief[i].sum(axis=0)
    return out


def _products_without_own(factors: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """For each factor the product of all the others."""
    n = len(factors)
    before, after = [np.ones_like(factors[0])], [np.ones_like(factors[0])]
    for i in range(n - 1):
        before.append(before[-1] * factors[i])
        after.append(after[-1] * factors[n - 1 - i])
    return [b * a for b, a in zip(before, reversed(after), strict=True)]
