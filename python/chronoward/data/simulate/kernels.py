"""One week of a chain as a few sparse matrices: what the filter and the propagation multiply by.

All of them come from the same integers as the draws (`Table.p`), divided by 2^24.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from chronoward.data.simulate.chains import DEATH, N_CLASSES, N_CONTEXTS, NO_EVENT, Table
from chronoward.data.simulate.draws import ONE
from chronoward.data.simulate.events import EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Belief = NDArray[np.float64]  # (n_states, N_CLASSES, n)

IS_OUTCOME: Final = np.array([bool(event.outcome) for event in EVENTS])


@dataclass(frozen=True, eq=False)
class Kernel:
    """A sparse matrix for each cell: edges with probabilities.

    Attributes:
        source, target: states of each edge.
        p: float64 [n_edges, n_contexts, N_CLASSES].
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    p: NDArray[np.float64]

    def gather(self, context: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities of each row's context, [n_edges, N_CLASSES, n]."""
        return np.ascontiguousarray(self.p[:, context].transpose(0, 2, 1))

    def apply(self, belief: Belief, gathered: NDArray[np.float64]) -> Belief:
        """belief · matrix, with `gathered` from `gather` of the rows' contexts."""
        out = np.zeros_like(belief)
        for e, (s, t) in enumerate(zip(self.source, self.target, strict=True)):
            out[t] += belief[s] * gathered[e]
        return out


def _kernel(table: Table, next_state: Callable[[int, int, int], int | None]) -> Kernel:
    """Sums branches into edges; `next_state(state, event, following)` is None to leave one out."""
    edges: dict[tuple[int, int], NDArray[np.int64]] = {}
    for s in range(table.n_states):
        for b in range(table.p.shape[1]):
            if not table.p[s, b].any():
                continue
            t = next_state(s, int(table.event[s, b]), int(table.next_state[s, b]))
            if t is not None:
                edges[s, t] = edges.get((s, t), 0) + table.p[s, b]
    p = np.stack(list(edges.values())) if edges else np.zeros((0, table.p.shape[2]), np.int64)
    return Kernel(
        tuple(s for s, _ in edges),
        tuple(t for _, t in edges),
        (p / ONE).reshape(len(edges), N_CONTEXTS, N_CLASSES),
    )


@dataclass(frozen=True, eq=False)
class ChainKernels:
    """All that is needed of one chain.

    Attributes:
        name: the chain.
        quiet: a week in which nothing was recorded of this chain.
        away: a week in which nobody looked: all branches, outcomes held back.
        events: a week with this event.
        forward: a week of which nothing is known. In a chain that can kill, outcomes go where they
            lead; in one that cannot, they are left out, so that the mass is what is event-free.
        outcome: probability of an outcome this week by state (an edge to itself).
        outcome_name: which outcome that is, or "".
        kills: whether the chain has deaths.
    """

    name: str
    n_states: int
    quiet: Kernel
    away: Kernel
    events: dict[int, Kernel]
    forward: Kernel
    outcome: Kernel
    outcome_name: str
    kills: bool


def _only(wanted: int) -> Callable[[int, int, int], int | None]:
    return lambda _state, event, following: following if event == wanted else None


def chain_kernels(table: Table) -> ChainKernels:
    """Builds the kernels of a chain."""
    used = {int(e) for e in table.event[table.p.any(axis=2)]}
    kills = DEATH in used
    outcomes = sorted({EVENTS[e].outcome for e in used if IS_OUTCOME[e]})

    def away(s: int, e: int, t: int) -> int | None:
        return None if e == DEATH else (s if IS_OUTCOME[e] else t)

    def forward(s: int, e: int, t: int) -> int | None:
        return None if e == DEATH or (IS_OUTCOME[e] and not kills) else t

    return ChainKernels(
        name=table.name,
        n_states=table.n_states,
        quiet=_kernel(table, _only(NO_EVENT)),
        away=_kernel(table, away),
        events={e: _kernel(table, _only(e)) for e in sorted(used - {NO_EVENT, DEATH})},
        forward=_kernel(table, forward),
        outcome=_kernel(table, lambda s, e, t: s if IS_OUTCOME[e] else None),
        outcome_name=outcomes[0] if outcomes else "",
        kills=kills,
    )
