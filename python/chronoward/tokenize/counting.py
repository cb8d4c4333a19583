"""Counting a source's train split for `fit`, whole or a share of its subjects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chronoward.ahead import ahead
from chronoward.philox import splitmix64
from chronoward.schema import SPLITS
from chronoward.tokenizer import CountingScan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.data import PreparedEvents
    from chronoward.tokenize.splitting import SplitOf
    from chronoward.tokenizer import FitCounts, TokenizerSpec


def count_train(
    prepared: PreparedEvents,
    spec: TokenizerSpec,
    split_of: SplitOf,
    *,
    scratch: Path,
    shard: tuple[int, int] | None = None,
    threads: int = 1,
    seen: Callable[[int], None] = lambda _: None,
) -> FitCounts:
    """Counts what a tokenizer is fitted on.

    Args:
        prepared: the source's events.
        spec: of the tokenizer.
        split_of: splits of subjects.
        scratch: folder where sampled values lie.
        shard: (index, number of shards): only that share, by a hash that is independent of the
            splits'.
        threads: with two, events are read while those before them are counted.
        seen: is told the number of events read.

    Raises:
        DataError: no event counts.
    """
    watched = prepared.observation if spec.waits_from_observation else None
    scan = CountingScan(prepared.codes, watched, scratch)

    def is_counted(subject_id: NDArray[np.int64]) -> NDArray[np.bool_]:
        is_train = np.asarray(split_of(subject_id) == SPLITS.index("train"))
        if shard is None:
            return is_train
        index, n_shards = shard
        of_shard = splitmix64(splitmix64(subject_id)) % np.uint64(n_shards) == index
        return np.asarray(is_train & of_shard)

    n_seen = 0
    for columns in ahead(map(scan.read, prepared.batches()), threads):
        scan.add_columns(columns, is_counted)
        n_seen += len(columns)
        seen(n_seen)
    return scan.counts()
