"""G5 and G3's line of a GPU: a decode step with its keys and values, and the job of rollouts.

The step is all of it: model, pages, sampler, refill, as one CUDA graph. Its share of the roofline
counts keys and values alone, read once, at the copy bandwidth measured in the same process. The
job is what a user calls: 32 rollouts a prefix of 768 tokens through `Engine`, each until the
deadline of its prompt, so of different lengths. Hugging Face stands beside both: its dynamic cache
first, its static cache and `generate_batch` in lines of their own, as far as the time goes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from benchmarks.generation import grammar
from benchmarks.gpu_device import about, graph_ms, write
from benchmarks.gpu_hugging_face import Peer, or_reason
from benchmarks.record import Measurement, Stopwatch
from chronoward.kernels.decode_attention import Rows, grouped, paged_attention
from chronoward.kernels.sample import Column, Rule, Status, make_tables

from benchmarks import gpu_hugging_face as hugging_face
from chronoward.engine import Engine, EngineConfig, Prompt, SamplingParams
from chronoward.engine.device import DeviceRollouts, Job
from chronoward.engine.device_room import DeviceRoom
from chronoward.model import Model, ModelConfig
from chronoward.philox import uniforms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_MAX_ERROR = 0.02  # of the norm, against fp32: bf16 has 8 bits
_ORIGIN = 30_000_000  # minutes
_PREFIX_MIN = 100_000  # minutes that a prefix of the job spans


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
    peer_seconds: float = 120.0
    """After which no further measure of Hugging Face's other ways is begun."""

    @property
    def peer(self) -> Peer:
        """Hugging Face's model of the same size."""
        config = self.config()
        return Peer(
            vocab_size=self.vocab_size,
            d_model=config.d_model,
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            n_rows=self.n_rows,
            device=self.device,
            dtype=self.dtype,
        )

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
            room = rollouts.room
            pages = torch.arange(room.n_pages - room.pool_pages, room.n_pages)
            rollouts.prefix_table.copy_(pages.view(room.n_prefixes, -1))
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


def job_prompts(shape: Shape) -> list[Prompt]:
    """Prefixes of which each has its own deadline, some hours after its last token."""
    n = shape.prefix_tokens
    tokens = (np.arange(n) * 7) % (shape.vocab_size - 3) + 3
    clock = np.linspace(0, _PREFIX_MIN - 1, n).astype(np.int32)
    hours = 1 + (uniforms(3, shape.n_prefixes) * shape.most_hours).astype(int)
    return [
        Prompt(
            subject_id=i,
            prediction_time_us=0,
            token_id=np.roll(tokens, i).astype(np.int32),
            time_min=clock,
            origin_us=0,
            rollouts=range(shape.rollouts),
            deadline_min=_PREFIX_MIN + 60 * int(hours[i]),
        )
        for i in range(shape.n_prefixes)
    ]


def run_job(shape: Shape) -> tuple[float, list[int], Engine]:
    """Seconds of the whole job, prefill in it, the tokens of each rollout, and the engine."""
    engine = Engine(
        Model(shape.config(), seed=0).to(shape.device),
        grammar(shape.vocab_size, "codes"),
        EngineConfig(
            n_slots=shape.n_rows,
            max_context=shape.prefix_tokens + shape.most_tokens,
            dtype=str(shape.dtype).removeprefix("torch."),
        ),
    )
    prompts, params = job_prompts(shape), SamplingParams(max_new_tokens=shape.most_tokens)
    for _ in engine.generate(prompts[:1], params):  # compiles and captures
        break
    start = time.perf_counter()
    lengths = {(r.subject_id, r.rollout): len(r.token_id) for r in engine.generate(prompts, params)}
    return time.perf_counter() - start, [lengths[key] for key in sorted(lengths)], engine


@dataclass(frozen=True)
class Race:
    """One of Hugging Face's other ways, beside a number of ours that is known already."""

    metric: str
    against: str
    n_tokens: int
    our_seconds: float
    their_seconds: Callable[[], float]


def measure_races(shape: Shape, races: list[Race], until: float) -> Iterator[Measurement]:
    """A line for each of them; those for which there is no time say so."""
    for race in races:
        with Stopwatch() as watch:
            theirs, fault = None, "no time left"
            if time.monotonic() < until:
                theirs, fault = or_reason(race.their_seconds)  # type: ignore[assignment]
        yield Measurement(
            id="G5",
            metric=race.metric,
            value=race.n_tokens / race.our_seconds,
            unit="tokens/s",
            against=f"Hugging Face GPT-2, {race.against}",
            baseline=None if theirs is None else race.n_tokens / theirs,
            ratio=None if theirs is None else theirs / race.our_seconds,
            seconds=watch.wall,
            device=_device(shape),
            extra={"fault": fault},
        )


def _step_races(shape: Shape, context: int, ms: float) -> list[Race]:
    peer, seconds = shape.peer, ms / 1e3
    ways = {
        "static_cache": lambda: hugging_face.step_ms(peer, context, "static") / 1e3,
        "generate_batch": lambda: hugging_face.batch_step_ms(peer, context) / 1e3,
    }
    return [
        Race(f"step_{context}_vs_{name}", name.replace("_", " "), shape.n_rows, seconds, way)
        for name, way in ways.items()
    ]


def measure_steps(shape: Shape, found: dict[str, Any], races: list[Race]) -> Iterator[Measurement]:
    """The step at each mean context: share of the roofline, and beside Hugging Face's; what else
    it is to be compared with goes to `races`."""
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
                theirs, fault = or_reason(partial(hugging_face.step_ms, shape.peer, context))
                races += _step_races(shape, context, ms)
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


def measure_job(shape: Shape, found: dict[str, Any], races: list[Race]) -> Iterator[Measurement]:
    """G5's real job, wall time with prefill and refills, tokens kept a second; what else it is to
    be compared with goes to `races`."""
    n, peer = shape.prefix_tokens, shape.peer
    with Stopwatch() as watch:
        seconds, lengths, engine = run_job(shape)
        counts = engine.statistics
        del engine
        theirs, fault = or_reason(lambda: hugging_face.job_seconds(peer, n, lengths, "dynamic"))
    n_tokens = sum(lengths)
    ways = {
        "static_cache": lambda: hugging_face.job_seconds(peer, n, lengths, "static"),
        "generate_batch": lambda: hugging_face.job_batch_seconds(peer, n, shape.rollouts, lengths),
    }
    for name, way in ways.items():
        against = name.replace("_", " ")
        races.append(Race(f"rollouts_vs_{name}", against, n_tokens, seconds, way))
    yield Measurement(
        id="G5",
        metric="rollouts",
        value=n_tokens / seconds,
        unit="tokens/s",
        against="Hugging Face GPT-2, generate, dynamic cache, batches until their longest ends",
        baseline=None if theirs is None else n_tokens / theirs,
        ratio=None if theirs is None else theirs / seconds,
        seconds=watch.wall,
        device=_device(shape),
        extra={
            **found, "tokens": n_tokens, "jobs": len(lengths), "slot_use": counts.slot_use,
            "fault": fault,
        },
    )  # fmt: skip


def _device(shape: Shape) -> str | None:
    return torch.cuda.get_device_name() if shape.device == "cuda" else None


def measure(shape: Shape | None = None) -> Iterator[Measurement]:
    """All of it: the lines that cost least first, what Hugging Face compiles last."""
    shape = shape or Shape()
    until, races = time.monotonic() + shape.peer_seconds, list[Race]()
    found = about() if shape.device == "cuda" else {}
    yield from measure_sharing(shape, found)
    yield from measure_job(shape, found, races)
    yield from measure_steps(shape, found, races)
    yield from measure_races(shape, races, until)


if __name__ == "__main__":
    write(measure())
