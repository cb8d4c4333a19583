"""One step of the model for many rows at once, each row over its own keys.

The whole step is one call of the C++ core, on one thread: a sum runs in the same order whatever
rows stand beside it, so a rollout's bytes do not depend on its neighbours. Prefill is the same call
with the rows of a prefix. `ReferenceDecoder` is its truth: the model's own blocks over a cache in
NumPy.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

from chronoward import _core
from chronoward.engine.memory import available_bytes
from chronoward.engine.precision import check_dtype
from chronoward.errors import ConfigError, LimitError
from chronoward.kernels.decode_attention import ReferenceCache
from chronoward.model.blocks import Block
from chronoward.model.config import N_CLOCK_KNOTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from chronoward.model import Model

PAGE_TOKENS = 16


class StepRows(NamedTuple):
    """Contexts that go on, a row each; `Decoder.steps` leaves them as its next call takes them."""

    token_id: NDArray[np.int32]
    """(rows,) drawn, not yet in the cache."""
    time_min: NDArray[np.int32]
    """(rows,) clock of each token."""
    start_min: NDArray[np.int32]
    """(rows,) clock of the first token of the row's context."""
    places: NDArray[np.int32]
    """(rows, 4): prefix buffer, its length, own buffer, its length with this token."""


class Decoder(Protocol):
    """What the engine needs of a model; tests put an enumerable one in its place.

    Whoever inherits from it has `steps` from `forward`.
    """

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""

    def open(self, n_buffers: int, max_context: int, max_tokens: int) -> None:
        """Makes room for `n_buffers` contexts of up to `max_context` tokens.

        Args:
            n_buffers: contexts, numbered from 0.
            max_context: tokens of one.
            max_tokens: tokens of all together, each context's rounded up to whole pages.
        """

    def release(self, buffer: int) -> None:
        """Forgets a context."""

    @property
    def cache_bytes(self) -> int:
        """Memory that contexts take now."""

    def forward(
        self,
        token_id: NDArray[np.int32],
        time_min: NDArray[np.int32],
        start_min: NDArray[np.int32],
        places: NDArray[np.int32],
        *,
        wants_logits: bool,
    ) -> NDArray[np.float32] | None:
        """Takes one token a row into the cache.

        Args:
            token_id: (rows,).
            time_min: clock of each token (rows,).
            start_min: clock of the first token of the row's context (rows,).
            places: (rows, 4): prefix buffer, its length, own buffer, its length with this token.
            wants_logits: False for prefill.

        Returns:
            float32 (rows, V), scores of what follows each token, valid until the next call; None
            without `wants_logits`.
        """

    def steps(
        self, sampler: _core.Sampler, slots: NDArray[np.int32], rows: StepRows, max_steps: int
    ) -> tuple[int, NDArray[np.uint8]]:
        """Forward and draw in turn until a row's rollout ends.

        Args:
            sampler: draws.
            slots: the sampler's slot of each row (rows,).
            rows: the contexts; changed in place.
            max_steps: most steps, at least 1.

        Returns:
            How many steps there were, and how the last one left each row (rows,): a place in
            `rollout.STATUSES`.

        Raises:
            NumericError: NaN logits or nothing to choose from; names step and slot.
        """
        n_steps, has_ended = 0, False
        while n_steps < max_steps and not has_ended:
            logits = self.forward(*rows, wants_logits=True)
            assert logits is not None
            rows.token_id[:], rows.time_min[:], status = sampler.step(logits, slots)
            rows.places[:, 3] += 1
            n_steps, has_ended = n_steps + 1, bool(status.any())
        return n_steps, status


@contextmanager
def one_thread() -> Iterator[None]:
    """One intra-op thread while it lasts: sums of several threads round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_model(model: Model) -> None:
    for parameter in model.parameters():
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            message = "the engine decodes float32 models on the CPU"
            raise ConfigError(message)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().contiguous().numpy()
    return array


def _bias(block: Block) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """a and 1/τ of each head; empty without bias."""
    a, tau = block.bias()
    if a is None or tau is None:
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    return _array(a.float()), _array(1.0 / tau.float())


def _block_parameters(block: Block) -> dict[str, NDArray[Any]]:
    slope, inverse_tau = _bias(block)
    parameters = {
        "attention_norm": _array(block.attention_norm.weight),
        "qkv": _array(block.qkv_projection.weight),
        "attention_output": _array(block.attention_output.weight),
        "feed_forward_norm": _array(block.feed_forward_norm.weight),
        "gate_and_up": _array(block.gate_and_up.weight),
        "down": _array(block.down.weight),
        "slope": slope,
        "inverse_tau": inverse_tau,
    }
    if block.query_norm is not None and block.key_norm is not None:
        parameters["query_norm"] = _array(block.query_norm.weight)
        parameters["key_norm"] = _array(block.key_norm.weight)
    return parameters


@torch.no_grad()
def _decode_model(model: Model, dtype: str) -> _core.DecodeModel:
    config = model.config
    parameters = {
        "embedded": _array(model.embed(torch.arange(config.vocab_size))),
        "index_frequency": _array(model.index_frequency.double()),
        "time_frequency": _array(model.time_frequency.double()),
        "final_norm": _array(model.final_norm.weight),
        "output": _array(model.output_weight),
        "unseen": _array(model.context_bias.unseen),
        "known": _array(model.context_bias.known),
    }
    if model.clock is not None:
        parameters["clock"] = _array(model.clock.weight.t())
    sizes = (config.n_layers, config.n_heads, config.n_kv_heads, config.d_head)
    return _core.DecodeModel(
        (*sizes, config.vocab_size, config.d_model, config.d_ff),
        bias=config.time_bias,
        norm_eps=config.norm_eps,
        n_knots=list(N_CLOCK_KNOTS),
        parameters=parameters,
        blocks=[_block_parameters(b) for b in model.blocks if isinstance(b, Block)],
        rules=model.context_bias.rules(),
        dtype=dtype,
    )


class ModelDecoder(Decoder):
    """A `Model` on the CPU with its key-value cache.

    Args:
        model: float32, on the CPU.
        dtype: of weights, keys and values; "bfloat16" halves what a step reads. "int8": weights
            with a scale an output, inputs with a scale a row; keys and values are bfloat16.

    Raises:
        ConfigError: a model of another type or device, or an unknown dtype.
    """

    def __init__(self, model: Model, *, dtype: str = "float32") -> None:
        _check_model(model)
        check_dtype(dtype)
        self._vocab_size = model.config.vocab_size
        self.core = _decode_model(model, dtype)
        self._logits = np.zeros((0, self._vocab_size), np.float32)
        self._nothing = np.zeros(0, np.float32)

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self._vocab_size

    def open(self, n_buffers: int, max_context: int, max_tokens: int) -> None:
        """See `Decoder.open`; memory is taken page by page.

        Raises:
            LimitError: `max_tokens` would take more than the memory there is.
        """
        n_pages = -(-max_tokens // PAGE_TOKENS)
        needed, available = n_pages * self.core.page_bytes, available_bytes()
        if available is not None and needed > available:
            message = (
                f"{max_tokens:,} tokens of keys and values take {needed / 2**30:.1f} GiB, and "
                f"{available / 2**30:.1f} GiB are available: fewer slots or a shorter context"
            )
            raise LimitError(message)
        self.core.open(n_buffers, max_context, n_pages)

    def release(self, buffer: int) -> None:
        """See `Decoder.release`."""
        self.core.release(buffer)

    @property
    def cache_bytes(self) -> int:
        """See `Decoder.cache_bytes`."""
        return self.core.pages_in_use * self.core.page_bytes

    def forward(
        self,
        token_id: NDArray[np.int32],
        time_min: NDArray[np.int32],
        start_min: NDArray[np.int32],
        places: NDArray[np.int32],
        *,
        wants_logits: bool,
    ) -> NDArray[np.float32] | None:
        """See `Decoder.forward`."""
        if not wants_logits:
            self.core.step(token_id, time_min, start_min, places, self._nothing)
            return None
        logits = self._room_for_logits(len(token_id))
        self.core.step(token_id, time_min, start_min, places, logits)
        return logits

    def _room_for_logits(self, n_rows: int) -> NDArray[np.float32]:
        if len(self._logits) < n_rows:
            self._logits = np.zeros((n_rows, self._vocab_size), np.float32)
        return self._logits[:n_rows]

    def steps(
        self, sampler: _core.Sampler, slots: NDArray[np.int32], rows: StepRows, max_steps: int
    ) -> tuple[int, NDArray[np.uint8]]:
        """See `Decoder.steps`; one call of the core."""
        status = np.zeros(len(slots), np.uint8)
        n_steps = self.core.steps(
            sampler,
            slots=slots,
            **rows._asdict(),
            logits=self._room_for_logits(len(slots)),
            status=status,
            max_steps=max_steps,
        )
        return n_steps, status


class ReferenceDecoder(Decoder):
    """The same by the model's own blocks, over a cache in NumPy: slow, the oracle of the other.

    Args:
        model: float32, on the CPU.

    Raises:
        ConfigError: a model of another type or device.
    """

    def __init__(self, model: Model) -> None:
        _check_model(model)
        self.model = model.eval()
        self._blocks = [block for block in model.blocks if isinstance(block, Block)]
        self._cache: ReferenceCache | None = None
        self._contexts: _core.ContextBuffers | None = None

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self.model.config.vocab_size

    def open(self, n_buffers: int, max_context: int, max_tokens: int) -> None:
        """See `Decoder.open`; every context has its whole room from the start."""
        config = self.model.config
        self._cache = ReferenceCache(
            n_buffers,
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            d_head=config.d_head,
            capacity=max_context,
            bias=config.time_bias,
        )
        self._contexts = _core.ContextBuffers(self.model.context_bias.rules(), n_buffers)

    def release(self, buffer: int) -> None:
        """Nothing: its first token empties a context."""

    @property
    def cache_bytes(self) -> int:
        """The whole room."""
        return 0 if self._cache is None else self._cache.keys.nbytes + self._cache.values.nbytes

    @torch.no_grad()
    def forward(
        self,
        token_id: NDArray[np.int32],
        time_min: NDArray[np.int32],
        start_min: NDArray[np.int32],
        places: NDArray[np.int32],
        *,
        wants_logits: bool,
    ) -> NDArray[np.float32] | None:
        """See `Decoder.forward`."""
        cache, contexts, model = self._cache, self._contexts, self.model
        assert cache is not None, "open() comes first"
        assert contexts is not None
        cache.write_times(places, time_min)
        index = torch.from_numpy(places[:, 1].astype(np.int64) + places[:, 3] - 1)
        clock = torch.from_numpy(time_min.astype(np.int64))
        elapsed = clock - torch.from_numpy(start_min.astype(np.int64))
        embedded = model.embed(torch.from_numpy(token_id.astype(np.int64)))
        x = model.begin(embedded, clock, index, elapsed)
        angles = model.rotary(index, elapsed)
        for layer, block in enumerate(self._blocks):
            q, k, v = (_array(part) for part in block.qkv(x, angles))
            attended = np.empty_like(q)
            cache.attend(layer, places, q, k, v, *_bias(block), attended)
            x = block.finish(x, torch.from_numpy(attended))
        logits = np.zeros((0, self.vocab_size), np.float32)
        if wants_logits:
            logits = _array(model.final_norm(x) @ model.output_weight.t())
        unseen, known = _array(model.context_bias.unseen), _array(model.context_bias.known)
        contexts.advance(places, token_id, unseen, known, logits)
        return logits if wants_logits else None
