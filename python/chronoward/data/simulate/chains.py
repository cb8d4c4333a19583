"""Disease chains: small discrete-state machines with one draw a subject and week.

In a week a chain takes one *branch*: an event to be written down (or none) together with the next
state. Given the subject's class (frailty, trait, contact) and the observed context (sex, race,
site, smoking, age), chains are independent of each other, and an event names the chain it came
from. That is what makes the forward filter exact: the posterior is a product over chains for each
class (`truth.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from chronoward.data.simulate.draws import ONE, cumulative, integer_probability
from chronoward.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Axis = NDArray[np.float64]

WEEKS_PER_YEAR: Final = 365.25 / 7.0

# Context axes (observed), then class axes (latent); a *cell* is one combination of all of them.
AXES: Final = ("sex", "race", "site", "smoker", "age", "frailty", "metabolic", "frequent")
SIZES: Final = (2, 2, 2, 2, 14, 3, 2, 2)
N_CONTEXTS: Final = int(np.prod(SIZES[:5]))
N_CLASSES: Final = int(np.prod(SIZES[5:]))
N_CELLS: Final = N_CONTEXTS * N_CLASSES
FIRST_AGE_BAND_YEARS: Final = 25
AGE_BAND_YEARS: Final = 5

NO_EVENT: Final = 0
DEATH: Final = 1


def axis(name: str, values: Sequence[float]) -> Axis:
    """Values along one of `AXES`, shaped to broadcast with the others."""
    position = AXES.index(name)
    shape = [1] * len(AXES)
    shape[position] = SIZES[position]
    return np.asarray(values, dtype=np.float64).reshape(shape)


def by_age(slope: float) -> Axis:
    """Ratio along the age axis: exp(slope) a decade, 1 at 65."""
    middle = FIRST_AGE_BAND_YEARS + AGE_BAND_YEARS * (np.arange(SIZES[4]) + 0.5)
    return axis("age", np.exp(slope * (middle - 65.0) / 10.0).tolist())


def by_flag(name: str, ratio: float) -> Axis:
    """1 without the flag, `ratio` with it."""
    return axis(name, (1.0, ratio))


def weekly(rate: Axis | float) -> Axis:
    """Probability a week of an event with this rate a year."""
    return -np.expm1(-np.asarray(rate, dtype=np.float64) / WEEKS_PER_YEAR)


def leaving(half_life_weeks: float) -> float:
    """Probability a week of leaving a state with this half-life."""
    return 1.0 - float(0.5 ** (1.0 / half_life_weeks))


@dataclass(frozen=True, eq=False)
class Branch:
    """From `state`, with probability `p` a week: event `event`, then `next_state`.

    `p` broadcasts to `SIZES`. A branch whose event is an outcome needs the clinic: while the
    subject is away (a gap in observation) it does not happen; other branches do, unrecorded.
    """

    state: int
    event: int
    next_state: int
    p: Axis | float


@dataclass(frozen=True, eq=False)
class Chain:
    """A chain as designed: `initial` holds probabilities [*SIZES, n_states] (broadcastable)."""

    name: str
    states: tuple[str, ...]
    branches: tuple[Branch, ...]
    initial: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """A chain compiled to integer probabilities.

    Attributes:
        cumulative: uint32 [N_CELLS * n_states, n_branches], thresholds in units of 2^-24. The last
            branch of a state is "nothing happens"; unused columns hold 2^24 and are never reached.
        p: int64 [n_states, n_branches, N_CELLS], the same as probabilities (0 where unused).
        event: int16 [n_states, n_branches].
        next_state: uint8 [n_states, n_branches].
        initial: int64 [N_CELLS, n_states] cumulative.
    """

    name: str
    states: tuple[str, ...]
    cumulative: NDArray[np.uint32]
    p: NDArray[np.int64]
    event: NDArray[np.int16]
    next_state: NDArray[np.uint8]
    initial: NDArray[np.int64]

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.states)


def compile_chain(chain: Chain) -> Table:
    """Rounds a chain's probabilities and lays them out by cell.

    Raises:
        ConfigError: a state's branches add up to more than one.
    """
    n_states = len(chain.states)
    branches: list[list[Branch]] = [
        [b for b in chain.branches if b.state == s] for s in range(n_states)
    ]
    width = max(len(b) for b in branches) + 1
    p = np.zeros((n_states, width, N_CELLS), np.int64)
    event = np.zeros((n_states, width), np.int16)
    next_state = np.repeat(np.arange(n_states, dtype=np.uint8)[:, None], width, axis=1)
    for s, of_state in enumerate(branches):
        for b, branch in enumerate(of_state):
            full = np.broadcast_to(np.asarray(branch.p, dtype=np.float64), SIZES)
            p[s, b] = integer_probability(full).reshape(-1)
            event[s, b] = branch.event
            next_state[s, b] = branch.next_state
        rest = ONE - p[s].sum(axis=0)
        if rest.min() < 0:
            message = (
                f"simulation config: in {chain.name}, state {chain.states[s]}, the probabilities "
                f"of one week add up to {1 - rest.min() / ONE:.3f}"
            )
            raise ConfigError(message)
        p[s, len(of_state)] = rest
    thresholds = np.minimum(np.cumsum(p, axis=1), ONE).astype(np.uint32)
    initial = np.broadcast_to(chain.initial, (*SIZES, n_states)).reshape(N_CELLS, n_states)
    return Table(
        name=chain.name,
        states=chain.states,
        cumulative=np.ascontiguousarray(thresholds.transpose(2, 0, 1)).reshape(-1, width),
        p=p,
        event=event,
        next_state=next_state,
        initial=cumulative(initial),
    )
