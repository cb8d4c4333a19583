from __future__ import annotations

import itertools
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.packing.clinic import CONTINUED, VALUE, VISIT_START, Rules, make_store

import chronoward as cw
from chronoward import _core
from chronoward.errors import DataError
from chronoward.packing import Windows, cut, pack, plan, plan_windows, prompts_at
from chronoward.philox import hash64, permutation

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.store import StoreSplit


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> StoreSplit:
    return make_store(tmp_path_factory.mktemp("packing") / "store", 30).split("train")


def naive_pack(
    lengths: list[int], order: list[int], row_tokens: int, max_segments: int, block: int
) -> list[list[int]]:
    """Best fit as the docstring says it; of equal rows the one used last."""
    rows: list[list[int]] = []
    for first in range(0, len(order), block):
        opened: list[list[int]] = []
        used: list[int] = []  # rows by time of last use
        for w in order[first : first + block]:
            fits = [
                r
                for r in used
                if sum(lengths[x] for x in opened[r]) + lengths[w] <= row_tokens
                and len(opened[r]) < max_segments
            ]
            if fits:
                fullest = max(sum(lengths[x] for x in opened[r]) for r in fits)
                r = [r for r in fits if sum(lengths[x] for x in opened[r]) == fullest][-1]
                used.remove(r)
            else:
                r = len(opened)
                opened.append([])
            opened[r].append(w)
            used.append(r)
        rows += opened
    return rows


lengths_of_windows = st.lists(st.integers(1, 100), max_size=60)


@settings(deadline=None)
@given(
    lengths_of_windows,
    st.integers(100, 300),
    st.integers(1, 12),
    st.integers(1, 70),
    st.integers(0, 5),
)
def test_rows_are_those_of_a_naive_best_fit(
    lengths: list[int], row_tokens: int, max_segments: int, block: int, seed: int
) -> None:
    order = permutation(seed, len(lengths))
    offsets, index = _core.pack_rows(
        np.array(lengths, np.int32), order, row_tokens, max_segments, block
    )
    rows = [index[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert rows == naive_pack(lengths, order.tolist(), row_tokens, max_segments, block)


@settings(deadline=None)
@given(
    lengths_of_windows, st.integers(100, 300), st.integers(1, 12), st.integers(0, 3), st.integers()
)
def test_every_window_is_in_exactly_one_row_and_no_row_overflows(
    lengths: list[int], row_tokens: int, max_segments: int, epoch: int, seed: int
) -> None:
    packed = pack(lengths, row_tokens, max_segments=max_segments, seed=seed, epoch=epoch, block=16)
    assert sorted(packed.index.tolist()) == list(range(len(lengths)))
    for number in range(len(packed)):
        row = packed.row(number)
        assert 1 <= len(row) <= max_segments
        assert sum(lengths[w] for w in row) <= row_tokens
    assert 0 < packed.fill <= 1


def lognormal_lengths(n: int = 100_000) -> NDArray[np.int64]:
    normal = np.random.default_rng(0).standard_normal(n)
    return np.clip(np.exp(np.log(200) + 0.8 * normal), 8, 2048).astype(np.int64)


def test_lognormal_lengths_fill_rows_to_99_percent() -> None:
    lengths = lognormal_lengths()
    assert pack(lengths, 2048).fill >= 0.99
    assert pack(lengths, 2048, max_segments=255).fill >= 0.99


def test_long_and_short_windows_share_rows() -> None:
    """Each row is nearly a random draw of windows, as a batch should be."""
    lengths = lognormal_lengths()
    packed = pack(lengths, 2048)
    log_length = np.log(lengths)[packed.index]
    n = np.diff(packed.offsets)
    means = np.add.reduceat(log_length, packed.offsets[:-1]) / n
    drawn = log_length.var() / n  # variance of the mean of so many windows at random
    deviation = (means - log_length.mean()) ** 2
    assert deviation.sum() < 2.5 * drawn.sum()  # 1.6; longest first: 5.5
    only_short = np.maximum.reduceat(log_length, packed.offsets[:-1]) < np.median(log_length)
    assert only_short.mean() < 0.001  # longest first: 0.20


def test_the_plan_depends_on_seed_and_epoch_only_and_neighbors_change() -> None:
    lengths = np.arange(2000) % 20 + 10
    first, again = pack(lengths, 256, seed=3), pack(lengths.tolist(), 256, seed=3)
    assert np.array_equal(first.index, again.index)
    assert np.array_equal(first.offsets, again.offsets)

    def pairs(epoch: int, seed: int = 3) -> set[tuple[int, int]]:
        packed = pack(lengths, 256, seed=seed, epoch=epoch)
        rows = [packed.row(r).tolist() for r in range(len(packed))]
        return {(a, b) for row in rows for a in row for b in row if a < b}

    assert len(pairs(0) & pairs(1)) < 0.2 * len(pairs(0))
    assert len(pairs(0) & pairs(0, seed=4)) < 0.2 * len(pairs(0))


def test_blocks_bound_which_windows_may_meet() -> None:
    lengths = np.full(64, 10)
    packed = pack(lengths, 100, block=8, seed=5)
    place = np.empty(64, np.int64)
    place[permutation(hash64(5, "windows", 0), 64)] = np.arange(64)
    for number in range(len(packed)):
        assert len(set(place[packed.row(number)] // 8)) == 1


def test_pack_is_public_and_takes_lists() -> None:
    assert cw.pack([3, 2, 1], 4).n_tokens == 6
    assert len(cw.pack([], 4)) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0, 3], 4), ValueError, r"lengths must lie in 1\.\.4, got 0\.\.3"),
        (([5], 4), ValueError, r"got 5\.\.5"),
        (([1.5], 4), TypeError, "integers"),
        (([[1]], 4), TypeError, "one-dimensional"),
    ],
)
def test_wrong_lengths_are_refused(
    arguments: tuple[list[int], int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pack(*arguments)


def test_the_core_refuses_what_the_facade_never_sends() -> None:
    one, order = np.array([9], np.int32), np.zeros(1, np.int64)
    with pytest.raises(ValueError, match=r"length 9 of window 0 is outside 1\.\.4"):
        _core.pack_rows(one, order, 4, 1, 1)
    with pytest.raises(ValueError, match="does not exist"):
        _core.pack_rows(one, order + 1, 10, 1, 1)
    with pytest.raises(ValueError, match="must be positive"):
        _core.pack_rows(one, order, 10, 0, 1)
    with pytest.raises(TypeError):
        _core.pack_rows(one.astype(np.int64), order, 10, 1, 1)  # type: ignore[arg-type]


def test_packing_needs_no_torch() -> None:
    code = "import chronoward as c, sys; c.pack([1], 2); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# windows


def windows_of(windows: Windows, timeline: int) -> list[int]:
    return np.flatnonzero(windows.timeline == timeline).tolist()


@pytest.mark.parametrize("row_tokens", [24, 40, 64, 128, 300, 5000])
def test_windows_cover_each_timeline_once_in_order(split: StoreSplit, row_tokens: int) -> None:
    windows = cut(split, Rules(), row_tokens)
    assert np.all(windows.length + windows.n_lead <= row_tokens)
    for number, length in enumerate(split.lengths):
        mine = windows_of(windows, number)
        ends = windows.begin[mine] + windows.length[mine]
        assert windows.begin[mine].tolist() == [0, *ends[:-1].tolist()]
        assert ends[-1] == length
        assert windows.n_lead[mine[0]] == 0
        assert len(mine) == 1 or length > row_tokens


def test_windows_start_at_a_visit_where_one_is_in_reach(split: StoreSplit) -> None:
    windows = cut(split, Rules(), 64)  # no visit is longer than a row here
    late = np.flatnonzero(windows.begin > 0)
    assert len(late) > 20
    assert np.all(windows.open_visit[late] == -1)
    for w in late:
        timeline = split.timeline(int(windows.timeline[w]))
        assert timeline.token_id[windows.begin[w]] == VISIT_START
        assert windows.n_lead[w] == 5
        # the gap before belongs to the window before: its duration is learned once
        assert Rules().token_class[timeline.token_id[windows.begin[w] - 1]] == 13


def test_a_visit_longer_than_a_row_is_cut_inside_and_says_which_is_open(tmp_path: Path) -> None:
    split = make_store(tmp_path / "store", 14, n_codes=60).split("train")
    windows = cut(split, Rules(), 32)
    inside = np.flatnonzero(windows.open_visit >= 0)
    assert len(inside) > 10
    seen_detail = False
    for w in inside:
        timeline = split.timeline(int(windows.timeline[w]))
        begin, visit = int(windows.begin[w]), int(windows.open_visit[w])
        tokens = timeline.token_id
        assert tokens[visit] == VISIT_START
        assert begin >= visit + 2
        between = Rules().token_class[tokens[visit:begin]]
        assert 11 not in between  # not closed yet
        assert tokens[begin] != VALUE
        detail = int(windows.open_detail[w])
        seen_detail |= detail >= 0
        last_detail = np.flatnonzero((between == 9) | (between == 10))
        is_open = len(last_detail) > 0 and between[last_detail[-1]] == 9
        assert (detail >= 0) == is_open
        assert windows.n_lead[w] == 7 + is_open
    assert seen_detail


def test_a_row_too_short_for_a_lead_is_refused(split: StoreSplit) -> None:
    with pytest.raises(ValueError, match="row_tokens must be at least 16"):
        cut(split, Rules(), 15)


def test_a_token_outside_the_vocabulary_is_a_data_error(split: StoreSplit) -> None:
    rules = Rules()
    rules.token_class = rules.token_class[:50]
    with pytest.raises(DataError, match="outside the vocabulary"):
        cut(split, rules, 64)


def test_offsets_that_do_not_bound_the_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="offsets must rise from 0 to 3"):
        _core.cut_windows(np.array([0, 5]), np.zeros(3, np.int32), np.zeros(9, np.uint8), 100, 5)


def test_a_prompt_moves_on_to_the_cut() -> None:
    day = 86_400_000_000
    prompt = np.array([[2, 12, 22, 24], [2, 21, 23, 24]], np.int32)
    time_min = np.array([1440 * 3653 * 3, 1440 * 3653 * 3], np.int32)
    moved = prompts_at(Rules(), prompt, np.array([0, 3653 * day]), time_min)
    assert moved.tolist() == [[5, 15, 22, 24, CONTINUED], [6, 21, 23, 24, CONTINUED]]


def test_a_plan_leaves_one_segment_for_the_padding(split: StoreSplit) -> None:
    made = plan(split, 256, rules=Rules(), seed=1, epoch=0, max_segments=4)
    assert np.diff(made.rows.offsets).max() <= 3
    with pytest.raises(ValueError, match="max_segments must be at least 2"):
        plan(split, 256, rules=Rules(), seed=1, epoch=0, max_segments=1)


def test_windows_cut_once_serve_every_epoch(split: StoreSplit) -> None:
    windows = cut(split, Rules(), 256)
    for epoch in (0, 3):
        fresh = plan(split, 256, rules=Rules(), seed=1, epoch=epoch).rows
        kept = plan_windows(windows, seed=1, epoch=epoch).rows
        assert np.array_equal(fresh.index, kept.index)
        assert np.array_equal(fresh.offsets, kept.offsets)
