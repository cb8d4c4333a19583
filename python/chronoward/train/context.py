"""What the context biases of the output layer start from: kinds of visit, companions and rates.

All three are counted in the train split's whole timelines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chronoward import _core
from chronoward.model.context_bias import N_STATES
from chronoward.tokenizer import TokenClass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.model import Model
    from chronoward.store import StoreSplit
    from chronoward.tokenizer import Tokenizer

    Floats = NDArray[np.float64]

MAX_VISIT_KINDS = 15  # the commonest visit types; all others share one more kind
MAX_CANDIDATES = 2048  # commonest codes among which companions are looked for
MAX_TIMELINES = 50_000  # of those counted for companions
LEAST_GAIN_NATS = 50.0  # of the likelihood of when a code comes first, to have a companion
PRIOR_EVENTS = 1.0  # a rate is drawn to its parent's as if so many more events had come
_PSEUDO_POSITIONS = 50
_ENDS_VISIT = (TokenClass.VISIT_END, TokenClass.GAP, TokenClass.GAP_REPEAT)
_BEGINS_VISIT = (TokenClass.VISIT_TYPE, TokenClass.FLAT_VISIT_TYPE)


def token_counts(split: StoreSplit, n_tokens: int) -> NDArray[np.int64]:
    """How often each token occurs in a split, int64 (V,)."""
    counts = np.zeros(n_tokens, np.int64)
    for shard in split.shards:
        counts += np.bincount(shard.token_id, minlength=n_tokens)
    return counts


def visit_kinds(split: StoreSplit, tokenizer: Tokenizer) -> NDArray[np.int8]:
    """The kind of visit that each token begins: 0 for its end, -1 where it changes nothing.

    Returns:
        int8 (V,).
    """
    kind = np.full(tokenizer.vocab_size, -1, np.int8)
    kind[np.isin(tokenizer.token_class, _ENDS_VISIT)] = 0
    types = np.flatnonzero(np.isin(tokenizer.token_class, _BEGINS_VISIT))
    counts = token_counts(split, tokenizer.vocab_size)[types]
    by_count = types[np.argsort(-counts, kind="stable")]
    kind[by_count] = np.minimum(np.arange(len(types)), MAX_VISIT_KINDS) + 1
    return kind


def companions(split: StoreSplit, tokenizer: Tokenizer) -> NDArray[np.int32]:
    """For each code the one whose presence says most about when the code comes first.

    With e the share of places whose context holds u, and p the share of v's first occurrences that
    come after u, knowing u gains n (p log(p / e) + (1 - p) log((1 - p) / (1 - e))) nats of the
    likelihood of v's n first occurrences; the companion gains most, and makes v likelier (p > e).

    Returns:
        int32 (V,); -1 where none gains `LEAST_GAIN_NATS`.
    """
    n_tokens = tokenizer.vocab_size
    counts = token_counts(split, n_tokens)
    codes = np.flatnonzero((tokenizer.token_class == TokenClass.CODE) & (counts > 0))
    codes = np.sort(codes[np.argsort(-counts[codes], kind="stable")][:MAX_CANDIDATES])
    candidate = np.full(n_tokens, -1, np.int32)
    candidate[codes] = np.arange(len(codes))
    before = np.zeros((len(codes), len(codes)), np.int64)
    n, n_places, all_places, left = np.zeros(len(codes)), np.zeros(len(codes)), 0, MAX_TIMELINES
    for shard in split.shards:
        offsets = shard.offsets[: left + 1]
        found = _core.count_precedence(offsets, shard.token_id, candidate, len(codes))
        before += found[0].reshape(before.shape)
        n += found[1]
        n_places += found[2]
        all_places += int(np.maximum(np.diff(offsets) - 1, 0).sum())
        left -= len(offsets) - 1
        if left <= 0:
            break
    best, companion = np.full(len(codes), LEAST_GAIN_NATS), np.full(n_tokens, -1, np.int32)
    for u in range(len(codes)):
        gain = _gain(before[u], n, n_places[u] / max(all_places, 1))
        gain[u] = 0.0
        is_better = gain > best
        best[is_better] = gain[is_better]
        companion[codes[is_better]] = codes[u]
    return companion


def _gain(after: NDArray[np.int64], n: Floats, held: float) -> Floats:
    """See `companions`; half an occurrence is put on either side."""
    share = (after + 0.5) / (n + 1)
    e = min(max(held, 1e-9), 1 - 1e-9)
    gain: Floats = after * np.log(share / e) + (n - after) * np.log((1 - share) / (1 - e))
    gain[share <= e] = 0.0
    return gain


def token_rates(split: StoreSplit, tokenizer: Tokenizer, rules: _core.ContextRules) -> Floats:
    """How often each token comes next, by what the context holds of it and the kind of visit.

    Where little was seen a rate is drawn to that of all kinds of visit together, and this to that
    of all contexts without the token. Tokens that are never predicted (the prompt, `end`) count as
    not occurring.

    Returns:
        fp64 (3, K, V), > 0: unseen, announced, seen.
    """
    n_tokens = tokenizer.vocab_size
    counted = exposed = np.zeros((N_STATES, 1, n_tokens))
    for shard in split.shards:
        found = _core.count_contexts(rules, shard.offsets, shard.token_id)
        more, places = (part.reshape(N_STATES, -1, n_tokens) for part in found)
        counted, exposed = counted + more, exposed + places
    counted[:, :, tokenizer.token_class <= TokenClass.CONTINUED] = 0
    by_state, places_by_state = counted.sum(1), exposed.sum(1)
    new = (by_state[:2].sum(0) + 0.5) / (places_by_state[:2].sum(0) + 1)
    again = (by_state[2] + _PSEUDO_POSITIONS * new) / (places_by_state[2] + _PSEUDO_POSITIONS)
    unseen, announced = _drawn(by_state[:2], places_by_state[:2], new)
    return _drawn(counted, exposed, np.stack([unseen, announced, again])[:, None])


def _drawn(counted: Floats, exposed: Floats, parent: Floats) -> Floats:
    rate: Floats = (counted + PRIOR_EVENTS) / (exposed + PRIOR_EVENTS / parent)
    return rate


def start_context_bias(
    model: Model, kind: NDArray[np.int8], split: StoreSplit, tokenizer: Tokenizer
) -> None:
    """Gives a new model its lookups and starts its output biases at the split's rates.

    Args:
        model: with as many kinds of visit.
        kind: int8 (V,), see `visit_kinds`.
        split: the train split.
        tokenizer: of the store.
    """
    companion = companions(split, tokenizer)
    rules = _core.ContextRules(kind, companion, model.config.n_visit_kinds)
    model.context_bias.start(kind, companion, token_rates(split, tokenizer, rules))
