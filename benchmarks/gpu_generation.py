"""G5 and G3's line of a GPU: a decode step with its keys and values, and the job of rollouts.

The step is all of it: model, pages, sampler, refill, as one CUDA graph. Its share of the roofline
counts keys and values alone, read once, at the copy bandwidth measured in the same process. The
job: 32 rollouts a prefix of 768 tokens, each until its own deadline, so of different lengths.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from benchmarks.generation import grammar
from benchmarks.gpu_device import about, graph_ms, write
from benchmarks.record import Measurement, Stopwatch
from chronoward.kernels.decode_attention import Rows, grouped, paged_attention
from chronoward.kernels.sample import Column, Rule, Status, make_tables

from chronoward.engine.device import DeviceRollouts, DeviceRoom, Job
from chronoward.model import Model, ModelConfig
from chronoward.philox import uniforms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_MAX_ERROR = 0.02  # of the norm, against fp32: bf16 has 8 bits
_ORIGIN = 30_000_000  # minutes


@dataclass(frozen=True)
class Shape:
    """Sizes of the measures; the tests make them small."""

    preset: str = "base"
    vocab_size: int = 30_000
    n_rows: int = 256
    contexts: tuple[int, ...] = (512, 1024)
    prefix_tokens: int = 768
    rollouts: int = 32
    n_prefixes: int = 32
    most_hours: int = 10
    """Of a rollout's deadline; about twenty tokens an hour."""
    most_tokens: int = 448
    n_steps: int = 16
    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16

    def config(self) -> ModelConfig:
        return ModelConfig.preset(self.preset, self.vocab_size)


def _rollouts(shape: Shape, *, prefix_tokens: int, own_tokens: int, **room: Any) -> DeviceRollouts:
    """Rows of a random model under a grammar in which codes follow codes and nothing ends."""
    made = grammar(shape.vocab_size, "codes")
    rule = Rule(1.0, 0, 1.0, 0.0, own_tokens, made.max_clock_min, codes_ascend=False)
    model = Model(shape.config(), seed=0).to(shape.device)
    sizes = DeviceRoom(
        n_rows=shape.n_rows,
        n_prefixes=shape.n_prefixes,
        prefix_tokens=prefix_tokens,
        own_tokens=own_tokens,
        n_steps=shape.n_steps,
        n_queued=max(1, shape.n_prefixes * shape.rollouts),
        dtype=shape.dtype,
        **room,
    )
    return DeviceRollouts(model, make_tables(made, device=shape.device), rule, sizes)


def job(prefix: int, rollout: int, *, clock: int, deadline: int = -1) -> Job:
    """One rollout after token 3."""
    line = dict.fromkeys(Column, -1) | {
        Column.STATE: 0, Column.SEX: 0, Column.PREVIOUS_CLASS: 16, Column.PREVIOUS_TOKEN: 3,
        Column.CLOCK: clock, Column.STEP: 0, Column.DEADLINE: deadline, Column.ROLLOUT: rollout,
        Column.STATUS: Status.RUNNING, Column.FAULT: 0,
    }  # fmt: skip
    slot = [int(line[column]) for column in Column]
    return Job(slot=slot, key=(1, prefix), prefix=prefix, token=3, start_min=_ORIGIN)


def seated(
    shape: Shape, context: int, *, n_shared: int = 0, stored: torch.dtype | None = None
) -> DeviceRollouts:
    """All rows running with random keys and values: `n_shared` tokens of a prefix that `rollouts`
    rows share, and own tokens of lengths around `context` (half as many to half as many more)."""
    n_own = context + context // 2 + 256
    rollouts = _rollouts(shape, prefix_tokens=max(n_shared, 1), own_tokens=n_own, stored=stored)
    n = shape.n_rows
    with torch.no_grad():
        for pages in rollouts.pages:
            for x in (pages.keys, pages.values):
                x.copy_(torch.randn(x.shape, device=shape.device).to(x.dtype))
            for scale in (pages.key_scale, pages.value_scale):
                scale.fill_(1.0)
        rollouts.page_time.copy_(
            torch.arange(rollouts.page_time.numel()).view_as(rollouts.page_time)
        )
        number = torch.arange(n, device=shape.device, dtype=torch.int32)
        rollouts.push([job(-1, i, clock=_ORIGIN) for i in range(n)][: rollouts.room.n_queued])
        rollouts._refill()
        rollouts.length.copy_(context // 2 + number * context // max(1, n - 1))
        if n_shared:
            rollouts.prefix.copy_(number // shape.rollouts)
            rollouts.prefix_length.fill_(n_shared)
    return rollouts


def check(rollouts: DeviceRollouts, n_rows: int = 8) -> float:
    """Attention of the first rows' first layer against the reference in fp32.

    Returns:
        The error, a share of the norm.

    Raises:
        AssertionError: it is too large.
    """
    config, n_rows = rollouts.model.config, min(n_rows, rollouts.room.n_rows)
    first = slice(0, n_rows)
    q = torch.randn(n_rows, config.n_heads, config.d_head, device=rollouts.device)
    prefix = rollouts.prefix[first].contiguous()
    clock = rollouts.slots[first, Column.CLOCK].contiguous()
    rows = Rows(
        clock, rollouts.table[first], rollouts.length[first], prefix, rollouts.prefix_table,
        rollouts.prefix_length, *grouped(prefix),
    )  # fmt: skip
    pages, bias = rollouts.pages[0], rollouts.time_biases[0]
    low = q.to(rollouts.room.dtype)
    mine = paged_attention(low, pages, rows, **bias).float()
    wide = pages
    if pages.keys.dtype == rollouts.room.dtype:
        wide = pages._replace(keys=pages.keys.float(), values=pages.values.float())
    truth = paged_attention(low.float(), wide, rows, **bias, backend="reference")
    error = float((mine - truth).norm() / truth.norm())
    if not error < _MAX_ERROR:
        message = f"decode attention differs from the reference by {error:.1e}"
        raise AssertionError(message)
    return error


def _milliseconds(step: Callable[[], object], device: str) -> float:
    if device == "cuda":
        return graph_ms(step)
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def _step(rollouts: DeviceRollouts) -> tuple[float, float]:
    """Milliseconds of a step, and the mean number of own tokens while it was measured."""
    before = float(rollouts.length.float().mean())
    ms = _milliseconds(rollouts.advance, rollouts.device.type)
    return ms, (before + float(rollouts.length.float().mean())) / 2


def _kv_bytes(rollouts: DeviceRollouts) -> int:
    """Bytes of a token's keys and values in all layers."""
    config, pages = rollouts.model.config, rollouts.pages[0]
    scales = 8 if len(pages.key_scale) else 0
    a_head = 2 * config.d_head * pages.keys.element_size() + scales
    return config.n_layers * config.n_kv_heads * a_head


def _gpt2(shape: Shape) -> Any:
    """Hugging Face's GPT-2 of the same width, depth and vocabulary."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = shape.config()
    made = GPT2Config(
        vocab_size=shape.vocab_size, n_positions=4096, n_embd=config.d_model,
        n_layer=config.n_layers, n_head=config.n_heads, attn_implementation="sdpa",
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(made).to(shape.device, shape.dtype).eval()


@torch.no_grad()
def _gpt2_seconds(model: Any, shape: Shape, n_prompt: int, n_new: int) -> float:
    """Of `generate` with its dynamic cache."""
    tokens = torch.randint(3, shape.vocab_size, (shape.n_rows, n_prompt), device=shape.device)
    options = {"do_sample": True, "top_k": 0, "pad_token_id": 0, "max_new_tokens": n_new}
    start = time.perf_counter()
    model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
    if shape.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _gpt2_step_ms(shape: Shape, context: int, n_new: int = 33) -> float:
    model, n_prompt = _gpt2(shape), context - n_new // 2
    _gpt2_seconds(model, shape, 8, 2)
    first = _gpt2_seconds(model, shape, n_prompt, 1)
    return 1e3 * (_gpt2_seconds(model, shape, n_prompt, n_new) - first) / (n_new - 1)


def _or_reason(measure: Callable[[], float]) -> tuple[float | None, str | None]:
    """What Hugging Face takes, or why it could not be measured."""
    try:
        return measure(), None
    except Exception as error:  # its failure must not lose our own number
        return None, f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _deadlines(shape: Shape) -> list[int]:
    n = shape.n_prefixes * shape.rollouts
    hours = 1 + (uniforms(3, n) * shape.most_hours).astype(int)
    return [_ORIGIN + 100_000 + 60 * int(h) for h in hours]


def run_job(shape: Shape) -> tuple[float, list[int]]:
    """Seconds of the whole job, prefill in it, and the tokens of each rollout."""
    rollouts = _rollouts(
        shape, prefix_tokens=shape.prefix_tokens, own_tokens=shape.most_tokens
    )  # fmt: skip
    n = shape.prefix_tokens - 1
    token = (torch.arange(n, device=shape.device) * 7) % (shape.vocab_size - 3) + 3
    clock = torch.linspace(_ORIGIN, _ORIGIN + 99_999, n, device=shape.device).int()
    deadlines = _deadlines(shape)
    jobs = [
        job(i // shape.rollouts, i % shape.rollouts, clock=_ORIGIN + 100_000, deadline=deadline)
        for i, deadline in enumerate(deadlines)
    ]
    rollouts.step()  # compiles and captures; nobody is seated yet
    start = time.perf_counter()
    for number in range(shape.n_prefixes):
        rollouts.prefill(number, token.roll(number), clock)
    rollouts.push(jobs)
    lengths, n_ended = [0] * len(jobs), 0
    while n_ended < len(jobs):
        for _ in range(shape.n_steps):
            rollouts.step()
        told = rollouts.read()
        is_drawn = told["job"] >= 0
        n_ended += int((is_drawn & (told["status"] != Status.RUNNING)).sum())
        if bool((told["fault"][is_drawn] != 0).any()):
            message = "a row could not go on"
            raise AssertionError(message)
        for i in told["job"][is_drawn].tolist():
            lengths[i] += 1
    return time.perf_counter() - start, lengths


def _gpt2_job(shape: Shape, lengths: list[int]) -> float:
    """Seconds for the same job: batches in order of the jobs, each until its longest has ended."""
    model = _gpt2(shape)
    _gpt2_seconds(model, shape, 8, 2)
    longest = sorted(
        max(lengths[i : i + shape.n_rows]) for i in range(0, len(lengths), shape.n_rows)
    )
    middle = longest[len(longest) // 2]
    return len(longest) * _gpt2_seconds(model, shape, shape.prefix_tokens, middle)


def measure_steps(shape: Shape, found: dict[str, Any]) -> Iterator[Measurement]:
    """The step at each mean context: share of the roofline, and beside Hugging Face's."""
    line = partial(Measurement, id="G5", device=_device(shape))
    for context in shape.contexts:
        for stored in (None, torch.float8_e4m3fn):
            with Stopwatch() as watch:
                rollouts = seated(shape, context, stored=stored)
                error = check(rollouts)
                ms, mean = _step(rollouts)
            n_bytes = shape.n_rows * mean * _kv_bytes(rollouts)
            name = "fp8" if stored else str(shape.dtype).removeprefix("torch.")
            del rollouts
            theirs, fault = (None, None)
            if stored is None:
                theirs, fault = _or_reason(lambda n=context: _gpt2_step_ms(shape, n))  # type: ignore[misc]
            copy = found.get("copy_tb_per_s", float("nan"))
            share = n_bytes / (ms * 1e9) / copy if copy == copy else n_bytes / (ms * 1e9)
            yield line(
                metric=f"step_{context}_{name}",
                value=share,
                unit="share of the KV roofline",
                against="Hugging Face GPT-2, generate, dynamic cache",
                baseline=theirs,
                ratio=None if theirs is None else theirs / ms,
                seconds=watch.wall,
                extra={
                    **found, "ms": ms, "tokens_per_s": 1e3 * shape.n_rows / ms, "error": error,
                    "mean_context": mean, "rows": shape.n_rows, "kv_gb": n_bytes / 1e9,
                    "fault": fault,
                },
            )  # fmt: skip


def measure_sharing(shape: Shape, found: dict[str, Any]) -> Iterator[Measurement]:
    """G3: a step of rollouts that share their prefix, over one where each has a copy of it."""
    with Stopwatch() as watch:
        tail = 64
        rollouts = seated(shape, tail, n_shared=shape.prefix_tokens)
        check(rollouts)
        shared, _ = _step(rollouts)
        del rollouts
        rollouts = seated(shape, shape.prefix_tokens + tail)
        copied, _ = _step(rollouts)
        del rollouts
    yield Measurement(
        id="G3",
        metric="gpu_tokens_rate",
        value=1e3 * shape.n_rows / shared,
        unit="tokens/s",
        against="a copy of the prefix for each rollout",
        baseline=1e3 * shape.n_rows / copied,
        ratio=copied / shared,
        seconds=watch.wall,
        device=_device(shape),
        extra={**found, "prefix": shape.prefix_tokens, "rollouts": shape.rollouts},
    )


def measure_job(shape: Shape, found: dict[str, Any]) -> Iterator[Measurement]:
    """G5's real job, wall time with prefill and refills, tokens kept a second."""
    with Stopwatch() as watch:
        seconds, lengths = run_job(shape)
        theirs, fault = _or_reason(lambda: _gpt2_job(shape, lengths))
    rate = sum(lengths) / seconds
    yield Measurement(
        id="G5",
        metric="rollouts",
        value=rate,
        unit="tokens/s",
        against="Hugging Face GPT-2, generate, dynamic cache, batches until their longest ends",
        baseline=None if theirs is None else sum(lengths) / theirs,
        ratio=None if theirs is None else theirs / seconds,
        seconds=watch.wall,
        device=_device(shape),
        extra={**found, "tokens": sum(lengths), "jobs": len(lengths), "fault": fault},
    )


def _device(shape: Shape) -> str | None:
    return torch.cuda.get_device_name() if shape.device == "cuda" else None


def measure(shape: Shape | None = None) -> Iterator[Measurement]:
    """All of it, the lines that cost least first."""
    shape = shape or Shape()
    found = about() if shape.device == "cuda" else {}
    yield from measure_sharing(shape, found)
    yield from measure_job(shape, found)
    yield from measure_steps(shape, found)


if __name__ == "__main__":
    write(measure())
