"""The end of a run: hazards at which every outcome comes as often as in the data.

Like the biases of tokens (`train.settle`), the constants of a hazard head stand where the last
steps of training left them: a step in a thousand sees a rare outcome, all others pull its hazard
down, and Adam follows both. With the rest of the model fixed, the piecewise-exponential likelihood
is largest where the hazards of each outcome and piece, integrated over the time at risk in it, add
up to its events: piece += log(events / expected). What the model expects of a year at risk is told
by some batches; events and time at risk are counted in many more, since events are rare.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from chronoward.model.hazard import hazard_places
from chronoward.model.parts import part_like
from chronoward.train.settle import sent
from chronoward.train.shards import put_away

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from chronoward.model import Batch, Hazard, Model

    Floats = NDArray[np.float64]

PRIOR_SUBJECTS = 20.0  # with whose events before anything is counted a hazard is believed right


@dataclass(eq=False)
class FollowUp:
    """Follow-up of the moments of some batches, by outcome and piece: float64 (K, B).

    Attributes:
        years: at risk.
        events: moments that an outcome ends the follow-up of, in its last piece.
        expected: hazards integrated over the years at risk, where the model was asked.
        subjects: who the events are of, by (outcome, piece).
    """

    years: Floats
    events: Floats
    expected: Floats
    subjects: dict[tuple[int, int], set[int]] = field(default_factory=dict)

    @classmethod
    def nothing(cls, objective: Hazard) -> FollowUp:
        """Of no batches yet."""
        config = objective.head.config
        shape = (len(config.outcomes), len(config.edges_days))
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape))

    @torch.no_grad()
    def add(self, objective: Hazard, batch: Batch, hidden: Tensor | None = None) -> None:
        """Counts a batch; with `hidden` (T, d_model) also what the head expects there."""
        place = hazard_places(batch)
        subject = batch.segment_subject[batch.segments()[place]].numpy()
        minute = batch.time_min[place].numpy().astype(np.int64)
        head = objective.head
        years, event, at_risk = objective.table.targets(subject, minute, head.config.first_only)
        followed = torch.from_numpy(years * at_risk)
        exposure = head.exposure(torch.zeros_like(followed), followed).double()  # (n, K, B)
        self.years += exposure.sum(0).numpy()
        last = ((exposure > 0).sum(-1).clamp(min=1) - 1).numpy()
        row, outcome = np.nonzero(event)
        np.add.at(self.events, (outcome, last[row, outcome]), 1.0)
        for k, b, who in zip(outcome, last[row, outcome], subject[row], strict=True):
            self.subjects.setdefault((int(k), int(b)), set()).add(int(who))
        if hidden is not None:
            hazard = head(hidden[place.to(hidden.device)]).double().exp().cpu()
            self.expected += (hazard * exposure).sum(0).numpy()

    @property
    def n_subjects(self) -> Floats:
        """Subjects with an event, (K, B)."""
        found = np.zeros_like(self.events)
        for cell, who in self.subjects.items():
            found[cell] = len(who)
        return found


def level_shift(looked_at: FollowUp, everywhere: FollowUp) -> Floats:
    """How far the log hazard of each outcome and piece has to move, float64 (K, B).

    log(events / expected), drawn to 0 as if `PRIOR_SUBJECTS` more subjects had agreed with the
    model; 0 where there were no events.

    Args:
        looked_at: what the model expects of a year at risk.
        everywhere: the same moments and many more.
    """
    shift = np.zeros_like(everywhere.events)
    known = (everywhere.events > 0) & (looked_at.expected > 0)
    a_year = looked_at.expected[known] / looked_at.years[known]
    ratio = everywhere.events[known] / (a_year * everywhere.years[known])
    n = everywhere.n_subjects[known]
    shift[known] = np.log(ratio) * n / (n + PRIOR_SUBJECTS)
    return shift


@torch.no_grad()
def settle_hazards(
    model: Model,
    objective: Hazard,
    looked_at: Iterable[tuple[Batch, Tensor]],
    also_counted: Iterable[Batch],
) -> None:
    """Sets the constants of a trained hazard head, in place.

    Args:
        model: trained; batches stay on the CPU.
        objective: the one it was trained with.
        looked_at: batches for the model's expectations, each with the clock that the model sees,
            int32 (T,).
        also_counted: many more batches, without the model.
    """
    seen = FollowUp.nothing(objective)
    for batch, clock in looked_at:
        seen.add(objective, batch, model(*sent(model, batch, clock)))
    everywhere = deepcopy(seen)
    for batch in also_counted:
        everywhere.add(objective, batch)
    shift = torch.from_numpy(level_shift(seen, everywhere))
    put_away(model)
    piece = objective.head.piece
    piece.add_(part_like(shift.to(piece.device, piece.dtype), piece))
