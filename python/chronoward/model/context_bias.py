"""Biases of the output layer, looked up by the context.

What comes next depends first of all on where one is and on what was there before: codes of one kind
of visit hardly ever come in another, and a disease that a record holds comes again where it would
never come for the first time. A network learns such facts late, since the likelihood hardly minds a
first heart failure in every thousandth clinic visit; rollouts do. So each token has a bias for each
kind of visit, and in each three: the context lacks the token, lacks it but holds its companion (the
code that announces it best, as a disease does its subtypes), or holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from chronoward import _core
from chronoward.model.batch import on_device

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chronoward.model.batch import OutputSample

N_STATES = 3  # unseen, announced, seen


class Context(NamedTuple):
    """What n places' contexts hold: their segments up to and including them.

    Attributes:
        kind: int64 (n,), kind of visit the place stands in, 0 outside.
        offsets: int64 (n + 1,), bounds of each place's entries, from 0; on the CPU.
        entry: int32, v for each token that the context holds, V + v for each that is announced.
        next_state: uint8 (n,), state of the token after the place (0 unseen, 1 announced, 2 seen).
    """

    kind: Tensor
    offsets: Tensor
    entry: Tensor
    next_state: Tensor

    def rows(self) -> Tensor:
        """Which place each entry belongs to, int64."""
        places = torch.arange(len(self.kind), device=self.kind.device)
        n_entries = on_device(self.offsets.diff(), self.kind.device)
        return torch.repeat_interleave(places, n_entries, output_size=len(self.entry))

    def part(self, first: int, last: int) -> Context:
        """The places from `first` up to, without, `last`."""
        offsets = self.offsets[first : last + 1]
        entry = self.entry[int(offsets[0]) : int(offsets[-1])]
        kind, state = self.kind[first:last], self.next_state[first:last]
        return Context(kind, offsets - offsets[0], entry, state)


class ContextBias(nn.Module):
    """Biases by kind of visit, token and what the context holds of it.

    Args:
        vocab_size: V.
        n_kinds: K, kinds of visit; the first is outside of visits.

    Attributes:
        unseen: (K, V).
        known: (K, 2V), added to `unseen`: where the context holds the token, then where it holds
            its companion only.
        visit_kind: int8 (V,), the kind that a token begins; -1: it changes nothing.
        companion: int32 (V,), the token that announces each one; -1: none.
    """

    visit_kind: Tensor
    companion: Tensor

    def __init__(self, vocab_size: int, n_kinds: int) -> None:
        super().__init__()
        self.unseen = nn.Parameter(torch.zeros(n_kinds, vocab_size))
        self.known = nn.Parameter(torch.zeros(n_kinds, 2 * vocab_size))
        self.register_buffer("visit_kind", torch.full((vocab_size,), -1, dtype=torch.int8))
        self.register_buffer("companion", torch.full((vocab_size,), -1, dtype=torch.int32))
        self._copies: tuple[object, Tensor, Tensor] | None = None

    def _lookups(self) -> tuple[Tensor, Tensor]:
        """The two lookups on the CPU; from a GPU they are fetched once, until they change."""
        found = (self.visit_kind, self.companion)
        if self.visit_kind.device.type == "cpu" or any(x.is_inference() for x in found):
            return found[0].cpu(), found[1].cpu()
        version = [(id(x), x._version) for x in found]
        if self._copies is None or self._copies[0] != version:
            self._copies = (version, found[0].cpu(), found[1].cpu())
        return self._copies[1:]

    def rules(self) -> _core.ContextRules:
        """The two lookups as the C++ core wants them.

        Raises:
            ValueError: a kind that is not below K, or a companion outside the vocabulary.
        """
        kind, companion = self._lookups()
        return _core.ContextRules(kind.numpy(), companion.numpy(), self.unseen.shape[0])

    @torch.no_grad()
    def start(
        self,
        visit_kind: NDArray[np.int8],
        companion: NDArray[np.int32],
        rates: NDArray[np.float64],
    ) -> None:
        """Takes the lookups, and starts the biases at the log of the tokens' rates.

        Args:
            visit_kind: int8 (V,).
            companion: int32 (V,).
            rates: (3, K, V), > 0: how often a token comes next where it is unseen, announced, seen.

        Raises:
            ValueError: see `rules`.
        """
        self.visit_kind.copy_(torch.from_numpy(visit_kind))
        self.companion.copy_(torch.from_numpy(companion))
        self.rules()
        log_rates = torch.from_numpy(rates).double().log()
        self.unseen.copy_(log_rates[0])
        self.known.copy_(torch.cat([log_rates[2] - log_rates[0], log_rates[1] - log_rates[0]], 1))

    def context(
        self,
        token_id: Tensor,
        cu_seqlens: Tensor,
        place: Tensor,
        sample: OutputSample | None = None,
    ) -> Context:
        """What the contexts of chosen places hold.

        Args:
            token_id: int64 (T,), a packed row; on the CPU nothing has to be fetched.
            cu_seqlens: int32 (n + 1,), bounds of its segments.
            place: int64 (n,), ascending positions inside segments.
            sample: number the entries by the places of its C tokens, and leave others out.

        Raises:
            ValueError: positions out of order or outside every segment, a token outside the
                vocabulary.
        """
        everything = torch.zeros(0, dtype=torch.int64)
        column = everything if sample is None else sample.columns(self.unseen.shape[1])
        parts = (token_id, cu_seqlens, place, column)
        found = _core.context_lists(self.rules(), *(x.cpu().contiguous().numpy() for x in parts))
        kind, offsets, entry, state = (torch.from_numpy(part) for part in found)
        kind, entry, state = (on_device(x, self.unseen.device) for x in (kind, entry, state))
        return Context(kind, offsets, entry, state)

    def forward(self, scores: Tensor, context: Context) -> Tensor:
        """Scores with their biases.  # (n, V) -> (n, V)"""
        row, entry = context.rows(), context.entry.long()
        biased = scores + self.unseen[context.kind].to(scores.dtype)
        known = self.known[context.kind[row], entry].to(scores.dtype)
        return biased.index_put((row, entry % scores.shape[1]), known, accumulate=True)
