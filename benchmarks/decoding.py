"""G3, G6: what a shared prefix saves, and what a longer context costs, in the decode step alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from benchmarks.generation import G1, grammar
from benchmarks.record import Measurement, Stopwatch

from chronoward.engine import SamplingParams
from chronoward.engine.decode import ModelDecoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

N_ROLLOUTS, N_PREFIX, N_NEW = 32, 768, 128
SHORT, LONG, N_ROWS = 256, 4096, 8
_BANDWIDTH_FLOATS = 1 << 27  # 512 MiB: more than any cache


def _tokens(n: int, vocab: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Codes and a clock that moves."""
    token_id = (np.arange(n) * 7 % (vocab - 3) + 3).astype(np.int32)
    return token_id, (np.arange(n) * 97).astype(np.int32)


def _prefill(decoder: ModelDecoder, buffer: int, n: int) -> None:
    token_id, time_min = _tokens(n, decoder.vocab_size)
    places = np.zeros((n, 4), np.int32)
    places[:, 2], places[:, 3] = buffer, np.arange(1, n + 1)
    decoder.forward(token_id, time_min, np.zeros(n, np.int32), places, wants_logits=False)


class _Rollouts:
    """Rollouts of one prefix that share its keys, or have a copy each."""

    def __init__(self, decoder: ModelDecoder, *, shared: bool) -> None:
        self.decoder, self.shared = decoder, shared
        n_tokens = (N_ROLLOUTS + 1) * (N_PREFIX + N_NEW + 48)
        decoder.open(N_ROLLOUTS + 1, N_PREFIX + N_NEW, n_tokens)
        params = SamplingParams(max_new_tokens=N_NEW)
        self.sampler = params.sampler(grammar(decoder.vocab_size, "codes"), N_ROLLOUTS)
        self.slots = np.arange(N_ROLLOUTS, dtype=np.int32)

    def run(self) -> tuple[float, float, NDArray[np.int32]]:
        """CPU-seconds of one prefill and all steps, cache bytes, and the tokens drawn."""
        prompt, times = _tokens(N_PREFIX, self.decoder.vocab_size)
        for slot in range(N_ROLLOUTS):
            self.sampler.load(
                slot, prompt, key=0, subject_id=0, prediction_time_us=0, rollout=slot,
                clock_min=int(times[-1]), prediction_min=-1, deadline_min=-1, masked_set=-1,
            )  # fmt: skip
        with Stopwatch() as prefill:
            _prefill(self.decoder, N_ROLLOUTS, N_PREFIX - 1)
        places = np.zeros((N_ROLLOUTS, 4), np.int32)
        places[:, 2], places[:, 3] = self.slots, 1
        if self.shared:
            places[:, :2] = N_ROLLOUTS, N_PREFIX - 1
        else:  # copying costs next to nothing, so making the copies is not timed
            self.decoder.release(N_ROLLOUTS)
            for slot in range(N_ROLLOUTS):
                _prefill(self.decoder, slot, N_PREFIX - 1)
            places[:, 3] = N_PREFIX
        token = np.full(N_ROLLOUTS, prompt[-1], np.int32)
        clock, start = np.full(N_ROLLOUTS, times[-1], np.int32), np.zeros(N_ROLLOUTS, np.int32)
        drawn = np.zeros((N_NEW, N_ROLLOUTS), np.int32)
        with Stopwatch() as steps:
            for step in range(N_NEW):
                logits = self.decoder.forward(token, clock, start, places, wants_logits=True)
                assert logits is not None
                token, clock, _ = self.sampler.step(logits, self.slots)
                drawn[step] = token
                places[:, 3] += 1
        return prefill.cpu + steps.cpu, float(self.decoder.cache_bytes), drawn


def measure_sharing(quick: bool) -> Iterator[Measurement]:
    """Lines of G3: cache bytes, then tokens per CPU-second, sharing over copies."""
    torch.set_num_threads(1)
    model = G1.model()
    seconds = {True: np.inf, False: np.inf}
    cache: dict[bool, float] = {}
    with Stopwatch() as watch:
        for _ in range(1 if quick else 3):
            drawn = {}
            for shared in (True, False):
                rollouts = _Rollouts(ModelDecoder(model), shared=shared)
                taken, cache[shared], drawn[shared] = rollouts.run()
                seconds[shared] = min(seconds[shared], taken)
            same = float((drawn[True] == drawn[False]).mean())
            if same < 0.9:  # sums run in another order: a rare draw differs, and all after it
                message = f"{same:.3f} of the tokens are the same with and without sharing"
                raise AssertionError(message)
    rate = {shared: N_ROLLOUTS * N_NEW / taken for shared, taken in seconds.items()}
    for metric, unit, value in (("cache", "bytes", cache), ("tokens_rate", "tokens/CPU-s", rate)):
        yield Measurement(
            id="G3",
            metric=metric,
            value=value[True],
            unit=unit,
            against="the prefix prefilled once and copied",
            baseline=round(value[False], 1),
            ratio=round(value[True] / value[False], 3),
            seconds=watch.wall,
            extra={"prefix": N_PREFIX, "new_tokens": N_NEW, "rollouts": N_ROLLOUTS},
        )


def _read_bandwidth() -> float:
    """Bytes per CPU-second of a sum over half a GiB, best of five."""
    numbers = torch.ones(_BANDWIDTH_FLOATS)
    best = 0.0
    for _ in range(5):
        with Stopwatch() as watch:
            numbers.sum()
        best = max(best, 4 * _BANDWIDTH_FLOATS / watch.cpu)
    return best


def _seconds_per_token(decoder: ModelDecoder, context: int, n_steps: int) -> float:
    """CPU-seconds of one row whose context has that many tokens."""
    decoder.open(N_ROWS, context + n_steps, N_ROWS * (context + n_steps + 16))
    for buffer in range(N_ROWS):
        _prefill(decoder, buffer, context)
    token_id, time_min = _tokens(context + n_steps, decoder.vocab_size)
    start = np.zeros(N_ROWS, np.int32)
    places = np.zeros((N_ROWS, 4), np.int32)
    places[:, 2] = np.arange(N_ROWS)
    best = np.inf
    for step in range(n_steps):
        places[:, 3] = context + step + 1
        token, clock = (np.full(N_ROWS, x[context + step]) for x in (token_id, time_min))
        with Stopwatch() as watch:
            decoder.forward(token, clock, start, places, wants_logits=True)
        best = min(best, watch.cpu)
    return float(best / N_ROWS)


def measure_context(quick: bool) -> Iterator[Measurement]:
    """Line of G6: what a token of context costs, over the time to read its keys and values."""
    torch.set_num_threads(1)
    model = G1.model()
    for dtype in ("bfloat16", "float32"):
        with Stopwatch() as watch:
            bandwidth = _read_bandwidth()
            decoder = ModelDecoder(model, dtype=dtype)
            n_steps = 8 if quick else 40
            cost = {n: _seconds_per_token(decoder, n, n_steps) for n in (SHORT, LONG)}
        per_token = decoder.core.page_bytes / 16
        reading = (LONG - SHORT) * per_token / bandwidth
        yield Measurement(
            id="G6",
            metric=f"context_cost_{dtype}",
            value=(cost[LONG] - cost[SHORT]) / reading,
            unit="times the read",
            seconds=watch.wall,
            extra={
                "read_gb_per_s": round(bandwidth / 1e9, 2),
                "us_per_token": {str(n): round(1e6 * taken, 1) for n, taken in cost.items()},
                "rows": N_ROWS,
            },
        )


MEASURES = {"G3": measure_sharing, "G6": measure_context}
