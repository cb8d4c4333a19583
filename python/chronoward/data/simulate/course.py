"""The hidden course: every chain of every living subject, one week after the other.

Nothing here knows about censoring: the whole life until the extract is simulated, and what of it
is written down is decided later. So light and heavy censoring see the same subjects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chronoward.data.simulate.chains import DEATH, N_CLASSES, NO_EVENT, Table
from chronoward.data.simulate.draws import Draws, Purpose, choose, fraction
from chronoward.data.simulate.events import EVENTS, ROUTINE
from chronoward.data.simulate.population import AGE_REFRESH_WEEKS, Population

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEVER = np.iinfo(np.int32).max
IS_OUTCOME = np.array([bool(event.outcome) for event in EVENTS])


@dataclass(frozen=True, eq=False)
class Course:
    """What happened.

    Attributes:
        subject, week, event: int64 [n_events], by subject, then week, then event; no deaths and
            nothing from weeks away.
        routine_state: uint8 [n_routine, n_chains], the chains' states at the start of the week of
            each routine visit, in the order of the routine events.
        death_week: int64 [n_subjects], `NEVER` while alive.
        final_state: uint8 [n_subjects, n_chains], when the simulation left the subject.
    """

    subject: NDArray[np.int64]
    week: NDArray[np.int64]
    event: NDArray[np.int64]
    routine_state: NDArray[np.uint8]
    death_week: NDArray[np.int64]
    final_state: NDArray[np.uint8]


def _initial_states(
    tables: tuple[Table, ...], draws: Draws, population: Population, cell: NDArray[np.int64]
) -> NDArray[np.int64]:
    words = draws.words(Purpose.PERSON, population.subject, len(tables), item=1)
    states = [
        choose(words[m], table.initial[cell]) if table.n_states > 1 else np.zeros_like(cell)
        for m, table in enumerate(tables)
    ]
    return np.stack(states)


def simulate_course(tables: tuple[Table, ...], draws: Draws, population: Population) -> Course:
    """Simulates everyone from entry to death or extract, in memory of about 50 bytes an event."""
    n, n_chains = len(population.subject), len(tables)
    cell = population.context(0) * N_CLASSES + population.latent_class
    state = _initial_states(tables, draws, population, cell)
    death_week = np.full(n, NEVER, dtype=np.int64)
    final_state = np.zeros((n, n_chains), np.uint8)
    found: list[tuple[NDArray[np.int64], int, NDArray[np.int64], NDArray[np.uint8]]] = []
    rows = population.subject.copy()
    for week in range(int(population.n_weeks.max(initial=0))):
        stays = (population.n_weeks[rows] > week) & (death_week[rows] == NEVER)
        if not stays.all():
            final_state[rows[~stays]] = state[:, ~stays].T
            rows, state, cell = rows[stays], state[:, stays], cell[stays]
        if week % AGE_REFRESH_WEEKS == 0:
            cell = population.context(week, rows) * N_CLASSES + population.latent_class[rows]
        away = (population.gap_start[rows] <= week) & (week < population.gap_end[rows])
        drawn = fraction(draws.words(Purpose.COURSE, rows, n_chains, week=week))
        before = state.astype(np.uint8)
        dead = np.zeros(len(rows), dtype=np.bool_)
        for m, table in enumerate(tables):
            thresholds = table.cumulative[cell * table.n_states + state[m]]
            branch = np.count_nonzero(drawn[m][:, None] >= thresholds, axis=1)
            event = table.event[state[m], branch]
            following = table.next_state[state[m], branch]
            dead |= event == DEATH
            state[m] = np.where(away & IS_OUTCOME[event], state[m], following)
            hits = np.flatnonzero((event > DEATH) & ~away)
            if len(hits):
                found.append((rows[hits], week, event[hits].astype(np.int64), before[:, hits]))
        death_week[rows[dead]] = week
    final_state[rows] = state.T
    return _gather(found, death_week, final_state)


def _gather(
    found: list[tuple[NDArray[np.int64], int, NDArray[np.int64], NDArray[np.uint8]]],
    death_week: NDArray[np.int64],
    final_state: NDArray[np.uint8],
) -> Course:
    n_chains = final_state.shape[1]
    empty = np.zeros(0, np.int64)
    subject = np.concatenate([f[0] for f in found] or [empty])
    week = np.concatenate([np.full(len(f[0]), f[1], np.int64) for f in found] or [empty])
    event = np.concatenate([f[2] for f in found] or [empty])
    before = np.concatenate([f[3] for f in found] or [np.zeros((n_chains, 0), np.uint8)], axis=1)
    order = np.lexsort((event, week, subject))
    subject, week, event, before = subject[order], week[order], event[order], before[:, order]
    return Course(
        subject=subject,
        week=week,
        event=event,
        routine_state=np.ascontiguousarray(before[:, event == ROUTINE].T),
        death_week=death_week,
        final_state=final_state,
    )


__all__ = ["NEVER", "NO_EVENT", "Course", "simulate_course"]
