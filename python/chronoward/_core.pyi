"""
C++ core of chronoward: tokenise, pack, decode.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "KeyValueCache",
    "RULES_VERSION",
    "Sampler",
    "SeenTokens",
    "ShardArrays",
    "TokenizerCore",
    "count_keys",
    "cross_entropy",
    "cut_windows",
    "distinct_keys",
    "fill_rows",
    "pack_rows",
    "packed_attention",
    "packed_attention_backward",
    "philox4x32",
    "rms_norm",
    "seen_lists",
    "silu_gate",
    "split_heads",
    "splitmix64",
    "validate_timelines",
]

class Sampler:
    """
    Grammar, clock, silence and draws of all slots, a call a step.
    """
    def __init__(
        self,
        grammar: typing.Any,
        n_slots: typing.SupportsInt | typing.SupportsIndex,
        *,
        outcome_sets: collections.abc.Sequence[
            collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]
        ],
        temperature: typing.SupportsFloat | typing.SupportsIndex,
        top_k: typing.SupportsInt | typing.SupportsIndex,
        top_p: typing.SupportsFloat | typing.SupportsIndex,
        min_p: typing.SupportsFloat | typing.SupportsIndex,
        forbid_end: bool,
        max_new_tokens: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def arrays(self, slot: typing.SupportsInt | typing.SupportsIndex) -> dict[str, numpy.ndarray]:
        """
        Copies of what a slot has drawn so far.
        """
    def load(
        self,
        slot: typing.SupportsInt | typing.SupportsIndex,
        prompt: numpy.typing.NDArray[numpy.int32],
        *,
        key: typing.SupportsInt | typing.SupportsIndex,
        subject_id: typing.SupportsInt | typing.SupportsIndex,
        prediction_time_us: typing.SupportsInt | typing.SupportsIndex,
        rollout: typing.SupportsInt | typing.SupportsIndex,
        clock_min: typing.SupportsInt | typing.SupportsIndex,
        prediction_min: typing.SupportsInt | typing.SupportsIndex,
        deadline_min: typing.SupportsInt | typing.SupportsIndex,
        masked_set: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Starts a rollout after `prompt`.
        """
    def step(
        self, logits: numpy.typing.NDArray[numpy.float32], slots: numpy.typing.NDArray[numpy.int32]
    ) -> tuple[
        numpy.typing.NDArray[numpy.int32],
        numpy.typing.NDArray[numpy.int32],
        numpy.typing.NDArray[numpy.uint8],
    ]:
        """
        Draws a token a row: token ids, clocks and statuses.
        """
    def walk(self, tokens: numpy.typing.NDArray[numpy.int32]) -> int:
        """
        -1, or the position at which the grammar refuses the tokens.
        """

class KeyValueCache:
    """
    Keys and values by buffer, and attention of rows over them.
    """
    def __init__(
        self,
        n_buffers: typing.SupportsInt | typing.SupportsIndex,
        *,
        n_layers: typing.SupportsInt | typing.SupportsIndex,
        n_heads: typing.SupportsInt | typing.SupportsIndex,
        n_kv_heads: typing.SupportsInt | typing.SupportsIndex,
        d_head: typing.SupportsInt | typing.SupportsIndex,
        capacity: typing.SupportsInt | typing.SupportsIndex,
        bias: str,
    ) -> None: ...
    def attend(
        self,
        layer: typing.SupportsInt | typing.SupportsIndex,
        places: numpy.typing.NDArray[numpy.int32],
        q: numpy.typing.NDArray[numpy.float32],
        k: numpy.typing.NDArray[numpy.float32],
        v: numpy.typing.NDArray[numpy.float32],
        slope: numpy.typing.NDArray[numpy.float32],
        inverse_tau: numpy.typing.NDArray[numpy.float32],
        out: numpy.typing.NDArray[numpy.float32],
    ) -> None:
        """
        Appends k and v of one layer and attends into `out`.
        """
    def write_times(
        self, places: numpy.typing.NDArray[numpy.int32], time_min: numpy.typing.NDArray[numpy.int32]
    ) -> None:
        """
        Clocks of the rows' own tokens, before the layers.
        """

class SeenTokens:
    """
    Which tokens each buffer of a key-value cache holds.
    """
    def __init__(
        self,
        n_buffers: typing.SupportsInt | typing.SupportsIndex,
        vocab_size: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def advance(
        self,
        places: numpy.typing.NDArray[numpy.int32],
        token_id: numpy.typing.NDArray[numpy.int32],
        bias: numpy.typing.NDArray[numpy.float32],
        logits: numpy.typing.NDArray[numpy.float32],
    ) -> None:
        """
        Takes each row's token, then adds the bias of its context's tokens to its logits.
        """

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

class TokenizerCore:
    def __init__(
        self, encode_tables: typing.Any, token_columns: typing.Any, has_age: bool
    ) -> None: ...
    def decode(
        self, batch: typing.Any, threads: typing.SupportsInt | typing.SupportsIndex = 1
    ) -> dict: ...
    def encode(
        self, given: typing.Any, threads: typing.SupportsInt | typing.SupportsIndex = 1
    ) -> dict: ...

def count_keys(
    key: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    subject_id: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
    n_keys: typing.SupportsInt | typing.SupportsIndex,
) -> tuple: ...
def cross_entropy(
    logits: numpy.typing.NDArray[numpy.float32],
    bias: numpy.typing.NDArray[numpy.float32],
    target: numpy.typing.NDArray[numpy.int64],
    weight: numpy.typing.NDArray[numpy.float32],
    repeat_bias: numpy.typing.NDArray[numpy.float32],
    offsets: numpy.typing.NDArray[numpy.int64],
    seen: numpy.typing.NDArray[numpy.int32],
    losses: numpy.typing.NDArray[numpy.float32],
    d_bias: numpy.typing.NDArray[numpy.float32],
    d_repeat_bias: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Logits (n, V) become their gradient; fills losses, adds to the biases' gradients.
    """

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

def distinct_keys(
    role: typing.Annotated[numpy.typing.ArrayLike, numpy.uint8],
    table: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    code: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    unit: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    n_tables: typing.SupportsInt | typing.SupportsIndex,
    n_codes: typing.SupportsInt | typing.SupportsIndex,
    n_units: typing.SupportsInt | typing.SupportsIndex,
) -> tuple: ...
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

def packed_attention(
    q: numpy.typing.NDArray[numpy.float32],
    k: numpy.typing.NDArray[numpy.float32],
    v: numpy.typing.NDArray[numpy.float32],
    time_min: numpy.typing.NDArray[numpy.int32],
    cu_seqlens: numpy.typing.NDArray[numpy.int32],
    kv_end: numpy.typing.NDArray[numpy.int32],
    a: numpy.typing.NDArray[numpy.float32],
    tau: numpy.typing.NDArray[numpy.float32],
    bias: str,
    out: numpy.typing.NDArray[numpy.float32],
    log_sum: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Fills out (T, heads, d_head) and log_sum (T, heads); kv_end empty is causal.
    """

def packed_attention_backward(
    d_out: numpy.typing.NDArray[numpy.float32],
    q: numpy.typing.NDArray[numpy.float32],
    k: numpy.typing.NDArray[numpy.float32],
    v: numpy.typing.NDArray[numpy.float32],
    out: numpy.typing.NDArray[numpy.float32],
    log_sum: numpy.typing.NDArray[numpy.float32],
    time_min: numpy.typing.NDArray[numpy.int32],
    cu_seqlens: numpy.typing.NDArray[numpy.int32],
    kv_end: numpy.typing.NDArray[numpy.int32],
    a: numpy.typing.NDArray[numpy.float32],
    tau: numpy.typing.NDArray[numpy.float32],
    bias: str,
    d_q: numpy.typing.NDArray[numpy.float32],
    d_k: numpy.typing.NDArray[numpy.float32],
    d_v: numpy.typing.NDArray[numpy.float32],
    d_a: numpy.typing.NDArray[numpy.float64],
    d_tau: numpy.typing.NDArray[numpy.float64],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Adds the gradients of q, k, v, a and tau to arrays that are zero.
    """

def philox4x32(
    key: typing.SupportsInt | typing.SupportsIndex, counters: numpy.typing.NDArray[numpy.uint32]
) -> numpy.typing.NDArray[numpy.uint32]:
    """
    Philox4x32-10 blocks: uint32 (n, 4) counters to uint32 (n, 4) words.
    """

def rms_norm(
    x: numpy.typing.NDArray[numpy.float32],
    weight: numpy.typing.NDArray[numpy.float32],
    eps: typing.SupportsFloat | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.float32],
) -> None:
    """
    RMS norm of each row into `out`.
    """

def seen_lists(
    token_id: numpy.typing.NDArray[numpy.int64],
    cu_seqlens: numpy.typing.NDArray[numpy.int32],
    places: numpy.typing.NDArray[numpy.int64],
    vocab_size: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int32]]:
    """
    Offsets and distinct tokens of each place's segment up to and including the place.
    """

def silu_gate(
    gate_up: numpy.typing.NDArray[numpy.float32],
    width: typing.SupportsInt | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.float32],
) -> None:
    """
    silu(gate) * up of each row (gate, up) into `out`.
    """

def split_heads(
    projected: numpy.typing.NDArray[numpy.float32],
    shape: typing.Annotated[
        collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], "FixedSize(3)"
    ],
    q_weight: numpy.typing.NDArray[numpy.float32],
    k_weight: numpy.typing.NDArray[numpy.float32],
    eps: typing.SupportsFloat | typing.SupportsIndex,
    cosine: numpy.typing.NDArray[numpy.float32],
    sine: numpy.typing.NDArray[numpy.float32],
    q: numpy.typing.NDArray[numpy.float32],
    k: numpy.typing.NDArray[numpy.float32],
    v: numpy.typing.NDArray[numpy.float32],
) -> None:
    """
    Rows of (q, k, v) heads apart, normalized and turned; shape is (heads, kv heads, d).
    """

def splitmix64(words: numpy.typing.NDArray[numpy.uint64]) -> numpy.typing.NDArray[numpy.uint64]:
    """
    splitmix64 of each uint64 word.
    """

def validate_timelines(
    grammar: typing.Any,
    batch: typing.Any,
    complete: bool,
    threads: typing.SupportsInt | typing.SupportsIndex = 1,
) -> tuple: ...

RULES_VERSION: int = 1
__version__: str = "0.1.0"
