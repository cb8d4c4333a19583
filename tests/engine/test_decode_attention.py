from __future__ import annotations

import numpy as np
import pytest
from chronoward.kernels.decode_attention import decode_cache

SHAPES = [(4, 2, 32), (3, 3, 20), (6, 1, 64), (2, 2, 7)]


def filled(bias: str, backend: str, shape: tuple[int, int, int], seed: int = 0):
    """Buffers 0–2 with 37, 5 and 1 tokens; returns the output of the last rows of each."""
    n_heads, n_kv_heads, d_head = shape
    cache = decode_cache(
        4, n_layers=2, n_heads=n_heads, n_kv_heads=n_kv_heads, d_head=d_head, capacity=48,
        bias=bias, backend=backend,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    slope = rng.uniform(0, 2, n_heads).astype(np.float32)
    inverse_tau = (1 / rng.uniform(10, 1e5, n_heads)).astype(np.float32)
    last = None
    for position in range(37):
        rows = [b for b, n in enumerate((37, 5, 1)) if position < n]
        places = np.array([(3, 0, b, position + 1) for b in rows], np.int32)
        if position == 36:  # the last row also sees 5 tokens of buffer 1
            places[0, :2] = 1, 5
        cache.write_times(places, np.array([position * 700 + b for b in rows], np.int32))
        for layer in range(2):
            q, k, v = (
                rng.normal(size=(len(rows), h, d_head)).astype(np.float32)
                for h in (n_heads, n_kv_heads, n_kv_heads)
            )
            last = np.empty_like(q)
            cache.attend(layer, places, q, k, v, slope, inverse_tau, last)
    return last


@pytest.mark.parametrize("bias", ["none", "log", "linear"])
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_equals_reference(bias: str, shape: tuple[int, int, int]) -> None:
    np.testing.assert_allclose(
        filled(bias, "cpu", shape), filled(bias, "reference", shape), rtol=2e-5, atol=2e-6
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_does_not_depend_on_its_neighbours(dtype: str) -> None:
    """Nor on the rows that share its prefix: theirs are scored together."""
    cache = decode_cache(
        9, n_layers=1, n_heads=4, n_kv_heads=2, d_head=32, capacity=64, bias="log", dtype=dtype
    )
    rng = np.random.default_rng(0)
    slope, tau = np.ones(4, np.float32), np.full(4, 1e-3, np.float32)
    prefix = np.array([(8, 0, 8, position + 1) for position in range(37)], np.int32)
    cache.write_times(prefix, np.arange(37, dtype=np.int32))
    filling = [rng.normal(size=(37, h, 32)).astype(np.float32) for h in (4, 2, 2)]
    cache.attend(0, prefix, *filling, slope, tau, np.empty_like(filling[0]))
    places = np.array([(8, 37 * (b % 3 > 0), b, 1) for b in range(8)], np.int32)
    for position in range(1, 50):
        places[:, 3] = np.maximum(1, position - np.arange(8))
        q, k, v = (rng.normal(size=(8, h, 32)).astype(np.float32) for h in (4, 2, 2))
        cache.write_times(places, np.full(8, 37 + position, np.int32))
        together = np.empty_like(q)
        cache.attend(0, places, q, k, v, slope, tau, together)
    alone = np.empty_like(q[:1])
    for row in range(8):
        one = slice(row, row + 1)
        cache.attend(0, places[one].copy(), q[one], k[one], v[one], slope, tau, alone)
        assert alone.tobytes() == together[one].tobytes()


def test_places_outside_the_cache_are_errors() -> None:
    cache = decode_cache(2, n_layers=1, n_heads=1, n_kv_heads=1, d_head=8, capacity=16, bias="none")
    for place in [(0, 0, 2, 1), (0, 17, 0, 1), (0, 0, 0, 0), (-1, 0, 0, 1), (0, 0, 0, 17)]:
        with pytest.raises(ValueError, match="outside the key-value cache"):
            cache.write_times(np.array([place], np.int32), np.zeros(1, np.int32))
    with pytest.raises(ValueError, match="backend must be one of"):
        decode_cache(
            2, n_layers=1, n_heads=1, n_kv_heads=1, d_head=8, capacity=16, bias="none", backend="x"
        )
    with pytest.raises(ValueError, match="do not fit"):
        decode_cache(2, n_layers=1, n_heads=3, n_kv_heads=2, d_head=8, capacity=16, bias="none")


def test_pages_are_taken_as_a_buffer_grows_and_given_back() -> None:
    cache = decode_cache(3, n_layers=1, n_heads=1, n_kv_heads=1, d_head=8, capacity=48, bias="none")
    one = np.zeros(1, np.int32)
    for length in range(1, 34):
        cache.write_times(np.array([(0, 0, 1, length)], np.int32), one)
        assert cache.pages_in_use == (length + 15) // 16
    cache.write_times(np.array([(0, 0, 1, 1)], np.int32), one)  # begins anew
    assert cache.pages_in_use == 1
    cache.release(1)
    assert cache.pages_in_use == 0
