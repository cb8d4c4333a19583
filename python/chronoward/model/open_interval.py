"""The time after a timeline's last token: nothing came until observation ended.

Without it the likelihood holds only gaps that a later visit closed. The end of observation cuts off
long gaps more often than short ones, so a model would learn gaps that are too short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import linear

from chronoward.model.batch import on_device

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from chronoward.model.batch import Batch
    from chronoward.model.model import Model

_LEAST_SHARE = 1e-6  # of a duration beyond everything that its token's bucket holds
_ASCENT_MIN = 1e-6  # added from quantile to quantile: equal ones must ascend to be inverted


@dataclass(frozen=True, eq=False)
class OpenIntervals:
    """What closes a timeline, and how long each one stayed open.

    Attributes:
        end_min: int64 (n,), end of each timeline's observation on its clock; -1: not known.
        end_id: token that closes a record.
        leaves_open: bool (V,), tokens after which the record waits for a gap token.
        gap_id: int64 (G,), the gap tokens.
        gap_min: float64 (G, 33), quantile functions of their durations on an even grid, minutes.
    """

    end_min: NDArray[np.int64]
    end_id: int
    leaves_open: NDArray[np.bool_]
    gap_id: NDArray[np.int64]
    gap_min: NDArray[np.float64]

    def places(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Last positions of a packed row's open timelines, and the minutes they stayed open."""
        token = batch.token_id.cpu().numpy()
        bounds = batch.cu_seqlens.cpu().numpy().astype(np.int64)
        subject = batch.segment_subject.cpu().numpy()
        first, last = bounds[:-1], bounds[1:] - 1
        held = np.flatnonzero((last - first[: len(last)] > 0) & (subject >= 0))
        held = held[token[last[held]] == self.end_id]
        held = held[self.leaves_open[token[last[held] - 1]]]
        place = last[held] - 1
        waited = self.end_min[subject[held]] - batch.time_min.cpu().numpy()[place]
        return place[waited > 0], waited[waited > 0].astype(np.int64)

    def survival(self, waited_min: NDArray[np.int64]) -> NDArray[np.float64]:
        """P(duration > waited) of each gap token.  # (n,) -> (n, G)"""
        n_points = self.gap_min.shape[1]
        grid, ascent = np.linspace(0.0, 1.0, n_points), _ASCENT_MIN * np.arange(n_points)
        shares = [1.0 - np.interp(waited_min, q + ascent, grid) for q in self.gap_min]
        return np.stack(shares, axis=1)

    def loss(self, model: Model, hidden: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """Σ −log Σ_g p(g) P(duration of g > waited) over a packed row's open timelines.

        Args:
            model: its output layer.
            hidden: (T, d_model).
            batch: the row.

        Returns:
            The sum, differentiable, and the number of terms.
        """
        place, waited = self.places(batch)
        if not len(place):
            return hidden.new_zeros(()), 0
        context = model.context_bias.context(
            batch.token_id, batch.cu_seqlens, torch.from_numpy(place)
        )
        at = on_device(torch.from_numpy(place), hidden.device)
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        scores = linear(hidden[at], model.output_weight).to(wide)
        logits = model.context_bias(scores, context)
        survival = np.maximum(self.survival(waited), _LEAST_SHARE)
        share = on_device(torch.from_numpy(survival).to(logits.dtype), logits.device)
        gaps = logits[:, on_device(torch.from_numpy(self.gap_id), logits.device)]
        beyond = torch.logsumexp(gaps + share.log(), dim=1)
        return (torch.logsumexp(logits, dim=1) - beyond).sum(), len(place)
