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


class ModelDecoder:
    """A `Model` on the CPU with its key-value cache."""

    def __init__(self, model: Model, *, backend: str = "cpu") -> None:
        self.model = model.eval()
        self.backend = backend
        for parameter in model.parameters():
            if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
                message = "the engine decodes float32 models on the CPU"
                raise ConfigError(message)
        config = model.config
        self._cache: DecodeCache | None = None
        self._attended = torch.zeros(TILE, config.n_heads, config.d_head)
        self._bias: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        nothing = np.zeros(0, np.float32)
        self._blocks = [block for block in model.blocks if isinstance(block, Block)]
        with torch.no_grad():
            for block in self._blocks:
                a, tau = block.bias()
                if a is None or tau is None:
                    self._bias.append((nothing, nothing))
                else:
                    self._bias.append((a.float().numpy().copy(), (1.0 / tau.float()).numpy()))

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self.model.config.vocab_size

    def open(self, n_buffers: int, max_context: int) -> None:
        """Allocates the cache: fp32 keys and values of every buffer."""
        config = self.model.config
        self._cache = decode_cache(
            n_buffers + 1,  # one more: padded rows need a place too
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            d_head=config.d_head,
            capacity=-(-max_context // _KEY_BLOCK) * _KEY_BLOCK,
            bias=config.time_bias,
            backend=self.backend,
        )

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
        assert self._cache is not None, "open() comes first"
        rows = len(token_id)
        logits = np.empty((rows, self.vocab_size), np.float32) if wants_logits else None
        for first in range(0, rows, TILE):
            last = min(first + TILE, rows)
            tile = slice(first, last)
            hidden = self._tile(token_id[tile], time_min[tile], start_min[tile], places[tile])
            if logits is not None:
                logits[tile] = self.model.logits(self.model.final_norm(hidden)).numpy()[
                    : last - first
                ]
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
        assert cache is not None
        padded = np.zeros((3, TILE), np.int64)
        padded[0, :n] = token_id
        padded[1, :n] = places[:, 1] + places[:, 3] - 1
        padded[2, :n] = time_min.astype(np.int64) - start_min
        tokens, index, elapsed = torch.from_numpy(padded)
        places = np.ascontiguousarray(places)
        cache.write_times(places, np.ascontiguousarray(time_min))
        angles = self.model.rotary(index, elapsed)
        x = self.model.embed(tokens)
        out = self._attended.numpy()
        for layer, block in enumerate(self._blocks):
            q, k, v = (part.contiguous().numpy()[:n] for part in block.qkv(x, angles))
            cache.attend(layer, places, q, k, v, *self._bias[layer], out[:n])
            x = block.finish(x, self._attended)
        return x
