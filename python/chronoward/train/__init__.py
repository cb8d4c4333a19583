"""Training: one loop, any objectives, resumable to the byte."""

from __future__ import annotations

from chronoward.packages import make_callable
from chronoward.train.config import TrainConfig
from chronoward.train.device import Place
from chronoward.train.run import Callbacks, train

__all__ = ["Callbacks", "Place", "TrainConfig", "train"]

make_callable(__name__)
