"""One step of the model for many rows at once, each row over its own keys.

Matrix products run in tiles of exactly `TILE` rows, the last one padded, whatever the number of
slots: BLAS may round differently for another number of rows, and a rollout's bytes must not depend
on its neighbours. Prefill is the same call with the rows of a prefix.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn.functional import linear

from chronoward import _core
from chronoward.errors import ConfigError
from chronoward.kernels.decode_attention import DecodeCache, decode_cache
from chronoward.model.blocks import Block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from chronoward.model import Model

TILE = 32
_KEY_BLOCK = 16


class Decoder(Protocol):
    """What the engine needs of a model; tests put an enumerable one in its place."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""

    def open(self, n_buffers: int, max_context: int) -> None:
        """Makes room for `n_buffers` contexts of up to `max_context` tokens."""

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
            float32 (rows, V), scores of what follows each token; None without `wants_logits`.
        """


@contextmanager
def one_thread() -> Iterator[None]:
    """One intra-op thread while it lasts: sums of several threads round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Weights:
    """A block's parameters as the fused path wants them: matrices transposed, vectors in NumPy."""

    def __init__(self, block: Block) -> None:
        nothing = np.zeros(0, np.float32)
        self.attention_norm = block.attention_norm.weight.detach().numpy()
        self.feed_forward_norm = block.feed_forward_norm.weight.detach().numpy()
        self.eps = block.attention_norm.eps
        self.query_norm = self.key_norm = nothing
        if block.query_norm is not None and block.key_norm is not None:
            self.query_norm = block.query_norm.weight.detach().numpy()
            self.key_norm = block.key_norm.weight.detach().numpy()
        self.qkv = block.qkv_projection.weight.detach().t().contiguous()
        self.attention_output = block.attention_output.weight.detach().t().contiguous()
        self.gate_and_up = block.gate_and_up.weight.detach().t().contiguous()
        self.down = block.down.weight.detach().t().contiguous()
        self.slope = self.inverse_tau = nothing
        a, tau = block.bias()
        if a is not None and tau is not None:
            self.slope = a.detach().float().numpy().copy()
            self.inverse_tau = (1.0 / tau.detach().float()).numpy()


class ModelDecoder:
    """A `Model` on the CPU with its key-value cache.

    Args:
        model: float32, on the CPU.
        backend: "cpu" (C++ between the matrix products) or "reference" (`Block`'s own methods and
            NumPy attention: the oracle of the other).

    Raises:
        ConfigError: a model of another type or device.
    """

    def __init__(self, model: Model, *, backend: str = "cpu") -> None:
        self.model = model.eval()
        self.backend = backend
        for parameter in model.parameters():
            if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
                message = "the engine decodes float32 models on the CPU"
                raise ConfigError(message)
        config = model.config
        self._shape = (config.n_heads, config.n_kv_heads, config.d_head)
        with torch.inference_mode():
            self._embedded = model.embed(torch.arange(config.vocab_size))
        self._cache: DecodeCache | None = None
        self._contexts: _core.ContextBuffers | None = None
        biases = (model.context_bias.unseen, model.context_bias.known)
        self._unseen, self._known = (x.detach().numpy().copy() for x in biases)
        self._blocks = [block for block in model.blocks if isinstance(block, Block)]
        self._weights = [_Weights(block) for block in self._blocks]
        d, kv = config.d_model, config.n_kv_heads * config.d_head
        widths = {"normed": d, "qkv": d + 2 * kv, "q": d, "k": kv, "v": kv, "attended": d}
        widths |= {"gate_up": 2 * config.d_ff, "gated": config.d_ff}
        self._tensors = {name: torch.zeros(TILE, width) for name, width in widths.items()}
        self._arrays = {name: tensor.numpy() for name, tensor in self._tensors.items()}

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self.model.config.vocab_size

    def open(self, n_buffers: int, max_context: int) -> None:
        """Allocates the cache: fp32 keys and values of every buffer."""
        config = self.model.config
        self._cache = decode_cache(
            n_buffers,
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            d_head=config.d_head,
            capacity=-(-max_context // _KEY_BLOCK) * _KEY_BLOCK,
            bias=config.time_bias,
            backend=self.backend,
        )
        self._contexts = _core.ContextBuffers(self.model.context_bias.rules(), n_buffers)

    @torch.inference_mode()
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
        rows = len(token_id)
        logits = np.empty((rows, self.vocab_size), np.float32) if wants_logits else None
        for first in range(0, rows, TILE):
            last = min(first + TILE, rows)
            tile = slice(first, last)
            hidden = self._tile(token_id[tile], time_min[tile], start_min[tile], places[tile])
            if logits is not None:
                normed = self._tensors["normed"]
                weight = self.model.final_norm.weight.numpy()
                _core.rms_norm(hidden.numpy(), weight, self.model.final_norm.eps, normed.numpy())
                scores = linear(normed, self.model.output_weight)
                logits[tile] = scores.numpy()[: last - first]
        assert self._contexts is not None, "open() comes first"
        target = np.zeros(0, np.float32) if logits is None else logits
        self._contexts.advance(places, token_id, self._unseen, self._known, target)
        return logits

    def _tile(
        self,
        token_id: NDArray[np.int32],
        time_min: NDArray[np.int32],
        start_min: NDArray[np.int32],
        places: NDArray[np.int32],
    ) -> torch.Tensor:
        """Residual stream (TILE, d) after the last block; rows behind the real ones are padding."""
        cache, n = self._cache, len(token_id)
        assert cache is not None, "open() comes first"
        padded = np.zeros((4, TILE), np.int64)
        padded[0, :n] = token_id
        padded[1, :n] = places[:, 1] + places[:, 3] - 1
        padded[2, :n] = time_min.astype(np.int64) - start_min
        padded[3, :n] = time_min
        tokens, index, elapsed, clock = torch.from_numpy(padded)
        places = np.ascontiguousarray(places)
        cache.write_times(places, np.ascontiguousarray(time_min))
        angles = self.model.rotary(index, elapsed)
        x = self.model.begin(self._embedded[tokens], clock, index, elapsed)
        if self.backend == "reference":
            return self._reference_blocks(cache, x, angles, places)
        return self._blocks_in_place(cache, x, angles, places)

    def _blocks_in_place(
        self,
        cache: DecodeCache,
        x: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor] | None,
        places: NDArray[np.int32],
    ) -> torch.Tensor:
        """All blocks: matrix products by BLAS, what lies between them in C++, nothing allocated."""
        n, x_rows = len(places), x.numpy()
        t, a = self._tensors, self._arrays
        nothing = np.zeros(0, np.float32)
        cosine, sine = (angle.numpy() for angle in angles) if angles else (nothing, nothing)
        q, k, v, attended = (
            a[name].reshape(TILE, -1, self._shape[2])[:n] for name in ("q", "k", "v", "attended")
        )
        for layer, w in enumerate(self._weights):
            _core.rms_norm(x_rows, w.attention_norm, w.eps, a["normed"])
            torch.mm(t["normed"], w.qkv, out=t["qkv"])
            _core.split_heads(
                *(a["qkv"], self._shape, w.query_norm, w.key_norm, w.eps, cosine, sine),
                *(a["q"], a["k"], a["v"]),
            )
            cache.attend(layer, places, q, k, v, w.slope, w.inverse_tau, attended)
            x.addmm_(t["attended"], w.attention_output)
            _core.rms_norm(x_rows, w.feed_forward_norm, w.eps, a["normed"])
            torch.mm(t["normed"], w.gate_and_up, out=t["gate_up"])
            _core.silu_gate(a["gate_up"], a["gated"].shape[1], a["gated"])
            x.addmm_(t["gated"], w.down)
        return x

    def _reference_blocks(
        self,
        cache: DecodeCache,
        x: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor] | None,
        places: NDArray[np.int32],
    ) -> torch.Tensor:
        n = len(places)
        attended = self._tensors["attended"].view(TILE, self._shape[0], -1)
        for layer, block in enumerate(self._blocks):
            q, k, v = (part.contiguous().numpy()[:n] for part in block.qkv(x, angles))
            w = self._weights[layer]
            cache.attend(layer, places, q, k, v, w.slope, w.inverse_tau, attended.numpy()[:n])
            x = block.finish(x, attended)
        return x
