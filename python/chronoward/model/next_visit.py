"""The next visit as a set: independent Bernoullis over its tokens, asked at the visit's start.

The query is the `visit_start` token, whose clock already is the visit's day, so the head answers
"what is recorded at a visit at this time", of all types at once and in no order (RAVEN, arXiv
2603.24562, successor of arXiv 2507.00574). It is P(recorded | a visit then), not a risk by then.

The visits' scores never exist all at once: they are made chunk by chunk, and again in the backward
pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from chronoward.errors import ConfigError, FormatError
from chronoward.model.objectives import REPEAT_WEIGHTS, HeadLoss, repeat_weights

if TYPE_CHECKING:
    from chronoward.model.batch import Batch
    from chronoward.model.model import Model

CHUNK_VISITS = 512
FOCAL_GAMMA = 2.0
SET_LOSSES = ("bce", "focal")


@dataclass(frozen=True, kw_only=True)
class NextVisitConfig:
    """What a next-visit head answers about.

    Raises:
        ConfigError: no token to predict.
    """

    token_ids: tuple[int, ...]
    """Tokens of the head's outputs, ascending: codes, values with their codes, types of visit."""
    start_ids: tuple[int, ...]
    """Tokens that begin a visit: the queries."""
    end_ids: tuple[int, ...]
    """Tokens that end one."""
    tied: bool = True
    """The output rows are the embedding's."""

    def __post_init__(self) -> None:
        if not (self.token_ids and self.start_ids and self.end_ids):
            message = "the next_visit objective needs visits with a start, an end and codes"
            raise ConfigError(message)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {
            "token_ids": list(self.token_ids),
            "start_ids": list(self.start_ids),
            "end_ids": list(self.end_ids),
            "tied": self.tied,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], source: str) -> NextVisitConfig:
        """The config that `to_json` wrote.

        Raises:
            FormatError: unknown or missing fields.
        """
        try:
            ids = {name: tuple(value[name]) for name in ("token_ids", "start_ids", "end_ids")}
            return cls(**ids, tied=value["tied"])
        except (KeyError, TypeError) as error:
            message = f"{source}: the next-visit head's config is not readable: {error}"
            raise FormatError(message) from None


class NextVisitHead(nn.Module):
    """Log odds z_k = w_k · h + b_k of each of K tokens at a visit's start."""

    token_ids: Tensor

    def __init__(self, d_model: int, config: NextVisitConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("token_ids", torch.tensor(config.token_ids), persistent=False)
        self.bias = nn.Parameter(torch.zeros(len(config.token_ids)))
        self.weight = None
        if not config.tied:
            generator = torch.Generator().manual_seed(seed)
            rows = torch.randn(len(config.token_ids), d_model, generator=generator)
            self.weight = nn.Parameter(0.02 * rows)

    def matrix(self, model: Model) -> Tensor:
        """Output rows.  # (K, d_model)"""
        return model.embedding.weight[self.token_ids] if self.weight is None else self.weight

    def forward(self, model: Model, hidden: Tensor) -> Tensor:
        """Log odds, fp32.  # (n, d_model) -> (n, K)"""
        return functional.linear(hidden, self.matrix(model)).float() + self.bias

    @torch.no_grad()
    def start_at_rates(self, n_held: Tensor, n_visits: int) -> None:
        """Starts each token's log odds at its share of the train split's visits.

        Args:
            n_held: (K,), visits that hold the token.
            n_visits: of the split.
        """
        share = (n_held.double() + 0.5) / (n_visits + 1)
        self.bias.copy_(torch.logit(share))


def visit_places(batch: Batch, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted visits of a batch that are whole: first and last position, int64 (n,) each.

    A visit whose end lies in the next window, or whose start is not predicted (overlap), is left
    out.

    Args:
        batch: the row.
        start: bool (V,), tokens that begin a visit.
        end: bool (V,), tokens that end one.
    """
    first = (start[batch.token_id] & batch.loss_mask).nonzero().squeeze(1)
    ends = end[batch.token_id].nonzero().squeeze(1)
    if not len(ends):
        return first[:0], first[:0]
    place = torch.searchsorted(ends, first)
    last = ends[place.clamp(max=len(ends) - 1)]
    segment = batch.segments()
    whole = (place < len(ends)) & (segment[first] == segment[last])
    return first[whole], last[whole]


def kv_end_of_visits(batch: Batch, start: Tensor, end: Tensor) -> Tensor:
    """Ends of the keys that queries see where a visit is a set: a visit's tokens see all of it,
    except the start, which asks for them; others see what came before.

    Returns:
        int32 (T,), for `Model.forward`.
    """
    own = torch.arange(1, len(batch.token_id) + 1, dtype=torch.int32)
    kv_end = own.clone()
    visits = zip(*(x.tolist() for x in visit_places(batch, start, end)), strict=True)
    for first, last in visits:
        kv_end[first + 1 : last + 1] = last + 1
    return kv_end


def bernoulli_losses(scores: Tensor, is_held: Tensor, kind: str) -> Tensor:
    """−log likelihood of independent Bernoullis, or its focal form.

    bce: −y log σ(z) − (1 − y) log(1 − σ(z)); focal: the same times (1 − p)^γ, γ = 2, p the
    probability of what happened (Lin et al. 2017, arXiv 1708.02002).

    Args:
        scores: log odds (n, K).
        is_held: bool (n, K).
        kind: `bce` or `focal`.
    """
    losses = functional.binary_cross_entropy_with_logits(
        scores, is_held.to(scores.dtype), reduction="none"
    )
    return losses * (1 - torch.exp(-losses)) ** FOCAL_GAMMA if kind == "focal" else losses


class NextVisit:
    """Σ over visits and tokens of w · ℓ(z, y); w is the repeat weight of tokens that are held.

    Weights are on positives only (RAVEN); with weight w a head learns q = w p / (w p + 1 − p), so
    p = q / (q + w (1 − q)).

    Args:
        head: gives the log odds.
        loss_kind: `bce` or `focal`.
        repeat_weight: `none`, `raven` or `exp`, by the visits before that held the same code.
        repeat_rate: see `repeat_weights`.

    Raises:
        ConfigError: an unknown kind or weight.
    """

    name = "next_visit"
    unit = "nats per visit"

    def __init__(
        self,
        head: NextVisitHead,
        vocab_size: int,
        *,
        loss_kind: str = "bce",
        repeat_weight: str = "none",
        repeat_rate: float = 0.5,
    ) -> None:
        if loss_kind not in SET_LOSSES or repeat_weight not in REPEAT_WEIGHTS:
            message = (
                f"the loss of a set is one of {SET_LOSSES}, its repeat weight one of "
                f"{REPEAT_WEIGHTS}; got {loss_kind!r} and {repeat_weight!r}"
            )
            raise ConfigError(message)
        self.head = head
        self._kind, self._weight, self._rate = loss_kind, repeat_weight, repeat_rate
        self._column = torch.full((vocab_size,), -1)
        self._column[list(head.config.token_ids)] = torch.arange(len(head.config.token_ids))
        self.start, self.end = (torch.zeros(vocab_size, dtype=torch.bool) for _ in range(2))
        self.start[list(head.config.start_ids)] = True
        self.end[list(head.config.end_ids)] = True

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Visits and what they hold.

        Returns:
            int64 (n,) queries; and of each held token, once a visit: its visit int64 (m,), column
            int64 (m,) and weight fp32 (m,).
        """
        first, last = visit_places(batch, self.start, self.end)
        length = last - first + 1
        visit = torch.repeat_interleave(torch.arange(len(first)), length)
        offset = torch.arange(len(visit)) - torch.repeat_interleave(
            length.cumsum(0) - length, length
        )
        place = first[visit] + offset
        column = self._column[batch.token_id[place]]
        held = column >= 0
        key = visit[held] * len(self.head.config.token_ids) + column[held]
        key, which = torch.unique(key, return_inverse=True)
        n_prior = torch.zeros(len(key), dtype=torch.int64)
        n_prior.scatter_reduce_(0, which, batch.n_prior[place[held]].long(), "amax")
        weight = repeat_weights(n_prior, self._weight, self._rate)
        n_columns = len(self.head.config.token_ids)
        return first, key // n_columns, key % n_columns, weight

    def _chunk(
        self, model: Model, hidden: Tensor, visit: Tensor, column: Tensor, weight: Tensor
    ) -> Tensor:
        scores = self.head(model, hidden)
        is_held = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        is_held[visit, column] = True
        weights = torch.ones_like(scores).index_put((visit, column), weight)
        return (bernoulli_losses(scores, is_held, self._kind) * weights).sum()

    def n_terms(self, batch: Batch) -> float:
        """Whole visits."""
        return float(len(visit_places(batch, self.start, self.end)[0]))

    def loss(self, model: Model, hidden: Tensor, batch: Batch) -> HeadLoss:
        """Summed over the batch's whole visits."""
        first, visit, column, weight = (x.to(hidden.device) for x in self.targets(batch))
        total = hidden.new_zeros((), dtype=torch.float32)
        for begin in range(0, len(first), CHUNK_VISITS):
            end = begin + CHUNK_VISITS
            here = (visit >= begin) & (visit < end)
            arguments = (hidden[first[begin:end]], visit[here] - begin, column[here], weight[here])
            total = total + checkpoint(self._chunk, model, *arguments, use_reentrant=False)
        if not len(first):  # as with other heads, gradients of zero: Adam's averages go on
            total = self.head(model, hidden[:0]).sum()
        n_visits = float(len(first))
        return HeadLoss(total, n_visits, {"visits": (float(total.detach()), n_visits)})
