"""What runs of engines have done so far, for progress and for benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import add, attrgetter


@dataclass(slots=True)
class EngineStatistics:
    """Counts since `Engine.generate` was called; they grow while it runs."""

    n_slots: int
    peak_cache_bytes: int = 0
    """Most that keys and values took."""
    rollouts: int = 0
    """Ended."""
    tokens: int = 0
    """Drawn, of the rollouts that have ended."""
    drawn: int = 0
    """Draws, of the rollouts that still run too."""
    steps: int = 0
    prefilled_tokens: int = 0
    cut_prompts: int = 0
    """Prefixes longer than the context, of which the newest half was kept."""
    cut_contexts: int = 0
    """Contexts that filled up while they ran, cut by the same rule."""

    @property
    def slot_use(self) -> float:
        """Share of slot-steps that drew a token."""
        return self.tokens / max(1, self.steps * self.n_slots)

    def plus(self, other: EngineStatistics) -> EngineStatistics:
        """This and another run of an engine with as many slots."""
        peak = max(self.peak_cache_bytes, other.peak_cache_bytes)
        return EngineStatistics(self.n_slots, peak, *map(add, _counts(self), _counts(other)))


NAMES = tuple(field.name for field in fields(EngineStatistics))
numbers_of = attrgetter(*NAMES)
_counts = attrgetter(*NAMES[2:])  # what runs add up


class Tally:
    """Counts of all runs of one engine: those that have ended and the one that runs.

    Args:
        n_slots: of the engine.
    """

    def __init__(self, n_slots: int) -> None:
        self._ended = EngineStatistics(n_slots)
        self._running = EngineStatistics(n_slots)

    def see(self, statistics: EngineStatistics) -> EngineStatistics:
        """Takes the counts of the run that goes on (one object a run); returns those of all."""
        if statistics is not self._running:
            self._ended = self._ended.plus(self._running)
            self._running = statistics
        return self._ended.plus(statistics)
