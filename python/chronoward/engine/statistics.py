"""What a run of the engine has done so far, for progress and for benchmarks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EngineStatistics:
    """Counts since `Engine.generate` was called; they grow while it runs."""

    n_slots: int
    rollouts: int = 0
    """Ended."""
    tokens: int = 0
    """Drawn."""
    steps: int = 0
    prefilled_tokens: int = 0
    cut_prompts: int = 0
    """Prefixes longer than the context, of which the newest half was kept."""
    cut_contexts: int = 0
    """Contexts that filled up while they ran, cut by the same rule."""
    peak_cache_bytes: int = 0
    """Most that keys and values took."""

    @property
    def slot_use(self) -> float:
        """Share of slot-steps that drew a token."""
        return self.tokens / max(1, self.steps * self.n_slots)
