"""The end of a run: output biases at which every token comes as often as in the data.

What the rest of the model does to a token's mean probability moves all the time, and its bias
follows by steps of about one learning rate. When the learning rate has gone, biases stand where
they happened to be: tokens come a tenth too often or too rarely, rare ones by more, and rollouts
multiply that, since each wrong token is the context of the next ones.

With the rest of the model fixed, the likelihood is concave in the biases, and largest where the
expected count of each token equals its count. One step of Newton's method on the diagonal leads
there: b += log(count / expected), for each of a token's biases (see `model.context_bias`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from chronoward.model.batch import on_device
from chronoward.model.context_bias import N_STATES
from chronoward.model.parts import part_like
from chronoward.train.shards import put_away

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from chronoward.model import Batch, Model, NextEvent

    Floats = NDArray[np.float64]

PRIOR_COUNT = 20.0  # before anything is counted a bias is believed right within a fifth


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of tokens, float64 (3, K, V): where the context lacks the token, lacks it but holds
    its companion, or holds it; by kind of visit.

    Attributes:
        counted: weights of the places that are followed by the token.
        expected: the same as the model has it.
        variance: of `expected`, from its spread over batches.
        still_open: for open intervals (a record's last wait), tokens that the model finds likely
            given how long they last, minus those it finds likely without knowing.
        n_open: open intervals.
    """

    counted: Floats
    expected: Floats
    variance: Floats
    still_open: Floats
    n_open: int


def count_open(objective: NextEvent, batch: Batch) -> int:
    """Open intervals of a batch."""
    return 0 if objective.open_intervals is None else len(objective.open_intervals.places(batch)[0])


def count_targets(model: Model, objective: NextEvent, batch: Batch) -> Floats:
    """Weights of the predicted tokens, float64 (3, K, V)."""
    place, target, weight = objective.targets(batch)
    context = model.context_bias.context(batch.token_id, batch.cu_seqlens, place)
    n_kinds, n_tokens = model.context_bias.unseen.shape
    state, kind = context.next_state.cpu().long(), context.kind.cpu()
    cell = (state * n_kinds + kind) * n_tokens + target
    counts = np.bincount(cell.numpy(), weight.numpy(), N_STATES * n_kinds * n_tokens)
    return counts.astype(np.float64).reshape(N_STATES, n_kinds, n_tokens)


def _bias_gradient(model: Model, loss: Tensor) -> Floats:
    """Gradient of a sum of losses in the logits of each bias: expected minus counted."""
    tables = [model.context_bias.unseen, model.context_bias.known]
    everywhere, known = torch.autograd.grad(loss, tables)
    seen, announced = known.double().chunk(2, dim=1)
    unseen = everywhere.double() - seen - announced
    return torch.stack([unseen, announced, seen]).cpu().numpy()


def sent(model: Model, batch: Batch, clock: Tensor) -> tuple[Tensor, ...]:
    """What the model reads of a batch, where the model is: tokens, the clock it sees, bounds."""
    device = model.embedding.weight.device
    return tuple(on_device(x, device) for x in (batch.token_id, clock, batch.cu_seqlens))


def look(model: Model, objective: NextEvent, batches: Iterable[tuple[Batch, Tensor]]) -> Counts:
    """What the model expects at some batches, beside what is there.

    Args:
        model: its biases get gradients.
        objective: the one it was trained with.
        batches: at least one, each with the clock that the model sees, int32 (T,).
    """
    closed = replace(objective, open_intervals=None)
    nothing = np.zeros((N_STATES, *model.context_bias.unseen.shape))
    counted, expected, squares, still_open = (nothing.copy() for _ in range(4))
    n = n_open = 0
    for batch, clock in batches:
        n += 1
        with torch.no_grad():
            hidden = model(*sent(model, batch, clock))
        here = count_targets(model, objective, batch)
        model_has = here + _bias_gradient(model, closed.loss(model, hidden, batch).total)
        counted += here
        expected += model_has
        squares += model_has**2
        if objective.open_intervals is not None:
            loss, n_waits = objective.open_intervals.loss(model, hidden, batch)
            still_open -= _bias_gradient(model, loss) if n_waits else 0.0
            n_open += n_waits
    spread = np.maximum(squares - expected**2 / n, 0.0) * n / max(n - 1, 1)
    return Counts(counted, np.maximum(expected, 0.0), spread, still_open, n_open)


def bias_shift(seen: Counts, everywhere: Floats, n_open: int) -> Floats:
    """How far each bias has to move, in the shape of the counts.

    Two estimates of log(count / expected) are weighed by their precision: the count of the same
    places, which has Poisson noise, and that of many more places, scaled, which has less but is of
    other subjects. `PRIOR_COUNT` counts stand for no change.

    Args:
        seen: counts of the places that the model has looked at.
        everywhere: counts of those places and many more.
        n_open: open intervals among them.
    """
    share = seen.counted.sum() / everywhere.sum()
    same = _log_ratio(seen.counted, seen, 1.0)
    other = _log_ratio(everywhere * share, seen, n_open * share / max(seen.n_open, 1))
    expected = seen.expected + 0.5
    same_weight = expected
    other_weight = 1.0 / (seen.variance / expected**2 + 1.0 / (everywhere + 0.5))
    total = same_weight + other_weight + PRIOR_COUNT
    shift: Floats = (same_weight * same + other_weight * other) / total
    return shift


def _log_ratio(counted: Floats, seen: Counts, waits: float) -> Floats:
    """log(count / expected) with `waits` times the open intervals that were seen."""
    more, fewer = (np.maximum(sign * waits * seen.still_open, 0.0) for sign in (1, -1))
    ratio: Floats = np.log((counted + more + 0.5) / (seen.expected + fewer + 0.5))
    return ratio


def settle(
    model: Model,
    objective: NextEvent,
    looked_at: Iterable[tuple[Batch, Tensor]],
    also_counted: Iterable[Batch],
) -> None:
    """Sets the output biases of a trained model, in place.

    Args:
        model: trained; batches stay on the CPU.
        objective: the one it was trained with.
        looked_at: batches for the model's expectations, at least one, each with the clock that the
            model sees, int32 (T,).
        also_counted: many more batches, without the model.
    """
    learned = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    model.context_bias.requires_grad_(True)
    try:
        seen = look(model, objective, looked_at)
    finally:
        for parameter, learns in learned.items():
            parameter.requires_grad_(learns)
    everywhere, n_open = seen.counted.copy(), seen.n_open
    for batch in also_counted:
        n_open += count_open(objective, batch)
        everywhere += count_targets(model, objective, batch)
    if not seen.counted.any():
        return
    shift = bias_shift(seen, everywhere, n_open)
    unseen, announced, seen_shift = torch.from_numpy(shift).float()
    known = torch.cat([seen_shift - unseen, announced - unseen], dim=1)
    put_away(model)
    bias = model.context_bias
    with torch.no_grad():
        for parameter, by in ((bias.unseen, unseen), (bias.known, known)):
            parameter.add_(part_like(by.to(parameter.device), parameter))
