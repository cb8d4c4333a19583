"""The output layer of a training step: rare codes are sampled.

A vocabulary's rarest codes are most of its tokens and hardly any of a record, yet each step would
make their logits at every position to find that none of them is likely. A step makes the logits of
all other tokens, of the rare codes that its batch holds, and of a few drawn from the rest, which
stand for all of these in the sum over the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from chronoward.model.batch import OutputSample
from chronoward.philox import hash64, uniforms
from chronoward.tokenizer import TokenClass
from chronoward.train.context import token_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.model import Batch
    from chronoward.store import StoreSplit
    from chronoward.tokenizer import Tokenizer

RARE_SHARE = 0.03  # of a split's tokens: the rarest codes that make it up together
N_DRAWN = 256  # of the rare codes that a batch lacks


class RareCodes:
    """Samples of the output layer; a step's follows from (seed, epoch, step) and its batch.

    Args:
        is_rare: bool (V,), tokens that may be left out.
        seed: of the run.
        n_drawn: how many of those that a batch lacks are drawn.
    """

    def __init__(self, is_rare: NDArray[np.bool_], seed: int, n_drawn: int = N_DRAWN) -> None:
        self._is_rare = is_rare
        self._seed = seed
        self._n_drawn = n_drawn

    @classmethod
    def of(cls, split: StoreSplit, tokenizer: Tokenizer, seed: int) -> RareCodes | None:
        """The rarest codes of a split; None where sampling them would save little."""
        counts = token_counts(split, tokenizer.vocab_size)
        order = np.argsort(counts, kind="stable")
        order = order[tokenizer.token_class[order] == TokenClass.CODE]
        is_rare = np.zeros(tokenizer.vocab_size, bool)
        is_rare[order[np.cumsum(counts[order]) <= RARE_SHARE * counts.sum()]] = True
        return cls(is_rare, seed) if is_rare.sum() >= 2 * N_DRAWN else None

    def __call__(self, batch: Batch, epoch: int, step: int) -> OutputSample:
        """The tokens whose logits a training step makes."""
        is_kept = ~self._is_rare
        is_kept[batch.token_id.numpy()] = True
        kept, rest = np.flatnonzero(is_kept), np.flatnonzero(~is_kept)
        draw = uniforms(hash64(self._seed, "rare codes", epoch, step), len(rest))
        drawn = rest[np.argsort(draw)[: self._n_drawn]]
        token_id = np.concatenate([kept, drawn])
        log_weight = np.zeros(len(token_id), np.float32)
        log_weight[len(kept) :] = np.log(max(len(rest), 1) / max(len(drawn), 1))
        return OutputSample(torch.from_numpy(token_id), torch.from_numpy(log_weight))
