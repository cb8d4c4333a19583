"""What a run learns from, and what it is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chronoward.loader import PackedRow
    from chronoward.model import Batch, Objective
    from chronoward.train.rare_codes import RareCodes
    from chronoward.train.redraw import Redraw


class Rows(Protocol):
    """Packed rows by (epoch, step); `chronoward.loader.Loader` is one."""

    def n_steps(self, epoch: int) -> int: ...
    def step(self, epoch: int, step: int) -> Sequence[PackedRow]: ...


class Evaluation(NamedTuple):
    """Weighted loss on the tuning split, and its report by head."""

    loss: float
    report: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Data:
    """What a run learns from and is judged by; all of it stays on the CPU.

    Attributes:
        train: rows to learn from.
        objectives: what is learned from them.
        tuning: batches of the tuning split, always the same ones; may be empty.
        tuning_objectives: the objectives, with the tuning split's outcomes.
        redraw: gives the clock that the model sees in a training step; None: the recorded one.
        rare_codes: chooses the tokens whose logits a training step makes; None: all.
    """

    train: Rows
    objectives: Sequence[Objective]
    tuning: Sequence[Batch]
    tuning_objectives: Sequence[Objective]
    redraw: Redraw | None = None
    rare_codes: RareCodes | None = None
