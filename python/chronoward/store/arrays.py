"""A split as the C++ core reads it: the mapped columns, held for as long as batches are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward import _core

if TYPE_CHECKING:
    from chronoward.store.reader import StoreSplit


def split_arrays(split: StoreSplit) -> _core.SplitArrays:
    """The split's arrays for `_core.fill_rows` and `_core.fill_padded`; nothing is copied."""
    return _core.SplitArrays(
        [
            _core.ShardArrays(
                offsets=shard.offsets,
                token_id=shard.token_id,
                time_min=shard.time_min,
                n_prior=shard.n_prior,
                obs_offsets=shard.obs_offsets,
                obs_start_min=shard.obs_start_min,
                obs_end_min=shard.obs_end_min,
            )
            for shard in split.shards
        ]
    )
