"""The truth of decode attention: one row and head after the other in fp64 NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ReferenceCache:
    """Same interface as `chronoward._core.KeyValueCache`; slow, and the oracle of its tests."""

    def __init__(
        self,
        n_buffers: int,
        *,
        n_layers: int,
        n_heads: int,
        n_kv_heads: int,
        d_head: int,
        capacity: int,
        bias: str,
    ) -> None:
        self.group = n_heads // n_kv_heads
        self.n_heads = n_heads
        self.bias = bias
        shape = (n_buffers, n_layers, n_kv_heads, capacity, d_head)
        self.keys = np.zeros(shape, np.float32)
        self.values = np.zeros(shape, np.float32)
        self.times = np.zeros((n_buffers, capacity), np.int32)

    def write_times(self, places: NDArray[np.int32], time_min: NDArray[np.int32]) -> None:
        """Clocks of the rows' own tokens."""
        self.times[places[:, 2], places[:, 3] - 1] = time_min

    def attend(
        self,
        layer: int,
        places: NDArray[np.int32],
        q: NDArray[np.float32],
        k: NDArray[np.float32],
        v: NDArray[np.float32],
        slope: NDArray[np.float32],
        inverse_tau: NDArray[np.float32],
        out: NDArray[np.float32],
    ) -> None:
        """s = q·k/√d − a·f(|Δt|/τ); out = softmax(s)·v, over the prefix and then the row's own."""
        for row, (_, _, own, length) in enumerate(places):
            self.keys[own, layer, :, length - 1] = k[row]
            self.values[own, layer, :, length - 1] = v[row]
        for row, (prefix, n_prefix, own, length) in enumerate(places):
            times = np.concatenate([self.times[prefix, :n_prefix], self.times[own, :length]])
            delta = np.abs(int(times[-1]) - times.astype(np.int64)).astype(np.float64)
            for head in range(self.n_heads):
                parts = [
                    (
                        kept[prefix, layer, head // self.group, :n_prefix],
                        kept[own, layer, head // self.group, :length],
                    )
                    for kept in (self.keys, self.values)
                ]
                keys, values = (np.concatenate(part).astype(np.float64) for part in parts)
                scores = keys @ q[row, head].astype(np.float64) / np.sqrt(q.shape[-1])
                if self.bias == "log":
                    scores -= slope[head] * np.log1p(delta * inverse_tau[head])
                elif self.bias == "linear":
                    scores -= slope[head] * delta * inverse_tau[head]
                weights = np.exp(scores - scores.max())
                out[row, head] = weights @ values / weights.sum()
