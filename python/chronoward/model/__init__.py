"""The decoder, its objectives and its checkpoints. The model does not know what a code is."""

from __future__ import annotations

from chronoward.model.blocks import Block
from chronoward.model.config import PRESETS, ModelConfig
from chronoward.model.model import Model

__all__ = ["PRESETS", "Block", "Model", "ModelConfig"]
