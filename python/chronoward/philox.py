"""Counter-based random numbers: each is a function of (key, counter), of nothing drawn before.

The C++ side is csrc/core/philox.hpp; both give the same words. Floats are made from words by one
fixed rule, (word + ½)·2⁻³², so no number depends on NumPy's version.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from chronoward import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MASK64 = (1 << 64) - 1


def _splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def splitmix64(words: NDArray[np.integer]) -> NDArray[np.uint64]:
    """splitmix64 of each 64-bit integer; negative ones count as their two's complement.

    Args:
        words: int64 or uint64, any shape.

    Returns:
        uint64, the shape of `words`.

    Raises:
        TypeError: another dtype.
    """
    if words.dtype not in (np.dtype(np.int64), np.dtype(np.uint64)):
        message = f"words must be int64 or uint64, not {words.dtype}"
        raise TypeError(message)
    flat = np.ascontiguousarray(words).reshape(-1).view(np.uint64)
    return _core.splitmix64(flat).reshape(words.shape)


def hash64(*parts: int | str) -> int:
    """64-bit hash of a sequence; the order matters: h = 0, then h = splitmix64(h ^ part).

    Integers count modulo 2⁶⁴; a string counts as the first 8 bytes of its SHA-256 (little endian).
    """
    value = 0
    for part in parts:
        if isinstance(part, str):
            part = int.from_bytes(hashlib.sha256(part.encode()).digest()[:8], "little")
        value = _splitmix64(value ^ (part & _MASK64))
    return value


def philox4x32(key: int, counters: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Philox4x32-10 blocks (Salmon et al., SC 2011).

    Args:
        key: 64 bits; the low half is Random123's key[0].
        counters: uint32 (n, 4), C-contiguous.

    Returns:
        uint32 (n, 4): four words a counter.

    Raises:
        ValueError: another shape.
        TypeError: another dtype.
    """
    return _core.philox4x32(key, counters)


def words(key: int, n: int, *, start: int = 0) -> NDArray[np.uint32]:
    """The words `start` .. `start + n` of a key's stream (block i has counter i, low word first).

    Raises:
        ValueError: `n` or `start` is negative.
    """
    if n < 0 or start < 0:
        message = f"n and start must not be negative, got {n} and {start}"
        raise ValueError(message)
    first, last = start // 4, (start + n + 3) // 4
    blocks = np.arange(first, last, dtype=np.uint64)
    counters = np.zeros((len(blocks), 4), np.uint32)
    counters[:, 0] = (blocks & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    counters[:, 1] = (blocks >> np.uint64(32)).astype(np.uint32)
    return philox4x32(key, counters).reshape(-1)[start - 4 * first :][:n]


def to_uniforms(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Words as float64 strictly between 0 and 1, the middle of each 2⁻³² cell."""
    return (words.astype(np.float64) + 0.5) * 2.0**-32


def uniforms(key: int, n: int, *, start: int = 0) -> NDArray[np.float64]:
    """`n` float64 numbers strictly between 0 and 1 from a key's stream, from word `start` on."""
    return to_uniforms(words(key, n, start=start))


def permutation(key: int, n: int) -> NDArray[np.int64]:
    """A shuffle of 0 .. n−1: the order of 64-bit random words, equal ones by index."""
    ranks = np.ascontiguousarray(words(key, 2 * n)).view(np.uint64)
    return np.argsort(ranks, kind="stable").astype(np.int64, copy=False)
