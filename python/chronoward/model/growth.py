"""A model with rows for tokens that were appended to its vocabulary; what it had stays byte-equal.

Everything that has a row or a column a token is named in `_GROWN`; a tensor of another shape that
is not there is an error, so that a new one cannot be forgotten.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from chronoward.errors import ConfigError
from chronoward.model.model import EMBEDDING_STD, Model

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def _rows(old: Tensor, new: Tensor) -> Tensor:
    """Old rows, then the new model's own."""
    return torch.cat([old, new[len(old) :]])


def _unseen(old: Tensor, new: Tensor) -> Tensor:
    """A token that was never counted comes as rarely as the rarest, in each kind of visit."""
    rarest = old.min(dim=1, keepdim=True).values
    return torch.cat([old, rarest.expand(-1, new.shape[1] - old.shape[1])], dim=1)


def _known(old: Tensor, new: Tensor) -> Tensor:
    """Two blocks a token wide: seen, announced. Nothing is added for new tokens."""
    kinds, n_old, n_new = len(old), old.shape[1] // 2, new.shape[1] // 2
    grown = old.new_zeros(kinds, 2, n_new)
    grown[:, :, :n_old] = old.view(kinds, 2, n_old)
    return grown.view(kinds, 2 * n_new)


_GROWN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "embedding.weight": _rows,
    "output.weight": _rows,
    "context_bias.unseen": _unseen,
    "context_bias.known": _known,
    "context_bias.visit_kind": _rows,  # -1: a new token begins no kind of visit
    "context_bias.companion": _rows,  # -1: nothing announces it
}


@torch.no_grad()
def grow(model: Model, vocab_size: int, *, seed: int = 0) -> Model:
    """A model for a vocabulary that begins with this one's.

    New rows are a new model's of that seed; output biases say that new tokens are as rare as the
    rarest. Scores of old tokens stay the same (but for the order of additions in the matrix
    product), as none of them looks at the new rows.

    Args:
        model: what was trained; it stays as it is.
        vocab_size: tokens of the larger vocabulary.
        seed: of the new rows.

    Returns:
        A new model with copies of the heads, in the same mode as `model`.

    Raises:
        ConfigError: the vocabulary is smaller than the model's.
    """
    if vocab_size < model.config.vocab_size:
        message = (
            f"the model has {model.config.vocab_size} tokens; it cannot be grown to {vocab_size}"
        )
        raise ConfigError(message)
    grown = Model(replace(model.config, vocab_size=vocab_size), seed=seed)
    for name, head in model.heads.items():
        grown.heads[name] = copy.deepcopy(head)
    grown.attention_backend = model.attention_backend
    old = model.state_dict()
    for name, tensor in grown.state_dict().items():
        if tensor.shape == old[name].shape:
            tensor.copy_(old[name])
        else:
            tensor.copy_(_GROWN[name](old[name], tensor))
    return grown.train(model.training)


@torch.no_grad()
def place_rows(
    model: Model,
    token_id: NDArray[np.int64],
    vectors: NDArray[np.float32],
    is_valued: NDArray[np.bool_],
    *,
    seed: int = 0,
) -> None:
    """Starts embedding rows from vectors that say what their tokens mean.

    The vectors are projected to the model's width by an orthonormal matrix (the Q of a seeded
    normal one, the diagonal of R positive): angles stay where the model is at least as wide, and
    nearly so where it is narrower. Each row is then scaled to the standard deviation that rows
    start with. Tokens for values of a code would all get its row, so theirs is the sum of that and
    of what they had, over the root of two.

    Args:
        model: a new one, or one that was grown; rows of other tokens stay as they are.
        token_id: int64 (n,).
        vectors: float32 (n, d), none zero.
        is_valued: bool (n,), whether the token stands for a value of its code, too.
        seed: of the projection.
    """
    width = model.config.d_model
    direction = torch.from_numpy(vectors) @ _projection(vectors.shape[1], width, seed)
    rows = direction * (EMBEDDING_STD * width**0.5 / direction.norm(dim=1, keepdim=True))
    tokens = torch.from_numpy(token_id)
    mixed = (rows + model.embedding.weight[tokens]) / 2**0.5
    model.embedding.weight[tokens] = torch.where(torch.from_numpy(is_valued)[:, None], mixed, rows)


def _projection(d_in: int, d_out: int, seed: int) -> Tensor:
    """float32 (d_in, d_out): orthonormal rows or columns, whichever are fewer."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(max(d_in, d_out), min(d_in, d_out), generator=generator).double()
    q, r = torch.linalg.qr(normal)
    q = q * r.diagonal().sign()
    projection: Tensor = q if d_in >= d_out else q.T
    return projection.float().contiguous()
