"""How tokens are drawn. Risk needs the model's own distribution: temperature 1, nothing cut off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chronoward import _core
from chronoward.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chronoward.tokenizer.grammar import GrammarTables


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplingParams:
    """What a run of the engine draws, and what it sums up on the way.

    Raises:
        ConfigError: a value out of range, or outcome sets that do not fit their names.
    """

    seed: int = 0
    stream: str = "main"
    """Purpose of the numbers (pilot, main, synthesis); other streams are independent."""
    temperature: float = 1.0
    top_k: int = 0
    """Keep the k most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the most probable tokens that together hold this mass."""
    min_p: float = 0.0
    """Drop tokens less probable than this share of the most probable one."""
    forbid_end: bool = True
    """END is the end of a record, not an event; risk and synthesis never draw it."""
    outcome_sets: tuple[NDArray[np.int32], ...] = ()
    """Token ids of each outcome, whose summed probability is recorded at each draw."""
    outcome_names: tuple[str, ...] = ()
    """One a set; names the random stream of the set's own pool."""
    mask_outcomes: bool = False
    """One pool of rollouts a set, with that set masked (REACH); else one pool, nothing masked."""
    max_new_tokens: int = 1024

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            message = f"temperature must be positive, got {self.temperature}"
            raise ConfigError(message)
        if self.top_k < 0 or not 0 < self.top_p <= 1 or not 0 <= self.min_p <= 1:
            message = "top_k must be ≥ 0, top_p in (0, 1], min_p in [0, 1]"
            raise ConfigError(message)
        if self.max_new_tokens < 1:
            message = f"max_new_tokens must be positive, got {self.max_new_tokens}"
            raise ConfigError(message)
        for index, tokens in enumerate(self.outcome_sets):
            if len(tokens) == 0:
                message = f"outcome set {index} is empty"
                raise ConfigError(message)
        if self.outcome_names and len(self.outcome_names) != len(self.outcome_sets):
            message = "outcome_names needs one name for each outcome set"
            raise ConfigError(message)
        if len(set(self.outcome_names)) < len(self.outcome_names):
            message = "outcome_names must differ"
            raise ConfigError(message)
        if self.mask_outcomes and not self.outcome_sets:
            message = "mask_outcomes needs at least one outcome set"
            raise ConfigError(message)

    @property
    def is_plain(self) -> bool:
        """Whether the model's own distribution is drawn from, as risk needs."""
        return (self.temperature, self.top_k, self.top_p, self.min_p) == (1.0, 0, 1.0, 0.0)

    def pools(self) -> tuple[tuple[int, str], ...]:
        """(masked set or -1, stream) of each pool that every prompt gets."""
        if not self.mask_outcomes:
            return ((-1, self.stream),)
        names = self.outcome_names or tuple(str(k) for k in range(len(self.outcome_sets)))
        return tuple((k, f"{self.stream}/{name}") for k, name in enumerate(names))

    def sampler(self, grammar: GrammarTables, n_slots: int) -> _core.Sampler:
        """The sampler of these parameters (csrc/core/sample.hpp).

        Raises:
            ValueError: the grammar's arrays do not fit each other or the outcome sets.
        """
        return _core.Sampler(
            grammar,
            n_slots,
            outcome_sets=[sorted({int(t) for t in tokens}) for tokens in self.outcome_sets],
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            forbid_end=self.forbid_end,
            max_new_tokens=self.max_new_tokens,
        )
