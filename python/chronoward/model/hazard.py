"""Piecewise-exponential hazards of named outcomes (MOTOR; one piece is Delphi's rate).

Unlike a next-token model the head answers for any horizon in one pass, and it is trained on
censored follow-up: a subject who leaves contributes the time at risk and nothing else. Death ends
follow-up of the other outcomes (cause-specific hazards).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from chronoward.errors import ConfigError, FormatError
from chronoward.model.batch import on_device
from chronoward.model.blocks import RMSNorm
from chronoward.model.objectives import HeadLoss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from chronoward.model.batch import Batch
    from chronoward.model.model import Model

MINUTES_PER_YEAR = 365.25 * 1440
DEFAULT_EDGES_DAYS = (0.0, 30.0, 91.0, 182.0, 365.0, 730.0, 1826.0)
MIN_RATE_PER_YEAR = 1e-6  # start of an outcome that the train split never shows


@dataclass(frozen=True, kw_only=True)
class HazardConfig:
    """Outcomes of a hazard head and the pieces of time its hazards are constant on.

    Raises:
        ConfigError: no outcome, or edges that do not start at 0 and ascend.
    """

    outcomes: tuple[str, ...]
    """Names, in the order of the head's outputs."""
    token_ids: tuple[tuple[int, ...], ...]
    """Tokens that mean each outcome."""
    first_only: tuple[bool, ...]
    """Whether subjects who had the outcome before are not at risk."""
    edges_days: tuple[float, ...] = DEFAULT_EDGES_DAYS
    """Left ends of the pieces; the last is open."""
    d_hazard: int = 32
    """Width of each piece's features."""

    def __post_init__(self) -> None:
        n = len(self.outcomes)
        if n == 0 or len(self.token_ids) != n or len(self.first_only) != n:
            message = "a hazard head needs outcomes, each with its tokens and at-risk rule"
            raise ConfigError(message)
        edges = self.edges_days
        if not edges or edges[0] != 0 or any(b <= a for a, b in itertools.pairwise(edges)):
            message = f"edges_days must start at 0 and ascend, got {edges}"
            raise ConfigError(message)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {
            "outcomes": list(self.outcomes),
            "token_ids": [list(ids) for ids in self.token_ids],
            "first_only": list(self.first_only),
            "edges_days": list(self.edges_days),
            "d_hazard": self.d_hazard,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], source: str) -> HazardConfig:
        """The config that `to_json` wrote.

        Raises:
            FormatError: unknown or missing fields.
        """
        try:
            return cls(
                outcomes=tuple(value["outcomes"]),
                token_ids=tuple(tuple(ids) for ids in value["token_ids"]),
                first_only=tuple(value["first_only"]),
                edges_days=tuple(value["edges_days"]),
                d_hazard=value["d_hazard"],
            )
        except (KeyError, TypeError) as error:
            message = f"{source}: the hazard head's config is not readable: {error}"
            raise FormatError(message) from None


class HazardHead(nn.Module):
    """Log hazards (per year) of K outcomes on B pieces: z_kb = w_k · norm(U_b h) + c_k + c_kb."""

    def __init__(self, d_model: int, config: HazardConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        n_outcomes, n_pieces = len(config.outcomes), len(config.edges_days)
        self.features = nn.Linear(d_model, n_pieces * config.d_hazard, bias=False)
        self.norm = RMSNorm(config.d_hazard, 1e-6)
        self.weight = nn.Parameter(torch.empty(n_outcomes, config.d_hazard))
        self.log_rate = nn.Parameter(torch.zeros(n_outcomes))
        self.piece = nn.Parameter(torch.zeros(n_outcomes, n_pieces))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.features.weight.normal_(0, d_model**-0.5, generator=generator)
            self.weight.normal_(0, 0.02, generator=generator)

    def forward(self, hidden: Tensor) -> Tensor:
        """Log hazards per year.  # (n, d_model) -> (n, K, B)"""
        n_pieces = len(self.config.edges_days)
        features = self.norm(self.features(hidden).view(-1, n_pieces, self.config.d_hazard))
        scores = torch.einsum("nbd,kd->nkb", features.float(), self.weight)
        log_hazard: Tensor = scores + self.log_rate[:, None] + self.piece
        return log_hazard

    def exposure(self, start_years: Tensor, end_years: Tensor) -> Tensor:
        """Years of [start, end) inside each piece.  # (...), (...) -> (..., B)"""
        edges = on_device(torch.tensor(self.config.edges_days) / 365.25, end_years.device)
        right = torch.cat([edges[1:], edges.new_full((1,), math.inf)])
        inside = torch.minimum(end_years[..., None], right) - torch.maximum(
            start_years[..., None], edges
        )
        years: Tensor = inside.clamp(min=0)
        return years

    def cumulative(self, hidden: Tensor, start_years: Tensor, end_years: Tensor) -> Tensor:
        """Integrated hazards from `start` to `end` years after each token's clock.

        Args:
            hidden: (n, d_model).
            start_years: (n,), silence since the token (0 when none).
            end_years: (n,).

        Returns:
            (n, K); 1 − exp(−·) is the risk without competing events.
        """
        exposure = self.exposure(start_years, end_years)  # (n, B)
        total: Tensor = (self(hidden).exp() * exposure[:, None]).sum(-1)
        return total


class OutcomeTable:
    """When each subject of a split had each outcome, and how long each was observed.

    Times are packed as subject · 2³² + minute into sorted arrays, so that "the next one of this
    subject after this time" is one binary search for all points at once.
    """

    def __init__(
        self,
        outcomes: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
        death: tuple[NDArray[np.int64], NDArray[np.int64]],
        periods: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    ) -> None:
        """Builds the table.

        Args:
            outcomes: for each outcome the subjects (numbers in the split) and minutes it occurred.
            death: subjects and minutes of death.
            periods: subjects, starts and ends (minutes) of observation.
        """
        self._outcomes = [np.sort(_key(subject, minute)) for subject, minute in outcomes]
        self._death = np.sort(_key(*death))
        subject, start, end = periods
        order = np.argsort(_key(subject, start), kind="stable")
        self._period_start = _key(subject, start)[order]
        self._period_end = np.asarray(end, np.int64)[order]

    def follow_up(self, subject: NDArray[np.int64], minute: NDArray[np.int64]) -> NDArray[np.int64]:
        """Minute at which observation that holds (subject, minute) ends, by censoring or death;
        -1 where the minute lies outside observation or after death."""
        key = _key(subject, minute)
        place = np.searchsorted(self._period_start, key, side="right") - 1
        found = place >= 0
        place = np.maximum(place, 0)
        if not len(self._period_start):
            return np.full(len(key), -1, np.int64)
        end = self._period_end[place]
        inside = found & (self._period_start[place] >> 32 == subject) & (end >= minute)
        death = _next(self._death, subject, key)
        end = np.where(death >= 0, np.minimum(end, death), end)
        inside &= ~_has_before(self._death, subject, key)
        return np.where(inside, end, -1)

    def targets(
        self, subject: NDArray[np.int64], minute: NDArray[np.int64], first_only: Sequence[bool]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Follow-up of each point for each outcome.

        Args:
            subject: int64 (n,), number in the split.
            minute: int64 (n,), clock of the point; an outcome at that very minute is not ahead.
            first_only: per outcome, whether an earlier occurrence ends being at risk.

        Returns:
            Years to the outcome or the end of follow-up float32 (n, K), whether it was the outcome
            (n, K), and whether the point is at risk and followed at all (n, K).
        """
        key = _key(subject, minute)
        end = self.follow_up(subject, minute)
        shape = (len(key), len(self._outcomes))
        years, event = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        at_risk = np.zeros(shape, np.bool_)
        for k, times in enumerate(self._outcomes):
            ahead = _next(times, subject, key)
            event[:, k] = (ahead >= 0) & (ahead <= end)
            stop = np.where(event[:, k], ahead, end)
            years[:, k] = (stop - minute) / MINUTES_PER_YEAR
            at_risk[:, k] = (end > minute) | event[:, k]
            if first_only[k]:
                at_risk[:, k] &= ~_has_before(times, subject, key)
        return np.maximum(years, 0), event & at_risk, at_risk


def _key(subject: NDArray[np.int64], minute: NDArray[np.int64]) -> NDArray[np.int64]:
    return (np.asarray(subject, np.int64) << 32) + np.asarray(minute, np.int64)


def _next(
    times: NDArray[np.int64], subject: NDArray[np.int64], key: NDArray[np.int64]
) -> NDArray[np.int64]:
    """First minute in `times` of the same subject strictly after `key`, -1 where there is none."""
    if not len(times):
        return np.full(len(key), -1, np.int64)
    place = np.searchsorted(times, key, side="right")
    candidate = times[np.minimum(place, len(times) - 1)]
    found = (place < len(times)) & (candidate >> 32 == subject)
    return np.where(found, candidate & 0xFFFFFFFF, -1)


def _has_before(
    times: NDArray[np.int64], subject: NDArray[np.int64], key: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether `times` holds the same subject at or before `key`."""
    if not len(times):
        return np.zeros(len(key), np.bool_)
    place = np.searchsorted(times, key, side="right") - 1
    before: NDArray[np.bool_] = (place >= 0) & (times[np.maximum(place, 0)] >> 32 == subject)
    return before


def hazard_places(batch: Batch) -> Tensor:
    """Positions that answer: the last predicted token of each moment, int64 (n,).

    Inside a moment the rest of it is not known yet, and would count as an outcome at once.
    """
    segment = batch.segments()
    last = torch.ones_like(batch.loss_mask)
    same = segment[1:] == segment[:-1]
    later = batch.time_min[1:] > batch.time_min[:-1]
    last[:-1] = ~same | later | ~batch.loss_mask[1:]
    return (last & batch.loss_mask).nonzero().squeeze(1)


def piecewise_nll(log_hazard: Tensor, exposure: Tensor, event: Tensor) -> Tensor:
    """−log likelihood of piecewise-exponential follow-up, in nats.

    Args:
        log_hazard: (..., B), per year.
        exposure: (..., B), years at risk in each piece.
        event: bool (...), whether follow-up ended with the outcome.

    Returns:
        (...): Σ_b λ_b τ_b − [event] log λ at the end of follow-up.
    """
    accumulated = (log_hazard.exp() * exposure).sum(-1)
    n_reached = (exposure > 0).sum(-1).clamp(min=1)
    at_end = log_hazard.gather(-1, (n_reached - 1)[..., None]).squeeze(-1)
    return accumulated - torch.where(event, at_end, torch.zeros_like(at_end))


class Hazard:
    """The objective of a hazard head: mean over points of the summed outcomes' likelihoods."""

    name = "hazard"
    unit = "nats per point"

    def __init__(self, head: HazardHead, table: OutcomeTable) -> None:
        self.head = head
        self.table = table

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        place = hazard_places(batch)
        subject = batch.segment_subject[batch.segments()[place]].cpu().numpy()
        minute = batch.time_min[place].cpu().numpy().astype(np.int64)
        found = self.table.targets(subject, minute, self.head.config.first_only)
        years, event, at_risk = (torch.from_numpy(x) for x in found)
        return place, years, event, at_risk

    def n_terms(self, batch: Batch) -> float:
        """Moments that are at risk of any outcome."""
        return float(self._targets(batch)[3].any(dim=1).sum())

    def loss(self, model: Model, hidden: Tensor, batch: Batch) -> HeadLoss:
        """Likelihood of the follow-up after each moment of the batch."""
        del model
        targets = self._targets(batch)
        n_at_risk = targets[3].sum(0).tolist()
        n_points = float(targets[3].any(dim=1).sum())
        place, years, event, at_risk = (on_device(x, hidden.device) for x in targets)
        exposure = self.head.exposure(torch.zeros_like(years), years)
        losses = piecewise_nll(self.head(hidden[place]), exposure, event) * at_risk
        parts = {
            name: (losses[:, k].detach().double().sum(), float(n_at_risk[k]))
            for k, name in enumerate(self.head.config.outcomes)
        }
        return HeadLoss(losses.sum(), n_points, parts)


@torch.no_grad()
def start_at_rates(head: HazardHead, n_events: Sequence[float], years: Sequence[float]) -> None:
    """Sets each outcome's first hazard to its rate in the train split (events / years)."""
    rates = [
        max(events / total, MIN_RATE_PER_YEAR) if total > 0 else MIN_RATE_PER_YEAR
        for events, total in zip(n_events, years, strict=True)
    ]
    head.log_rate.copy_(torch.tensor(rates).log())
