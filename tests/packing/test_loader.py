from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tests.packing.clinic import Rules, make_store

from chronoward import _core
from chronoward.errors import ConfigError, DataError
from chronoward.loader import Loader, PackedRow
from chronoward.packing import prompts_at

if TYPE_CHECKING:
    from chronoward.store import StoreSplit, Timeline

ROW = 40


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> StoreSplit:
    folder = tmp_path_factory.mktemp("loader") / "store"
    return make_store(folder, 30, n_codes=30).split("train")


def observed(timeline: Timeline, begin: int, end: int) -> bool:
    return any(
        s <= begin and end <= e
        for s, e in zip(timeline.obs_start_min, timeline.obs_end_min, strict=True)
    )


def naive_segment(split: StoreSplit, loader: Loader, w: int) -> list[tuple[int, int, int, bool]]:
    """(token, time, n_prior, is a target) of one window, as the docstrings say."""
    rules, windows = Rules(), loader.windows
    timeline = split.timeline(int(windows.timeline[w]))
    begin = int(windows.begin[w])
    rows: list[tuple[int, int, int, bool]] = []
    if begin:
        clock = int(timeline.time_min[begin])
        prompt = prompts_at(
            rules,
            timeline.token_id[None, :4],
            np.array([timeline.origin_us]),
            np.array([clock], np.int32),
        )
        rows += [(int(token), clock, 0, False) for token in prompt[0]]
        copied: list[int] = []
        if windows.open_visit[w] >= 0:
            copied += [int(windows.open_visit[w]), int(windows.open_visit[w]) + 1]
        if windows.open_detail[w] >= 0:
            copied.append(int(windows.open_detail[w]))
        rows += [
            (int(timeline.token_id[p]), clock, int(timeline.n_prior[p]), False) for p in copied
        ]
    for p in range(begin, begin + int(windows.length[w])):
        token_class = int(rules.token_class[timeline.token_id[p]])
        is_target = token_class >= 7
        if token_class == 13:
            before, after = int(timeline.time_min[p - 1]), int(timeline.time_min[p])
            is_target = observed(timeline, before, after)
        rows.append(
            (
                int(timeline.token_id[p]),
                int(timeline.time_min[p]),
                int(timeline.n_prior[p]),
                is_target,
            )
        )
    return rows


def all_rows(loader: Loader, epoch: int = 0) -> list[PackedRow]:
    return [row for step in loader.batches(epoch) for row in step]


def test_rows_are_what_a_naive_reading_of_the_windows_gives(split: StoreSplit) -> None:
    loader = Loader(split, Rules(), row_tokens=ROW, rows_per_step=7, seed=2)
    plan, rows = loader.plan(0), all_rows(loader)
    assert len(rows) == len(plan.rows)
    n_unobserved = 0
    for number, row in enumerate(rows):
        chosen = plan.rows.row(number).tolist()
        segments = [naive_segment(split, loader, w) for w in chosen]
        expected = [entry for segment in segments for entry in segment]
        assert row.n_tokens == len(expected)
        expected += [(0, 0, 0, False)] * (ROW - len(expected))
        found = zip(
            row.token_id.tolist(),
            row.time_min.tolist(),
            row.n_prior.tolist(),
            row.loss_mask.tolist(),
            strict=True,
        )
        assert list(found) == expected
        bounds = [0, *np.cumsum([len(segment) for segment in segments]).tolist()]
        assert row.cu_seqlens.tolist() == bounds + [ROW] * (plan.max_segments + 1 - len(bounds))
        n = len(chosen)
        assert row.segment_subject[:n].tolist() == loader.windows.timeline[chosen].tolist()
        assert (row.segment_subject[n:] == -1).all()
        assert row.segment_begin[:n].tolist() == loader.windows.begin[chosen].tolist()
        assert row.segment_lead[:n].tolist() == loader.windows.n_lead[chosen].tolist()
        classes = Rules().token_class[row.token_id.numpy()]
        n_unobserved += int(((classes == 13) & ~row.loss_mask.numpy()).sum())
    assert n_unobserved > 10  # the rule about unobserved time was exercised


def test_dtypes_and_shapes_are_fixed(split: StoreSplit) -> None:
    loader = Loader(split, Rules(), row_tokens=64, max_segments=9)
    for row in all_rows(loader):
        assert row.token_id.dtype == row.time_min.dtype == row.cu_seqlens.dtype == torch.int32
        assert row.n_prior.dtype == torch.uint8
        assert row.loss_mask.dtype == torch.bool
        assert row.token_id.shape == row.loss_mask.shape == (64,)
        assert row.cu_seqlens.shape == (10,)
        assert row.segment_subject.shape == (9,)
        assert row.cu_seqlens[-1] == 64


def same(left: PackedRow, right: PackedRow) -> bool:
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in PARTS)


def test_a_step_is_a_sequence_of_views_of_its_stacked_rows(split: StoreSplit) -> None:
    step = Loader(split, Rules(), row_tokens=ROW, rows_per_step=5, seed=2).step(0, 0)
    assert len(step) == 5
    assert step.token_id.shape == (5, ROW)
    assert step.n_tokens == sum(row.n_tokens for row in step)
    assert step[1].token_id.data_ptr() == step.token_id[1].data_ptr()
    assert all(same(a, b) for a, b in zip(step[1:3], list(step)[1:3], strict=True))
    assert same(step[-1], step[4])
    with pytest.raises(IndexError):
        step[5]


def test_windows_that_are_taken_away_are_in_no_row(split: StoreSplit) -> None:
    loader = Loader(split, Rules(), row_tokens=ROW, rows_per_step=5, seed=2)
    n_rows = len(all_rows(loader))
    whole = loader.windows
    kept = np.flatnonzero(whole.timeline % 2 == 0)
    loader.windows = replace(
        whole, **{f.name: getattr(whole, f.name)[kept] for f in fields(whole)[:-1]}
    )
    rows = all_rows(loader)
    assert len(rows) < n_rows
    seen = {int(s) for row in rows for s in row.segment_subject if s >= 0}
    assert seen == set(whole.timeline[kept].tolist())


def test_arrays_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="offsets must rise from 0 to 4"):
        shard(offsets=np.array([0, 3]))
    with pytest.raises(ValueError, match="same timelines and tokens"):
        shard(time_min=np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="one length"):
        windows(begin=np.zeros(2, np.int64))


PARTS = ("token_id", "time_min", "n_prior", "cu_seqlens", "loss_mask", "segment_subject")


def test_resuming_from_an_epoch_and_step_gives_the_rest_exactly(split: StoreSplit) -> None:
    loader = Loader(split, Rules(), row_tokens=ROW, rows_per_step=4, seed=5)
    whole = [row for epoch in (0, 1) for row in all_rows(loader, epoch)]
    again = Loader(split, Rules(), row_tokens=ROW, rows_per_step=4, seed=5)
    rest = [row for step in again.batches(1, first_step=3) for row in step]
    assert len(rest) > 20
    assert all(same(a, b) for a, b in zip(whole[-len(rest) :], rest, strict=True))


def test_ranks_share_a_step_without_changing_it(split: StoreSplit) -> None:
    alone = Loader(split, Rules(), row_tokens=ROW, rows_per_step=6, seed=5)
    ranks = [
        Loader(split, Rules(), row_tokens=ROW, rows_per_step=6, seed=5, rank=r, n_ranks=3)
        for r in range(3)
    ]
    for step in range(3):
        parts = [rank.step(0, step) for rank in ranks]
        together = [part[i] for i in range(2) for part in parts]
        assert all(same(a, b) for a, b in zip(alone.step(0, step), together, strict=True))


def test_epochs_see_each_token_once_in_another_order(split: StoreSplit) -> None:
    loader = Loader(split, Rules(), row_tokens=ROW, seed=1)
    bodies = []
    for epoch in (0, 1):
        rows = all_rows(loader, epoch)
        assert sum(int(row.n_tokens) for row in rows) == loader.plan(epoch).rows.n_tokens
        bodies.append([int(row.token_id.sum()) for row in rows])
    assert bodies[0] != bodies[1]


def test_a_step_that_does_not_exist_is_an_index_error(split: StoreSplit) -> None:
    loader = Loader(split, Rules(), row_tokens=ROW)
    with pytest.raises(IndexError, match="no step"):
        loader.step(0, loader.n_steps(0))


@pytest.mark.parametrize("change", [{"rows_per_step": 0}, {"rank": 2, "n_ranks": 2}, {"rank": -1}])
def test_impossible_ranks_and_steps_are_refused(split: StoreSplit, change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="rows_per_step"):
        Loader(split, Rules(), row_tokens=ROW, **change)


def windows(**changes: object) -> _core.WindowArrays:
    zero, none = np.zeros(1, np.int64), np.full(1, -1)
    columns: dict[str, object] = {
        "timeline": zero,
        "begin": zero,
        "length": np.array([4], np.int32),
        "n_lead": np.zeros(1, np.int32),
        "open_visit": none,
        "open_detail": none,
    }
    return _core.WindowArrays(**(columns | changes))  # type: ignore[arg-type]


def shard(**changes: object) -> _core.ShardArrays:
    ints = np.zeros(4, np.int32)
    columns: dict[str, object] = {
        "offsets": np.array([0, 4]),
        "token_id": ints,
        "time_min": ints,
        "n_prior": np.zeros(4, np.uint8),
        "obs_offsets": np.zeros(2, np.int64),
        "obs_start_min": ints[:0],
        "obs_end_min": ints[:0],
    }
    return _core.ShardArrays(**(columns | changes))  # type: ignore[arg-type]


def fill(**changes: object) -> object:
    arguments: dict[str, object] = {
        "split": _core.SplitArrays([shard()]),
        "windows": windows(),
        "window": np.zeros(1, np.int64),
        "row_offsets": np.array([0, 1]),
        "prompt": np.zeros((0, 2), np.int32),
        "token_class": np.zeros(1, np.uint8),
        "row_tokens": 6,
        "max_segments": 2,
    }
    return _core.fill_rows(**(arguments | changes))  # type: ignore[arg-type]


ONE = np.ones(1, np.int64)
LEAD = {"n_lead": np.array([2], np.int32), "length": np.array([2], np.int32)}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"windows": windows(length=np.array([5], np.int32))}, IndexError, "outside its timeline"),
        ({"windows": windows(timeline=ONE)}, IndexError, "timeline that the split does not have"),
        ({"windows": windows(timeline=-ONE)}, IndexError, "timeline that the split does not have"),
        ({"window": ONE}, IndexError, "unknown window"),
        ({"row_tokens": 3}, ValueError, "overflows its row"),
        ({"windows": windows(**LEAD)}, ValueError, "a prompt for each window"),
        (
            {"windows": windows(**LEAD), "prompt": np.zeros((1, 1), np.int32)},
            ValueError,
            "n_lead does not match",
        ),
        (
            {"windows": windows(**LEAD, open_visit=ONE), "prompt": np.zeros((1, 2), np.int32)},
            ValueError,
            "n_lead does not match",
        ),
        (
            {"windows": windows(**LEAD, open_visit=4 * ONE), "prompt": np.zeros((1, 2), np.int32)},
            IndexError,
            "open visit outside",
        ),
        ({"row_offsets": np.array([0, 2])}, ValueError, "row_offsets must rise from 0 to 1"),
        ({"max_segments": 1}, ValueError, "leave one free"),
        ({"token_class": np.zeros(0, np.uint8)}, DataError, "outside the vocabulary"),
        ({"prompt": np.zeros(2, np.int32)}, ValueError, "two dimensions"),
        ({"row_tokens": 0}, ValueError, "must be positive"),
    ],
)
def test_the_core_refuses_segments_that_do_not_fit(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    fill()
    with pytest.raises(error, match=message):
        fill(**changes)
