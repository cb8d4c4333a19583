"""Objectives: one interface, any mix.

An objective turns hidden states into a sum and the number of terms in it, so that the terms of
several rows or workers can be added before they are divided.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch

from chronoward.errors import ConfigError
from chronoward.model.cross_entropy import check_loss_backend, chunked_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

    from chronoward.model.batch import Batch
    from chronoward.model.model import Model
    from chronoward.model.open_interval import OpenIntervals

REPEAT_WEIGHTS = ("none", "raven", "exp")
RAVEN_FLOOR = 0.1


@dataclass(frozen=True, eq=False)
class HeadLoss:
    """What an objective says about one batch.

    Attributes:
        total: sum of the weighted terms, differentiable.
        weight: sum of the weights (number of terms when all weigh 1).
        parts: sums and counts for the log, name -> (sum, count), without gradient.
    """

    total: Tensor
    weight: float
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)


class Objective(Protocol):
    """An objective of training."""

    @property
    def name(self) -> str:
        """Its name on the command line and in the log."""

    @property
    def unit(self) -> str:
        """Unit of `total / weight`."""

    def n_terms(self, batch: Batch) -> float:
        """Sum of the weights that `loss` will have: known before the model has seen the batch."""

    def loss(self, model: Model, hidden: Tensor, batch: Batch) -> HeadLoss:
        """Loss of one batch, given the model's hidden states (T, d_model)."""


def next_event_places(batch: Batch) -> tuple[Tensor, Tensor]:
    """Positions that predict, and the tokens they predict: the next of the same segment.

    Returns:
        int64 (n,) positions and int64 (n,) targets.
    """
    segment = batch.segments()
    predicts = batch.loss_mask[1:] & (segment[1:] == segment[:-1])
    place = predicts.nonzero().squeeze(1)
    return place, batch.token_id[place + 1]


def repeat_weights(n_prior: Tensor, kind: str, rate: float) -> Tensor:
    """Weight of predicting a token that occurred in `n_prior` earlier visits, fp32.

    `none`: 1; `raven`: max(rate^n_prior, 0.1); `exp`: e^(−rate · n_prior). (RAVEN, arXiv
    2603.24562; the count starts with the subject's whole history.)
    """
    if kind == "none":
        return torch.ones(n_prior.shape, device=n_prior.device)
    count = n_prior.float()
    if kind == "raven":
        return (rate**count).clamp(min=RAVEN_FLOOR)
    return torch.exp(-rate * count)


@dataclass(frozen=True, kw_only=True)
class NextEvent:
    """Cross-entropy of the next token.

    Args:
        repeat_weight: `none`, `raven` or `exp`. Weighted cross-entropy learns q ∝ w·p: recurrences
            come out too rare unless the weights are divided out again.
        repeat_rate: base of `raven` (0.5), rate of `exp` (0.5).
        token_group: int64 (V,), group of each token for the log (time, code, value, structure).
        group_names: names of the groups.
        open_intervals: what closes the split's timelines; None leaves the time after their last
            tokens out of the likelihood.
        backend: `liger` takes liger-kernel's Triton kernel on a GPU (extra [liger]), with the same
            values; None chooses by device.

    Raises:
        ConfigError: an unknown weighting, or a backend that is unknown or not installed.
    """

    repeat_weight: str = "none"
    repeat_rate: float = 0.5
    token_group: Tensor | None = None
    group_names: tuple[str, ...] = ()
    open_intervals: OpenIntervals | None = None
    backend: str | None = None
    name: str = "next_event"
    unit: str = "nats per token"

    def __post_init__(self) -> None:
        if self.repeat_weight not in REPEAT_WEIGHTS:
            message = f"repeat_weight must be one of {REPEAT_WEIGHTS}, got {self.repeat_weight!r}"
            raise ConfigError(message)
        check_loss_backend(self.backend)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Places that predict, the tokens they predict, and the weights of the terms, (n,) each."""
        place, target = next_event_places(batch)
        weight = repeat_weights(batch.n_prior[place + 1], self.repeat_weight, self.repeat_rate)
        return place, target, weight

    def n_terms(self, batch: Batch) -> float:
        """Weights of the predicted tokens, and one for each open interval."""
        n_open = 0 if self.open_intervals is None else len(self.open_intervals.places(batch)[0])
        return float(self.targets(batch)[2].double().sum()) + n_open

    def loss(self, model: Model, hidden: Tensor, batch: Batch) -> HeadLoss:
        """Weighted sum over predicted tokens; `parts` holds the unweighted sums by group."""
        place, target, weight = self.targets(batch)
        bias = model.context_bias
        total, losses = chunked_cross_entropy(
            *(hidden, model.output_weight, bias.unseen, bias.known, place, target, weight),
            bias.context(batch.token_id, batch.cu_seqlens, place, batch.output_sample),
            sample=batch.output_sample,
            backend=self.backend,
        )
        parts = {"all": (float(losses.double().sum()), float(losses.shape[0]))}
        if self.token_group is not None:
            group = self.token_group.to(target.device)[target]
            n_groups = len(self.group_names)
            sums = torch.zeros(n_groups, dtype=torch.float64, device=target.device)
            sums.index_add_(0, group, losses.double())
            counts = torch.bincount(group, minlength=n_groups)
            for name, total_, count in zip(
                self.group_names, sums.tolist(), counts.tolist(), strict=True
            ):
                parts[name] = (total_, float(count))
        n_terms = float(weight.double().sum())
        if self.open_intervals is not None:
            still_open, n_open = self.open_intervals.loss(model, hidden, batch)
            total, n_terms = total + still_open, n_terms + n_open
            parts["open"] = (float(still_open.detach()), float(n_open))
        return HeadLoss(total, n_terms, parts)
