"""Training: one loop, any objectives, resumable to the byte."""

from __future__ import annotations

from chronoward.train.config import TrainConfig
from chronoward.train.run import Callbacks, train
from chronoward.verbs import make_callable

__all__ = ["Callbacks", "TrainConfig", "train"]

make_callable(__name__)
