"""Continues token timelines under a grammar, the same bytes whatever runs beside it."""

from __future__ import annotations

from chronoward.engine.engine import Engine, EngineConfig
from chronoward.engine.rollout import STATUSES, UNDETERMINED, Prompt, Rollout
from chronoward.engine.sampling import SamplingParams
from chronoward.engine.statistics import EngineStatistics

__all__ = [
    "STATUSES",
    "UNDETERMINED",
    "Engine",
    "EngineConfig",
    "EngineStatistics",
    "Prompt",
    "Rollout",
    "SamplingParams",
]
