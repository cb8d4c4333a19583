"""The time to the next visit as a Gamma distribution, and in three factors of the calendar.

Both read the state before a gap and are told by the clock, not by the gap's token, how long it
took: CEHR-XGPT's auxiliary losses (arXiv 2509.03643; the formulas are those of its code). Unlike
there, the wait after a record's last visit counts too: nobody came until observation ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chronoward.model.batch import on_device
from chronoward.model.objectives import HeadLoss, next_event_places

if TYPE_CHECKING:
    from chronoward.model.batch import Batch
    from chronoward.model.model import Model
    from chronoward.model.open_interval import OpenIntervals

MINUTES_PER_DAY = 1440
LEAST_PARAMETER, MOST_PARAMETER = 1e-3, 1e3  # of the Gamma distribution, as CEHR-XGPT has them
LEAST_DAYS = 1 / MINUTES_PER_DAY
FACTORS = (21, 13, 30)  # years (the last one: 20 and more), months of 30 days, days
_FAR = 60.0  # standard deviations past the mean from which the tail is its asymptote


class LogSurvival(torch.autograd.Function):
    """log Q(k, x), Q the regularized upper incomplete gamma function, fp64.

    torch has no gradient in k; central differences with h = 1e-5 k leave about ten digits.
    """

    @staticmethod
    def forward(ctx: Any, k: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(k, x)
        return _log_survival(k, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        k, x = ctx.saved_tensors
        step = 1e-5 * k
        d_k = (_log_survival(k + step, x) - _log_survival(k - step, x)) / (2 * step)
        log_density = (k - 1) * x.log() - x - torch.lgamma(k)
        d_x = -torch.exp(log_density - _log_survival(k, x))
        return gradient * d_k, gradient * d_x


def _log_survival(k: Tensor, x: Tensor) -> Tensor:
    """log Q(k, x); far out by Γ(k, x) ~ x^(k-1) e^(-x) (1 + (k-1)/x + (k-1)(k-2)/x²)."""
    is_far = x > k + _FAR * (k.sqrt() + 1)
    near = torch.special.gammaincc(k, torch.where(is_far, k, x)).log()
    series = (k - 1) / x * (1 + (k - 2) / x)
    far = (k - 1) * x.log() - x - torch.lgamma(k) + torch.log1p(series.clamp(min=-0.99))
    return torch.where(is_far, far, near)


def gamma_nll(k: Tensor, rate: Tensor, days: Tensor) -> Tensor:
    """−log Gamma(days; k, rate) = −(k log rate − log Γ(k) + (k − 1) log days − rate · days)."""
    return torch.lgamma(k) - k * rate.log() - (k - 1) * days.log() + rate * days


def gamma_survival_nll(k: Tensor, rate: Tensor, days: Tensor) -> Tensor:
    """−log P(gap > days), fp64."""
    survival: Tensor = LogSurvival.apply(k.double(), (rate * days).double())  # type: ignore[no-untyped-call]
    return -survival


def factors_of(days: Tensor) -> Tensor:
    """Years, months and days of whole days n: n // 365, n % 365 // 30, n % 365 % 30.

    Args:
        days: int64 (n,), not negative.

    Returns:
        int64 (n, 3); years stop at the last class.
    """
    rest = days % 365
    years = (days // 365).clamp(max=FACTORS[0] - 1)
    return torch.stack([years, rest // 30, rest % 30], dim=1)


class GapHead(nn.Module):
    """Shape k and rate (per day) of the coming gap: softplus of two linear functions, clamped."""

    def __init__(self, d_model: int, mean_days: float) -> None:
        super().__init__()
        self.parameters_of = nn.Linear(d_model, 2)
        with torch.no_grad():
            self.parameters_of.weight.zero_()
            rate = min(max(1 / max(mean_days, LEAST_DAYS), LEAST_PARAMETER), MOST_PARAMETER)
            start = torch.tensor([1.0, rate], dtype=torch.float64)
            self.parameters_of.bias.copy_(torch.log(torch.expm1(start)))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """k and rate, fp32.  # (n, d_model) -> (n,), (n,)"""
        both = functional.softplus(self.parameters_of(hidden).float())
        k, rate = both.clamp(LEAST_PARAMETER, MOST_PARAMETER).unbind(1)
        return k, rate


class SubtimeHead(nn.Module):
    """Scores of the coming gap's years, months and days: one linear layer each."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.scores = nn.Linear(d_model, sum(FACTORS))
        with torch.no_grad():
            self.scores.weight.zero_()
            self.scores.bias.zero_()

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """Three tensors of scores, fp32.  # (n, d_model) -> (n, C_f)"""
        years, months, days = torch.split(self.scores(hidden).float(), list(FACTORS), dim=1)
        return years, months, days


@dataclass(frozen=True, eq=False)
class Gaps:
    """Where the next token of a record is a gap.

    Attributes:
        is_gap: bool (V,).
    """

    is_gap: Tensor

    def places(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Positions before a gap, int64 (n,), and its minutes by the record's clock, int64 (n,)."""
        place, target = next_event_places(batch)
        place = place[self.is_gap.to(target.device)[target]]
        return place, (batch.time_min[place + 1] - batch.time_min[place]).long()


class Gap:
    """Gamma likelihood of the gaps in days; the wait that a record ends with is censored.

    Σ −log Gamma(t; k(h), λ(h)) over gaps, Σ −log P(T > t; k(h), λ(h)) over open waits.
    """

    name = "gap"
    unit = "nats per gap"

    def __init__(self, head: GapHead, gaps: Gaps, open_intervals: OpenIntervals) -> None:
        self.head = head
        self._gaps = gaps
        self._open = open_intervals

    def n_terms(self, batch: Batch) -> float:
        """Gaps and open waits."""
        return float(len(self._gaps.places(batch)[0]) + len(self._open.places(batch)[0]))

    def loss(self, model: Model, hidden: Tensor, batch: Batch) -> HeadLoss:
        """Summed over the batch's gaps and open waits."""
        del model
        device = hidden.device
        place, minutes = (on_device(x, device) for x in self._gaps.places(batch))
        days = (minutes.to(torch.float32) / MINUTES_PER_DAY).clamp(min=LEAST_DAYS)
        k, rate = self.head(hidden[place])
        closed = gamma_nll(k, rate, days).sum()
        place_open, waited = self._open.places(batch)
        at = on_device(torch.from_numpy(place_open), device)
        waited_days = on_device(torch.from_numpy(waited).to(torch.float32), device)
        waited_days = waited_days / MINUTES_PER_DAY
        k, rate = self.head(hidden[at])
        still_open = gamma_survival_nll(k, rate, waited_days).sum()
        parts = {
            "closed": (closed.detach(), float(len(place))),
            "open": (still_open.detach(), float(len(at))),
        }
        return HeadLoss(closed + still_open.to(closed), float(len(place) + len(at)), parts)


class Subtime:
    """Cross-entropy of the gap's whole days as years, months and days, conditionally independent.

    Σ −log p(n // 365 | h) − log p(n % 365 // 30 | h) − log p(n % 365 % 30 | h).
    """

    name = "subtime"
    unit = "nats per gap"

    def __init__(self, head: SubtimeHead, gaps: Gaps) -> None:
        self.head = head
        self._gaps = gaps

    def n_terms(self, batch: Batch) -> float:
        """Gaps."""
        return float(len(self._gaps.places(batch)[0]))

    def loss(self, model: Model, hidden: Tensor, batch: Batch) -> HeadLoss:
        """Summed over the batch's gaps and the three factors."""
        del model
        place, minutes = (on_device(x, hidden.device) for x in self._gaps.places(batch))
        target = factors_of(minutes // MINUTES_PER_DAY)
        scores = self.head(hidden[place])
        losses = [
            functional.cross_entropy(score, target[:, f], reduction="sum")
            for f, score in enumerate(scores)
        ]
        parts = {
            name: (loss.detach(), float(len(place)))
            for name, loss in zip(("years", "months", "days"), losses, strict=True)
        }
        return HeadLoss(torch.stack(losses).sum(), float(len(place)), parts)
