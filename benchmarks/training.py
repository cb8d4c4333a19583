"""T1 and T2: training a 3 M parameter model, its rate, its share of the GEMM peak, its memory.

Rows of 2,048 packed from lognormal lengths (median 200, 2 % over 1,000), 700 tokens in the
vocabulary, shipped defaults; a step is forward, backward, clipping and both optimizers.
Padding is not counted. bf16 is measured where the machine has units for it; elsewhere the last
line is fp32. Other work on the machine slows a step and a matrix product alike, so the share is
taken of products that run between the steps (`share_of_best` says what it is of the best one).
Beside Hugging Face's GPT-2 on the same windows where its environment is ready; T2 needs it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from benchmarks.process import run
from benchmarks.record import ROOT, Measurement, Stopwatch, gemm_peaks

from benchmarks import hugging_face, peers
from chronoward.model import Batch, Model, ModelConfig, NextEvent
from chronoward.packing import pack
from chronoward.philox import uniforms
from chronoward.process_memory import keep_freed_memory
from chronoward.train import TrainConfig
from chronoward.train.optimizer import Optimizers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROW_TOKENS, ROWS_PER_STEP = 2048, 4
MEDIAN, SIGMA = 200, 0.78  # 2 % over 1,000
VOCAB = 700
SHAPE = {"d_model": 192, "n_layers": 6, "n_heads": 6, "n_kv_heads": 3, "d_ff": 640}
GEMM_SIZE, PRODUCTS_PER_STEP = 1024, 8
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


def _windows(rows: list[tuple[Batch, int, float]]) -> list[int]:
    """Lengths of the windows in some steps' batches, in an order that knows nothing of rows."""
    lengths = np.concatenate([np.diff(batch.cu_seqlens.numpy()) for batch, _, _ in rows])
    lengths = lengths[lengths >= 8]
    return [int(n) for n in lengths[np.argsort(uniforms(3, len(lengths)))]]


class _Trained:
    """What some steps took, and the matrix products between them."""

    def __init__(self) -> None:
        self.tokens, self.cpu, self.wall = 0, 0.0, 0.0
        self.product_cpu, self.products = 0.0, 0

    def multiply(self, matrix: torch.Tensor) -> None:
        """Runs a product of `GEMM_SIZE`."""
        with Stopwatch() as watch:
            matrix @ matrix
        self.product_cpu += watch.cpu
        self.products += 1

    @property
    def rate(self) -> float:
        """Real tokens a CPU-second."""
        return self.tokens / self.cpu

    @property
    def product_gflops(self) -> float:
        """Mean rate of the products."""
        return self.products * 2 * GEMM_SIZE**3 / self.product_cpu / 1e9


def _stepper(*, bf16: bool) -> Callable[[Batch], None]:
    """Makes a model and its optimizer; the result takes one step, in a process that trains."""
    keep_freed_memory()
    model = Model(ModelConfig(vocab_size=VOCAB, **SHAPE), seed=0)
    optimizer = Optimizers(model, TrainConfig(dtype="bf16" if bf16 else "fp32"))
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

    return step


def _train(rows: list[tuple[Batch, int, float]], *, bf16: bool) -> _Trained:
    step = _stepper(bf16=bf16)
    step(rows[0][0])
    matrix = torch.ones(GEMM_SIZE, GEMM_SIZE, dtype=torch.bfloat16 if bf16 else torch.float32)
    matrix @ matrix
    trained = _Trained()
    for batch, used, _ in rows[1:]:
        with Stopwatch() as watch:
            step(batch)
        trained.tokens, trained.cpu = trained.tokens + used, trained.cpu + watch.cpu
        trained.wall += watch.wall
        for _ in range(PRODUCTS_PER_STEP):
            trained.multiply(matrix)
    return trained


def _beside_hugging_face(
    rows: list[tuple[Batch, int, float]], ours: _Trained, *, bf16: bool
) -> Iterator[Measurement]:
    """Lines of the two ways of batching; the one in arrival order comes last."""
    kind = "bf16" if bf16 else "fp32"
    for name, grouped in (("grouped by length", True), ("padded, in arrival order", False)):
        options = {"vocab_size": VOCAB, "bf16": bf16, "grouped": grouped}
        theirs = hugging_face.train(_windows(rows[1:]), SHAPE, **options)
        rate = theirs["tokens"] / theirs["seconds"]
        yield Measurement(
            id="T1",
            metric=f"{kind}_grouped" if grouped else kind,
            value=ours.rate,
            unit="tokens/CPU-s",
            against=f"{hugging_face.NAME}, batches of {hugging_face.WINDOWS_PER_BATCH}, {name}",
            baseline=rate,
            ratio=ours.rate / rate,
            seconds=ours.wall + theirs["seconds"],
            extra={"peer": peers.versions("transformers"), "n_parameters": theirs["n_parameters"]},
        )


def measure(quick: bool) -> Iterator[Measurement]:
    """Lines of T1: fp32, then, where there are units for it, bf16: share of the peak, rate."""
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
        trained = _train(rows, bf16=kind == "bf16")
        gflops = trained.rate * flop / 1e9
        extra = {
            "n_parameters": config.n_parameters(),
            "row_tokens": ROW_TOKENS,
            "rows_per_step": ROWS_PER_STEP,
            "mean_visible_keys": round(mean_visible, 1),
            "flop_per_token": round(flop),
            "gemm_between_steps_gflops": round(trained.product_gflops, 1),
            "share_of_best": round(gflops / (peaks[kind] or float("nan")), 3),
        }
        yield Measurement(
            id="T1",
            metric="peak_share" if kind == "fp32" else "peak_share_bf16",
            value=gflops / trained.product_gflops,
            unit="share of the GEMM rate between the steps",
            seconds=trained.wall,
            extra=extra,
        )
        if peers.is_ready("transformers"):
            yield from _beside_hugging_face(rows, trained, bf16=kind == "bf16")
            continue
        yield Measurement(
            id="T1",
            metric=kind,
            value=trained.rate,
            unit="tokens/CPU-s",
            seconds=trained.wall,
            extra=extra,
        )


def _resident_gib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**20


def step_memory_gib(n_steps: int) -> float:
    """Most resident memory of training steps minus what was resident once the optimizer existed;
    asked in a process of its own."""
    torch.set_num_threads(1)
    rows = _rows()[:n_steps]
    step = _stepper(bf16=False)
    before = _resident_gib("VmRSS:")
    for batch, _, _ in rows:
        step(batch)
    return _resident_gib("VmHWM:") - before


_OURS = """
import sys
sys.path.insert(0, {root!r})
from benchmarks.training import step_memory_gib
open({answer!r}, "w").write(str(step_memory_gib({n_steps})))
"""


def measure_memory(quick: bool) -> Iterator[Measurement]:
    """Line of T2, fp32, over the windows of the same steps."""
    n_steps = 2 if quick else 4
    with tempfile.TemporaryDirectory() as folder, Stopwatch() as watch:
        answer = Path(folder) / "answer"
        script = _OURS.format(root=str(ROOT), answer=str(answer), n_steps=n_steps)
        run([sys.executable, "-c", script])
        ours = float(answer.read_text())
        windows = _windows(_rows()[:n_steps])
        options = {"vocab_size": VOCAB, "bf16": False, "grouped": False}
        theirs = hugging_face.train(windows, SHAPE, **options)["peak_gib"]
    yield Measurement(
        id="T2",
        metric="step_memory",
        value=ours,
        unit="GiB above the optimizer's",
        against=f"{hugging_face.NAME}, batches of {hugging_face.WINDOWS_PER_BATCH} as they come",
        baseline=theirs,
        ratio=ours / theirs,
        seconds=watch.wall,
        extra={"rows_per_step": ROWS_PER_STEP, "row_tokens": ROW_TOKENS},
    )


MEASURES = {"T1": measure, "T2": measure_memory}
