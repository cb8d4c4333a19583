from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chronoward import philox

# Random123 1.14, tests/kat_vectors: philox4x32 10 rounds (counter, key, words).
KNOWN = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    counters = np.array([counter] * 3, np.uint32)
    words = philox.philox4x32(key[0] | key[1] << 32, counters)
    assert words.tolist() == [list(expected)] * 3


def test_philox_equals_a_plain_python_reading_of_the_paper() -> None:
    def reference(key: int, counter: list[int]) -> list[int]:
        k0, k1 = key & 0xFFFFFFFF, key >> 32
        for _ in range(10):
            p0, p1 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
            counter = [
                (p1 >> 32) ^ counter[1] ^ k0,
                p1 & 0xFFFFFFFF,
                (p0 >> 32) ^ counter[3] ^ k1,
                p0 & 0xFFFFFFFF,
            ]
            k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
        return counter

    counters = np.arange(40, dtype=np.uint32).reshape(10, 4)
    key = 0x0123456789ABCDEF
    expected = [reference(key, [int(c) for c in row]) for row in counters]
    assert philox.philox4x32(key, counters).tolist() == expected


def test_splitmix64_gives_the_known_answers() -> None:
    # First outputs of Vigna's splitmix64.c from state 0 and from state 0x9E3779B97F4A7C15.
    words = np.array([0, 0x9E3779B97F4A7C15], np.uint64)
    assert philox.splitmix64(words).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_negative_integers_hash_as_their_twos_complement(values: list[int]) -> None:
    signed = philox.splitmix64(np.array(values, np.int64))
    assert signed.tolist() == [philox.hash64(v) for v in values]


def test_hash64_depends_on_order_and_accepts_names() -> None:
    assert philox.hash64(1, 2) != philox.hash64(2, 1)
    assert philox.hash64(7, "main") != philox.hash64(7, "pilot")
    assert philox.hash64() == 0


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 2**64 - 1))
def test_a_stream_may_be_read_from_anywhere(start: int, n: int, key: int) -> None:
    whole = philox.words(key, 100)
    assert np.array_equal(philox.words(key, n, start=start), whole[start : start + n])


def test_a_permutation_is_one_and_depends_on_its_key() -> None:
    first, second = philox.permutation(1, 1000), philox.permutation(2, 1000)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, philox.permutation(1, 1000))


def test_uniforms_lie_strictly_between_zero_and_one() -> None:
    edge = philox.to_uniforms(np.array([0, 2**32 - 1], np.uint32))
    assert 0 < edge[0] < edge[1] < 1
    assert abs(philox.uniforms(3, 100_000).mean() - 0.5) < 5 / np.sqrt(12 * 100_000)


def test_wrong_shapes_and_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(n, 4\)"):
        philox.philox4x32(0, np.zeros((2, 3), np.uint32))
    with pytest.raises(TypeError):
        philox.philox4x32(0, np.zeros((2, 4), np.int64))
    with pytest.raises(TypeError, match="int64 or uint64"):
        philox.splitmix64(np.zeros(2, np.float64))
    with pytest.raises(ValueError, match="negative"):
        philox.words(0, -1)


def test_the_module_needs_no_torch() -> None:
    import subprocess

    code = "import chronoward.philox, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
