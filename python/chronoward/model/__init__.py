"""The decoder, its objectives and its checkpoints. The model does not know what a code is."""

from __future__ import annotations

from chronoward.model.batch import Batch
from chronoward.model.blocks import Block
from chronoward.model.checkpoint import load_model as load
from chronoward.model.checkpoint import read_config, save_model
from chronoward.model.config import PORTABLE, PRESETS, ModelConfig
from chronoward.model.gap import Gap, GapHead, Gaps, Subtime, SubtimeHead
from chronoward.model.growth import grow, place_rows
from chronoward.model.hazard import Hazard, HazardConfig, HazardHead, OutcomeTable
from chronoward.model.model import Model
from chronoward.model.next_visit import NextVisit, NextVisitConfig, NextVisitHead
from chronoward.model.objectives import HeadLoss, NextEvent, Objective

__all__ = [
    "PORTABLE",
    "PRESETS",
    "Batch",
    "Block",
    "Gap",
    "GapHead",
    "Gaps",
    "Hazard",
    "HazardConfig",
    "HazardHead",
    "HeadLoss",
    "Model",
    "ModelConfig",
    "NextEvent",
    "NextVisit",
    "NextVisitConfig",
    "NextVisitHead",
    "Objective",
    "OutcomeTable",
    "Subtime",
    "SubtimeHead",
    "grow",
    "load",
    "place_rows",
    "read_config",
    "save_model",
]
