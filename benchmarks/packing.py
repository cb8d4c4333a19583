"""D6: packed tokens per CPU-second, from mapped store to rows, and how full the rows are.

Lengths are lognormal with median 200 and about 2 % over 1,000; a plan for all of them is made and
every row is written once. The fill is counted over the whole epoch, the last rows included.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from benchmarks.record import Measurement, Stopwatch

from chronoward.loader import Loader
from chronoward.packing import pack
from chronoward.philox import uniforms
from chronoward.store import StoreWriter, TokenStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ROW_TOKENS = 2048
MEDIAN, SIGMA = 200, 0.78  # 2 % over 1,000
_CODE = 16


class _Rules:
    """One class of tokens: every timeline is one window (the bench has none over a row)."""

    token_class = np.full(1000, _CODE, np.uint8)
    prompt_classes = np.array([2, 3, 4, 5], np.uint8)
    continued_id = 0
    age_unknown_id = -1

    def year_token_at(
        self, origin_us: NDArray[np.int64], time_min: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        return np.zeros(len(time_min), np.int32)

    def age_token_at(self, time_min: NDArray[np.int32]) -> NDArray[np.int32]:
        return np.zeros(len(time_min), np.int32)


class _Timelines:
    """Token timelines of lognormal lengths."""

    def __init__(self, n: int) -> None:
        u, v = uniforms(1, n), uniforms(2, n)
        normal = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
        lengths = np.clip(np.exp(np.log(MEDIAN) + SIGMA * normal), 8, ROW_TOKENS).astype(np.int64)
        self.subject_id = np.arange(n, dtype=np.int64)
        self.origin_us = np.zeros(n, np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        n_tokens = int(self.offsets[-1])
        self.token_id = (uniforms(3, n_tokens) * 1000).astype(np.int32)
        self.time_min = np.arange(n_tokens, dtype=np.int32)
        self.event_min = self.time_min
        self.n_prior = (self.token_id % 7).astype(np.uint8)
        self.obs_offsets = np.arange(n + 1, dtype=np.int64)
        self.obs_start_min = np.zeros(n, np.int32)
        self.obs_end_min = np.full(n, np.iinfo(np.int32).max, np.int32)


def _check(loader: Loader, timelines: _Timelines) -> None:
    """Each token comes once, in its own timeline's segment, and its neighbors came with it."""
    seen = np.zeros(len(timelines.subject_id), np.int64)
    for rows in loader.batches(0):
        for row in rows:
            bounds = row.cu_seqlens.numpy()
            subjects = row.segment_subject.numpy()
            for k in range(int((subjects >= 0).sum())):
                a, b = timelines.offsets[subjects[k]], timelines.offsets[subjects[k] + 1]
                part = row.token_id.numpy()[bounds[k] : bounds[k + 1]]
                if not np.array_equal(part, timelines.token_id[a:b]):
                    message = "a segment is not its timeline"
                    raise AssertionError(message)
                seen[subjects[k]] += 1
    if not (seen == 1).all():
        message = "a timeline is missing or comes twice"
        raise AssertionError(message)


def _store(folder: Path, timelines: _Timelines) -> TokenStore:
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    writer = StoreWriter(folder, tokenizer_hash="none")
    writer.add(timelines, np.zeros(len(timelines.subject_id), np.uint8))
    writer.finish(calendar="real", observation="none", split_rule="hash", counts={})
    return TokenStore.open(folder)


def measure(quick: bool) -> Iterator[Measurement]:
    """Lines of D6: the plan alone, the fill, then plan and rows together."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = _Timelines(2_000)
        split = _store(folder / "small", small).split("train")
        _check(Loader(split, _Rules(), row_tokens=ROW_TOKENS, rows_per_step=8), small)

        timelines = _Timelines(20_000 if quick else 250_000)
        split = _store(folder / "large", timelines).split("train")
        lengths, n_tokens = split.lengths, split.n_tokens
        with Stopwatch() as plan:
            packed = pack(lengths, ROW_TOKENS, seed=1)
        with Stopwatch() as watch:
            loader = Loader(split, _Rules(), row_tokens=ROW_TOKENS, rows_per_step=64, seed=1)
            total = sum(rows.n_tokens for rows in loader.batches(0))
        if total != n_tokens:
            message = f"{total} tokens in rows, {n_tokens} in the store"
            raise AssertionError(message)
    shape = {"row_tokens": ROW_TOKENS, "n_windows": len(lengths), "n_tokens": n_tokens}
    yield Measurement(
        id="D6",
        metric="plan",
        value=n_tokens / plan.cpu,
        unit="tokens/CPU-s",
        seconds=plan.wall,
        extra=shape,
    )
    yield Measurement(
        id="D6", metric="fill", value=packed.fill, unit="share", seconds=plan.wall, extra=shape
    )
    yield Measurement(
        id="D6",
        metric="plan_and_rows",
        value=n_tokens / watch.cpu,
        unit="tokens/CPU-s",
        seconds=watch.wall,
        extra=shape,
    )


MEASURES = {"D6": measure}
