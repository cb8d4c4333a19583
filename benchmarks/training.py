"""T1: training tokens per CPU-second of a 3 M parameter model, and the share of the GEMM peak.

Rows of 2,048 packed from lognormal lengths (median 200, 2 % over 1,000), 700 tokens in the
vocabulary, shipped defaults; a step is forward, backward, clipping and both optimizers.
Padding is not counted. bf16 is measured where the machine has units for it; elsewhere the last
line is fp32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from benchmarks.record import Measurement, Stopwatch, gemm_peaks

from chronoward.model import Batch, Model, ModelConfig, NextEvent
from chronoward.packing import pack
from chronoward.philox import uniforms
from chronoward.train import TrainConfig
from chronoward.train.optimizer import Optimizers

if TYPE_CHECKING:
    from collections.abc import Iterator

ROW_TOKENS, ROWS_PER_STEP = 2048, 4
MEDIAN, SIGMA = 200, 0.78  # 2 % over 1,000
VOCAB = 700
SHAPE = {"d_model": 192, "n_layers": 6, "n_heads": 6, "n_kv_heads": 3, "d_ff": 640}
UNITS_FOR_BF16 = 1.2  # bf16 peak over fp32 peak from which it is worth measuring


def _rows() -> list[tuple[Batch, int, float]]:
    """Steps' batches, their tokens in use and the mean number of keys a token sees."""
    u, v = uniforms(1, 2000), uniforms(2, 2000)
    normal = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
    lengths = np.clip(np.exp(np.log(MEDIAN) + SIGMA * normal), 8, ROW_TOKENS).astype(np.int64)
    packed = pack(lengths, ROW_TOKENS, seed=1)
    result = []
    for step in range(len(packed) // ROWS_PER_STEP):
        bounds, used, seen = [0], 0, 0.0
        for r in range(ROWS_PER_STEP):
            row = lengths[packed.row(step * ROWS_PER_STEP + r)]
            start = r * ROW_TOKENS
            bounds += [*(start + np.cumsum(row)).tolist(), start + ROW_TOKENS]
            used += int(row.sum())
            seen += float((row * (row + 1) / 2).sum())
        result.append((_batch(bounds, step), used, seen / used))
    return result


def _batch(bounds: list[int], step: int) -> Batch:
    n_tokens = bounds[-1]
    steps_min = (uniforms(10 + step, n_tokens) * 20_000).astype(np.int64)
    time_min = np.cumsum(steps_min).astype(np.int32)
    token_id = (uniforms(1000 + step, n_tokens) * VOCAB).astype(np.int64)
    starts = np.zeros(n_tokens, np.bool_)
    starts[[b for b in bounds if b < n_tokens]] = True
    return Batch(
        token_id=torch.from_numpy(token_id),
        time_min=torch.from_numpy(time_min),
        n_prior=torch.zeros(n_tokens, dtype=torch.uint8),
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        segment_subject=torch.zeros(len(bounds) - 1, dtype=torch.int64),
        loss_mask=torch.from_numpy(~starts),
    )


def _check() -> None:
    """The fast attention has the reference's loss and gradients."""
    batch = _batch([0, 70, 71, 128], 0)
    results = []
    for backend in ("reference", "cpu"):
        model = Model(ModelConfig(vocab_size=VOCAB, **SHAPE), seed=0)
        model.attention_backend = backend
        hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
        NextEvent().loss(model, hidden, batch).total.backward()
        results.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    error = float((results[0] - results[1]).norm() / results[0].norm())
    if not error < 1e-5:
        message = f"gradients differ from the reference by {error:.1e}"
        raise AssertionError(message)


def _flop_per_token(n_parameters: int, mean_visible: float) -> float:
    """6 P + 12 L d (mean visible keys), the embedding counted once as the output layer."""
    return 6 * n_parameters + 12 * SHAPE["n_layers"] * SHAPE["d_model"] * mean_visible


def _train(rows: list[tuple[Batch, int, float]], *, bf16: bool) -> tuple[Stopwatch, int]:
    model = Model(ModelConfig(vocab_size=VOCAB, **SHAPE), seed=0)
    optimizer = Optimizers(model, TrainConfig())
    optimizer.learning_rate = 1e-3
    objective = NextEvent()

    def step(batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
            head = objective.loss(model, hidden, batch)
        (head.total / head.weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step(rows[0][0])
    with Stopwatch() as watch:
        for batch, _, _ in rows[1:]:
            step(batch)
    return watch, sum(used for _, used, _ in rows[1:])


def measure(quick: bool) -> Iterator[Measurement]:
    """Lines of T1: share of the peak, then fp32 and, where there are units for it, bf16."""
    torch.set_num_threads(1)
    _check()
    rows = _rows()[: 3 if quick else 9]
    config = ModelConfig(vocab_size=VOCAB, **SHAPE)
    mean_visible = float(np.mean([seen for _, _, seen in rows]))
    flop = _flop_per_token(config.n_parameters(), mean_visible)
    peaks = gemm_peaks()
    kinds = ["fp32"]
    if (peaks["bf16"] or 0.0) > UNITS_FOR_BF16 * (peaks["fp32"] or 0.0):
        kinds.append("bf16")
    for kind in kinds:
        watch, n_tokens = _train(rows, bf16=kind == "bf16")
        rate = n_tokens / watch.cpu
        extra = {
            "n_parameters": config.n_parameters(),
            "row_tokens": ROW_TOKENS,
            "rows_per_step": ROWS_PER_STEP,
            "mean_visible_keys": round(mean_visible, 1),
            "flop_per_token": round(flop),
        }
        share = rate * flop / 1e9 / (peaks[kind] or float("nan"))
        yield Measurement(
            id="T1",
            metric="peak_share" if kind == "fp32" else "peak_share_bf16",
            value=share,
            unit="share of the measured GEMM peak",
            seconds=watch.wall,
            extra=extra,
        )
        yield Measurement(
            id="T1",
            metric=kind,
            value=rate,
            unit="tokens/CPU-s",
            seconds=watch.wall,
            extra=extra,
        )


MEASURES = {"T1": measure}
