"""The token store on disk; its layout is described in `chronoward.store.layout`."""

from __future__ import annotations

from chronoward.store.layout import MAX_SHARD_TOKENS
from chronoward.store.pending import Timelines
from chronoward.store.reader import StoreSplit, Timeline, TokenStore
from chronoward.store.shard import Shard
from chronoward.store.writer import StoreWriter

__all__ = [
    "MAX_SHARD_TOKENS",
    "Shard",
    "StoreSplit",
    "StoreWriter",
    "Timeline",
    "Timelines",
    "TokenStore",
]
