"""
C++ core of chronoward: tokenise, pack, decode.
"""

from __future__ import annotations

import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "RULES_VERSION",
    "ShardArrays",
    "cut_windows",
    "fill_rows",
    "pack_rows",
    "philox4x32",
    "splitmix64",
]

class ShardArrays:
    """
    A shard's arrays, as rows are made of them.
    """
    def __init__(
        self,
        token_id: numpy.typing.NDArray[numpy.int32],
        time_min: numpy.typing.NDArray[numpy.int32],
        n_prior: numpy.typing.NDArray[numpy.uint8],
        obs_start_min: numpy.typing.NDArray[numpy.int32],
        obs_end_min: numpy.typing.NDArray[numpy.int32],
    ) -> None: ...

def cut_windows(
    offsets: numpy.typing.NDArray[numpy.int64],
    token_id: numpy.typing.NDArray[numpy.int32],
    token_class: numpy.typing.NDArray[numpy.uint8],
    row_tokens: typing.SupportsInt | typing.SupportsIndex,
    n_prompt: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
]:
    """
    Windows (timeline, begin, length, n_lead, open_visit, open_detail) of a shard.
    """

def fill_rows(
    shards: list[ShardArrays],
    positions: numpy.typing.NDArray[numpy.int64],
    length: numpy.typing.NDArray[numpy.int32],
    n_lead: numpy.typing.NDArray[numpy.int32],
    prompt: numpy.typing.NDArray[numpy.int32],
    row_offsets: numpy.typing.NDArray[numpy.int64],
    token_class: numpy.typing.NDArray[numpy.uint8],
    row_tokens: typing.SupportsInt | typing.SupportsIndex,
    max_segments: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.int32],
]:
    """
    Rows (token_id, time_min, n_prior, loss_mask, cu_seqlens) of segments.
    """

def pack_rows(
    lengths: numpy.typing.NDArray[numpy.int32],
    order: numpy.typing.NDArray[numpy.int64],
    row_tokens: typing.SupportsInt | typing.SupportsIndex,
    max_segments: typing.SupportsInt | typing.SupportsIndex,
    block: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int64]]:
    """
    Best-fit decreasing in blocks: row offsets and the windows of each row.
    """

def philox4x32(
    key: typing.SupportsInt | typing.SupportsIndex, counters: numpy.typing.NDArray[numpy.uint32]
) -> numpy.typing.NDArray[numpy.uint32]:
    """
    Philox4x32-10 blocks: uint32 (n, 4) counters to uint32 (n, 4) words.
    """

def splitmix64(words: numpy.typing.NDArray[numpy.uint64]) -> numpy.typing.NDArray[numpy.uint64]:
    """
    splitmix64 of each uint64 word.
    """

RULES_VERSION: int = 1
__version__: str = "0.1.0"
