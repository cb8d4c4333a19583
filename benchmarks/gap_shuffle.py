"""The control without time: the gaps of each history change places, everything else stays.

Visits keep their order and content, so codes, counts and order say what they said; how long ago
something was says nothing. A gap takes its minutes along, so each token still fits its duration,
first and last clock stay, and prompt (year and age at the start) stays true. Moves inside a stay
(hours) and the wait for the first visit are left where they are.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np

from chronoward.philox import hash64, permutation
from chronoward.schema import SPLITS
from chronoward.store import StoreWriter, TokenStore
from chronoward.store.layout import TOKENIZER
from chronoward.tokenizer import TokenBatch, TokenClass, Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.store.writer import Timelines
    from chronoward.tokenizer import GrammarTables

_GAPS = (TokenClass.GAP, TokenClass.GAP_REPEAT)


def gap_order(is_gap: NDArray[np.bool_], key: int) -> NDArray[np.int64]:
    """Which token comes to each place when runs of gap tokens change places.

    Args:
        is_gap: bool (n,), of one timeline.
        key: of the Philox stream.

    Returns:
        int64 (n,), a permutation of 0..n-1 that keeps the order of everything but gaps.
    """
    borders = np.flatnonzero(np.diff(is_gap)) + 1
    parts = np.split(np.arange(len(is_gap), dtype=np.int64), borders)
    runs = [number for number, part in enumerate(parts) if len(part) and is_gap[part[0]]]
    moved = list(parts)
    for place, source in zip(runs, permutation(key, len(runs)), strict=True):
        moved[place] = parts[runs[source]]
    return np.concatenate(moved)


def shuffle_gaps(timelines: Timelines, grammar: GrammarTables, seed: int) -> TokenBatch:
    """Timelines whose gaps between visits (and before death) changed places.

    Args:
        timelines: of elapsed minutes; gaps that count calendar days cannot be moved.
        grammar: of the tokenizer that encoded them.
        seed: the result depends on it and on each subject's id.

    Raises:
        ValueError: gaps count calendar days.
    """
    if grammar.is_calendar:
        message = "gaps that count dates mean another duration at another time of day"
        raise ValueError(message)
    is_gap = np.isin(grammar.token_class[timelines.token_id], _GAPS)
    n_prompt = len(grammar.prompt_classes)
    order = np.zeros(len(is_gap), np.int64)
    time_min = np.zeros(len(is_gap), np.int32)
    for i, subject in enumerate(timelines.subject_id.tolist()):
        begin, end = int(timelines.offsets[i]), int(timelines.offsets[i + 1])
        if begin == end:
            continue
        key = hash64("gap_shuffle", seed, subject)
        moves = is_gap[begin:end].copy()
        moves[: n_prompt + int(np.argmin(moves[n_prompt:]))] = False
        order[begin:end] = begin + gap_order(moves, key)
        old = timelines.time_min[begin:end]
        minutes = np.diff(old, prepend=old[0])  # what each token moved the clock by
        time_min[begin:end] = old[0] + np.cumsum(minutes[order[begin:end] - begin])
    shift = time_min - timelines.time_min[order]
    return TokenBatch(
        subject_id=timelines.subject_id,
        origin_us=timelines.origin_us,
        offsets=timelines.offsets,
        token_id=timelines.token_id[order],
        time_min=time_min,
        event_min=timelines.event_min[order] + shift,
        n_prior=timelines.n_prior[order],
        obs_offsets=timelines.obs_offsets,
        obs_start_min=timelines.obs_start_min,
        obs_end_min=timelines.obs_end_min,
    )


def shuffle_store(source: Path, out: Path, seed: int) -> TokenStore:
    """A copy of a token store with the gaps of every timeline (all splits) shuffled.

    Args:
        source: the store.
        out: a new folder.
        seed: see `shuffle_gaps`.
    """
    store = TokenStore.open(source)
    grammar = Tokenizer.load(store.tokenizer_path).grammar()
    out.mkdir(parents=True, mode=0o700)
    shutil.copyfile(store.tokenizer_path, out / TOKENIZER)
    writer = StoreWriter(out, tokenizer_hash=store.tokenizer_hash)
    for number, name in enumerate(SPLITS):
        for shard in store.split(name).shards:
            batch = shuffle_gaps(shard, grammar, seed)
            writer.add(batch, np.full(len(batch), number, np.uint8))
    kept = store.manifest
    writer.finish(
        calendar=kept["calendar"],
        observation=kept["observation"],
        split_rule=kept["split_rule"],
        counts=kept["counts"],
    )
    return TokenStore.open(out)
