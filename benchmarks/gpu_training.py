"""T4: training `base` on a GPU with real segment lengths: MFU, and Hugging Face's GPT-2 beside it.

MFU counts 6 P + 12 L d (mean visible keys) a token in use, of 989 TFLOP/s. GPT-2 of the same width,
depth and vocabulary gets the most favourable form: rows full of tokens, no masks between subjects,
its loss over logits that exist at once.
"""

from __future__ import annotations

import gc
import traceback
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from benchmarks.gpu_device import PEAK_TFLOPS, about, write
from benchmarks.gpu_rows import ROW_TOKENS, packed_rows
from benchmarks.record import Measurement, Stopwatch

from chronoward.model import Batch, Model, ModelConfig, NextEvent
from chronoward.model.batch import on_device
from chronoward.train import TrainConfig
from chronoward.train.optimizer import Optimizers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_VOCAB = 30_000
_WARM_STEPS, _STEPS = 3, 8


@dataclass(frozen=True)
class Shape:
    """Sizes of the measure; the tests make them small."""

    preset: str = "base"
    vocab_size: int = _VOCAB
    n_rows: tuple[int, ...] = (32, 16, 8)
    """Rows a step, the first that fits in memory."""
    row_tokens: int = ROW_TOKENS
    device: str = "cuda"
    compiled: bool = True


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _batch(shape: Shape, n_rows: int) -> tuple[Batch, int, float]:
    rows = packed_rows(n_rows, shape.row_tokens)
    generator = torch.Generator().manual_seed(0)
    # squared: a few tokens are frequent, as codes are
    draw = torch.rand(len(rows.time_min), generator=generator, dtype=torch.float64) ** 2
    is_first = torch.zeros(len(rows.time_min), dtype=torch.bool)
    is_first[rows.cu_seqlens[:-1][rows.cu_seqlens.diff() > 0].long()] = True
    batch = Batch(
        token_id=(draw * shape.vocab_size).long(),
        time_min=rows.time_min,
        n_prior=torch.zeros(len(draw), dtype=torch.uint8),
        cu_seqlens=rows.cu_seqlens,
        segment_subject=torch.zeros(len(rows.cu_seqlens) - 1, dtype=torch.int64),
        loss_mask=~is_first,
    )
    return batch, rows.n_used, rows.mean_visible


def _seconds(step: Callable[[], object], device: str) -> float:
    """Seconds of a step, after warm ones."""
    for _ in range(_WARM_STEPS):
        step()
    _synchronize(device)
    with Stopwatch() as watch:
        for _ in range(_STEPS):
            step()
        _synchronize(device)
    return watch.wall / _STEPS


def _our_step(shape: Shape, batch: Batch) -> tuple[Callable[[], object], ModelConfig]:
    """A step as `chronoward train` makes it: the batch stays on the CPU, and nothing waits."""
    config = ModelConfig.preset(shape.preset, shape.vocab_size)
    model = Model(config, seed=0).to(shape.device)
    optimizer = Optimizers(model, TrainConfig())
    optimizer.learning_rate = 1e-4
    objective = NextEvent()
    forward: Any = torch.compile(model) if shape.compiled else model
    place = torch.device(shape.device)

    def step() -> None:
        columns = (batch.token_id, batch.time_min, batch.cu_seqlens)
        with torch.autocast(shape.device, torch.bfloat16):
            hidden = forward(*(on_device(x, place) for x in columns))
            head = objective.loss(model, hidden, batch)
        (head.total / head.weight).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step((~torch.isfinite(norm)).float())
        optimizer.zero_grad()

    return step, config


def _gpt2_step(shape: Shape, config: ModelConfig, n_rows: int) -> Callable[[], object]:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.row_tokens,
            n_embd=config.d_model,
            n_layer=config.n_layers,
            n_head=config.n_heads,
            attn_implementation="sdpa",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
    ).to(shape.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward: Any = torch.compile(model) if shape.compiled else model
    tokens = torch.randint(0, shape.vocab_size, (n_rows, shape.row_tokens), device=shape.device)

    def step() -> None:
        with torch.autocast(shape.device, torch.bfloat16):
            loss = forward(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _first_that_fits(n_rows: tuple[int, ...], run: Callable[[int], float]) -> tuple[int, float]:
    for n in n_rows:
        try:
            return n, run(n)
        except torch.cuda.OutOfMemoryError:
            if n == n_rows[-1]:
                raise
        gc.collect()
        torch.cuda.empty_cache()
    message = "n_rows is empty"
    raise ValueError(message)


def _gpt2_rate(shape: Shape, config: ModelConfig) -> tuple[float | None, str | None]:
    """Tokens a second of GPT-2, or why there are none."""
    try:
        n_rows, seconds = _first_that_fits(
            shape.n_rows, lambda n: _seconds(_gpt2_step(shape, config, n), shape.device)
        )
    except Exception as error:  # a peer's failure must not lose our own number
        return None, f"{type(error).__name__}: {str(error)[:300]}"
    return n_rows * shape.row_tokens / seconds, None


def _rate(shape: Shape) -> tuple[float, ModelConfig, dict[str, Any]]:
    """Our tokens in use a second, and what the line says of it."""
    found: dict[str, Any] = {}
    config = ModelConfig.preset(shape.preset, shape.vocab_size)

    def run(n_rows: int) -> float:
        batch, n_used, mean_visible = _batch(shape, n_rows)
        step, _ = _our_step(shape, batch)
        found.update(n_rows=n_rows, n_used=n_used, mean_visible_keys=round(mean_visible, 1))
        return _seconds(step, shape.device)

    _, seconds = _first_that_fits(shape.n_rows, run)
    found["compiled"] = shape.compiled
    found["flop_per_token"] = round(
        6 * config.n_parameters()
        + 12 * config.n_layers * config.d_model * found["mean_visible_keys"]
    )
    found["n_parameters"] = config.n_parameters()
    return found["n_used"] / seconds, config, found


def _ours(shape: Shape) -> tuple[float, ModelConfig, dict[str, Any]]:
    """`_rate`, and without torch.compile if that fails; the line says so."""
    try:
        return _rate(shape)
    except Exception as error:
        if not shape.compiled:
            raise
        fault = f"compiled: {type(error).__name__}: {str(error)[:300]}"
        traceback.print_exc()
    torch.compiler.reset()
    gc.collect()
    rate, config, extra = _rate(replace(shape, compiled=False))
    return rate, config, {**extra, "fault": fault}


def measure(shape: Shape | None = None) -> Iterator[Measurement]:
    """Tokens a second, alone and beside GPT-2's, then the MFU."""
    shape = shape or Shape()
    on_gpu = shape.device == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else None
    with Stopwatch() as watch:
        rate, config, extra = _ours(shape)
    mfu = rate * extra["flop_per_token"] / 1e12 / PEAK_TFLOPS
    extra |= {"mfu": round(mfu, 4), **(about() if on_gpu else {})}
    line = partial(Measurement, id="T4", device=device)
    unit = "tokens in use a second"
    yield line(metric="tokens", value=rate, unit=unit, seconds=watch.wall, extra=extra)
    gc.collect()
    with Stopwatch() as other:
        theirs, fault = _gpt2_rate(shape, config)
    yield line(
        metric="tokens_vs_gpt2",
        value=rate,
        unit=unit,
        against="Hugging Face GPT-2, compiled, full rows without masks between subjects",
        baseline=theirs,
        ratio=None if theirs is None else rate / theirs,
        seconds=other.wall,
        extra={**extra, "gpt2_fault": fault},
    )
    unit = f"share of {PEAK_TFLOPS:.0f} TFLOP/s"
    yield line(metric="mfu", value=mfu, unit=unit, seconds=watch.wall, extra=extra)


if __name__ == "__main__":
    write(measure())
