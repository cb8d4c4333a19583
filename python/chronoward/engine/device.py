"""Rollouts whose state stays on a device: tokens, clocks, grammar, lengths and pages are tensors.

A step asks nothing of the host and waits for nothing, so that all of it is one CUDA graph: rows
that ended take the next job of a queue that the host filled before, the model runs, tokens are
drawn, and what was drawn goes into a ring. Its two halves are filled in turn: while the device is
at one, the host reads what it has a copy of. A row's pages are its own for good; a prefix is
prefilled once, into the pages that the host gave it. A row whose context is full leaves its place.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chronoward.engine.device_prefill import calls
from chronoward.kernels.decode_attention import (
    Rows,
    grouped,
    make_pages,
    paged_attention,
    places,
    write_pages,
)
from chronoward.kernels.sample import Column, Status, make_slots, sample
from chronoward.kernels.varlen_attention import varlen_attention
from chronoward.model.blocks import Block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from chronoward.engine.device_prefill import Context, PrefillCall
    from chronoward.engine.device_room import DeviceRoom
    from chronoward.kernels.sample import Rule, Tables
    from chronoward.model import Model


@dataclass(frozen=True, kw_only=True)
class Job:
    """A rollout to be seated: the line of its row (`Column`), and where its context begins."""

    slot: Sequence[int]
    key: tuple[int, int]
    """Philox key and hash of the subject, as signed 64 bits."""
    prefix: int
    """Number of its prefix."""
    token: int
    """The prompt's last token, which is not in the prefix."""
    start_min: int
    """Clock of the context's first token."""


class Told:
    """What some steps drew, on its way to the host.

    Args:
        copies: (n_steps, R) tensors by name, oldest step first.
        is_there: after which they hold it; None: they do already.
    """

    def __init__(self, copies: dict[str, Tensor], is_there: torch.cuda.Event | None) -> None:
        self._copies, self._is_there = copies, is_there

    def read(self) -> dict[str, NDArray[Any]]:
        """Waits for it: the fields of `Draws`, `job` (-1: the row was idle) and `fault`. The arrays
        are good until the next but one `launch`."""
        if self._is_there is not None:
            self._is_there.synchronize()
        return {name: kept.numpy() for name, kept in self._copies.items()}


def _cast(model: Model, dtype: torch.dtype) -> Model:
    """A copy whose weights have the type; frequencies of angles stay fp64."""
    frequencies = {n: getattr(model, n) for n in ("index_frequency", "time_frequency")}
    made = copy.deepcopy(model).eval().to(dtype)
    for name, kept in frequencies.items():
        setattr(made, name, kept.clone())
    return made


class DeviceRollouts:
    """Rows on the device of a model.

    Args:
        model: on the device; its weights are copied.
        tables: the grammar's, on the same device.
        rule: how tokens are drawn.
        room: sizes.
    """

    def __init__(self, model: Model, tables: Tables, rule: Rule, room: DeviceRoom) -> None:
        self.room = room
        self.device = model.output_weight.device
        self.model = _cast(model, room.dtype)
        self.blocks = [block for block in self.model.blocks if isinstance(block, Block)]
        with torch.no_grad():
            pairs = [block.bias() for block in self.blocks]
        names = ("bias", "a", "tau")
        self.time_biases: list[dict[str, Any]] = [
            dict(zip(names, (model.config.time_bias, *pair), strict=True)) for pair in pairs
        ]
        bias = model.context_bias
        self.unseen, self.known = bias.unseen.detach().float(), bias.known.detach().float()
        self.companion, self.visit_kind = bias.companion.long(), bias.visit_kind.long()
        self._host_visit_kind = self.visit_kind.cpu().numpy()
        self._make_pages()
        self._make_rows()
        self.purpose: object = None
        """What `use` was called for, for whoever calls it."""
        self.use(tables, rule)

    @property
    def cache_bytes(self) -> int:
        """Memory that keys and values take, from the start."""
        return self.room.cache_bytes(self.model.config)

    def use(self, tables: Tables, rule: Rule) -> None:
        """Draws under another grammar or rule from now on; everybody leaves."""
        self.tables, self.rule = tables, rule
        self.graph: torch.cuda.CUDAGraph | None = None
        self._make_ring()
        self.reset()

    def reset(self) -> None:
        """Empties rows and queue, so that a run begins as on the first day."""
        self.slots[:, Column.STATUS].fill_(Status.IDLE)
        self.prefix.fill_(-1)
        self.job.fill_(-1)
        for kept in (self.head, self.tail, self.place):
            kept.zero_()
        self.n_pushed = self.n_launched = 0

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        """A copy on the device that the host does not wait for."""
        made = torch.from_numpy(array)
        if self.device.type == "cuda":
            return made.pin_memory().to(self.device, non_blocking=True)
        return made.to(self.device)

    def _integers(self, *shape: int, value: int = 0, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.full(shape, value, dtype=dtype, device=self.device)

    def _make_pages(self) -> None:
        room, config = self.room, self.model.config
        n_pages = room.n_pages
        number = torch.arange(1, n_pages, dtype=torch.int32, device=self.device)
        self.table = number[: room.n_rows * room.own_pages].view(room.n_rows, -1).contiguous()
        self.prefix_table = self._integers(room.n_prefixes, room.longest_prefix_pages)
        self.page_time = self._integers(n_pages, room.page_tokens)
        self.pages = [
            make_pages(
                n_pages,
                n_kv_heads=config.n_kv_heads,
                page_tokens=room.page_tokens,
                d_head=config.d_head,
                dtype=room.stored or room.dtype,
                time_min=self.page_time,
            )
            for _ in self.blocks
        ]

    def _make_rows(self) -> None:
        room, n_vocab = self.room, self.model.config.vocab_size
        self.slots, self.keys = make_slots(room.n_rows, self.device)
        names = ("token", "start", "length", "kind")
        self.token, self.start, self.length, self.kind = (
            self._integers(room.n_rows) for _ in names
        )
        self.prefix = self._integers(room.n_rows, value=-1)
        self.job = self._integers(room.n_rows, value=-1, dtype=torch.int64)
        self.prefix_length, self.prefix_kind = (self._integers(room.n_prefixes) for _ in range(2))
        self.seen = torch.zeros(room.n_rows, n_vocab, dtype=torch.bool, device=self.device)
        self.prefix_seen = self.seen.new_zeros(room.n_prefixes + 1, n_vocab)  # the last: nobody's
        self.queue_slots, self.queue_keys = make_slots(room.n_queued, self.device)
        self.queue = self._integers(room.n_queued, 3)  # prefix, token, start
        self.head, self.tail = (self._integers(1, dtype=torch.int64) for _ in range(2))

    def _make_ring(self) -> None:
        """Two halves of `n_steps` steps, and a copy of each on the host."""
        n_steps, n_rows, n_sets = self.room.n_steps, self.room.n_rows, len(self.tables.set_words)
        integers = ("token", "time_min", "status", "step_min", "fault")
        self.ring = {name: self._integers(2 * n_steps, n_rows) for name in integers}
        self.ring["job"] = self._integers(2 * n_steps, n_rows, dtype=torch.int64)
        self.ring["log_p"] = torch.zeros(2 * n_steps, n_rows, device=self.device)
        self.ring["value_u"] = self.ring["log_p"].double()
        self.ring["outcome_p"] = torch.zeros(2 * n_steps, n_rows, n_sets, device=self.device)
        self.place = self._integers(1, dtype=torch.int64)
        is_gpu = self.device.type == "cuda"
        self._copies = [
            {
                name: torch.empty((n_steps, *kept.shape[1:]), dtype=kept.dtype, pin_memory=is_gpu)
                for name, kept in self.ring.items()
            }
            for _ in range(2)
        ]

    def prefill(self, contexts: Sequence[Context]) -> None:
        """Takes prefixes into their pages; nobody may be reading them."""
        for call in calls(contexts, self.room, self._host_visit_kind):
            self._prefill(call)

    @torch.no_grad()
    def _prefill(self, call: PrefillCall) -> None:
        model, lines = self.model, self._to_device(call.prefixes)
        number = lines[:, 0].long()
        self.prefix_length.index_copy_(0, number, lines[:, 1].contiguous())
        self.prefix_kind.index_copy_(0, number, lines[:, 2].contiguous())
        self.prefix_table.index_copy_(0, number, lines[:, 3:].contiguous())
        self.prefix_seen.index_fill_(0, number, False)
        if not call.prefixes[:, 1].any():
            return
        token, clock, index, elapsed, place, owner = self._to_device(call.tokens).unbind(0)
        bounds, time_min = self._to_device(call.bounds), clock.int()
        self.page_time.view(-1)[place] = time_min
        x = model.begin(model.embed(token), time_min, index, elapsed)
        angles = model.rotary(index, elapsed)
        for block, pages, bias in zip(self.blocks, self.pages, self.time_biases, strict=True):
            q, k, v = block.qkv(x, angles)
            write_pages(k, v, pages, place)
            x = block.finish(x, varlen_attention(q, k, v, time_min, bounds, **bias))
        self.prefix_seen[owner, token] = True

    def push(self, jobs: Sequence[Job]) -> None:
        """Puts jobs behind those that wait; never more than `n_queued` that have no row yet."""
        if not jobs:
            return
        at = (self.n_pushed + np.arange(len(jobs))) % self.room.n_queued
        self.n_pushed += len(jobs)
        lines = np.array([(*j.slot, j.prefix, j.token, j.start_min) for j in jobs], np.int32)
        keys = np.array([j.key for j in jobs], np.int64)
        where, sent = self._to_device(at), self._to_device(lines)
        n_columns = len(Column)
        self.queue_slots.index_copy_(0, where, sent[:, :n_columns].contiguous())
        self.queue.index_copy_(0, where, sent[:, n_columns:].contiguous())
        self.queue_keys.index_copy_(0, where, self._to_device(keys))
        self.tail.fill_(self.n_pushed)

    def _refill(self) -> None:
        """Rows that ended take the next jobs, in the order of the rows."""
        ended = self.slots[:, Column.STATUS] != Status.RUNNING
        number = self.head + ended.long().cumsum(0) - 1
        takes = ended & (number < self.tail)
        at = torch.where(takes, number, 0) % self.room.n_queued
        prefix, token, start = self.queue[at].unbind(1)
        wanted = prefix.clamp(min=0).long()

        def put(kept: Tensor, new: Tensor) -> None:
            is_new = takes.view(-1, *(1,) * (kept.dim() - 1))
            kept.copy_(torch.where(is_new, new, kept))

        self.job.copy_(torch.where(ended, torch.where(takes, number, -1), self.job))
        put(self.slots, self.queue_slots[at])
        put(self.keys, self.queue_keys[at])
        put(self.prefix, prefix)
        put(self.token, token)
        put(self.start, start)
        put(self.length, torch.zeros_like(self.length))
        put(self.kind, self.prefix_kind[wanted])
        put(self.seen, self.prefix_seen[wanted])
        self.head.add_(takes.sum())

    def _logits(self) -> Tensor:
        """Takes each running row's token into its context; fp32 (R, V)."""
        model, runs = self.model, self.slots[:, Column.STATUS] == Status.RUNNING
        clock = self.slots[:, Column.CLOCK].contiguous()
        self.length.add_(runs.int())
        length = torch.where(runs, self.length, 0)
        rows = Rows(
            clock, self.table, length, self.prefix, self.prefix_table, self.prefix_length,
            *grouped(self.prefix),
        )  # fmt: skip
        place = places(rows, self.room.page_tokens)
        self.page_time.view(-1).index_copy_(0, place, clock)
        index = self.prefix_length[self.prefix.clamp(min=0).long()].long() + length - 1
        elapsed = (clock - self.start).long()
        x = model.begin(model.embed(self.token), clock, index.clamp(min=0), elapsed.clamp(min=0))
        angles = model.rotary(index, elapsed)
        for block, pages, bias in zip(self.blocks, self.pages, self.time_biases, strict=True):
            q, k, v = block.qkv(x, angles)
            write_pages(k, v, pages, place)
            x = block.finish(x, paged_attention(q, pages, rows, **bias))
        logits: Tensor = (model.final_norm(x) @ model.output_weight.t()).float()
        return logits + self._context_bias()

    def _context_bias(self) -> Tensor:
        """Biases by the kind of visit and by what each context holds, with its newest token."""
        token, n_vocab = self.token.long(), self.seen.shape[1]
        self.seen.scatter_(1, token[:, None], True)
        begins = self.visit_kind[token]
        self.kind.copy_(torch.where(begins >= 0, begins, self.kind))
        kind = self.kind.long()
        announced = self.seen[:, self.companion.clamp(min=0)] & (self.companion >= 0)
        known = self.known[kind]
        added = torch.where(announced, known[:, n_vocab:], 0.0)
        return self.unseen[kind] + torch.where(self.seen, known[:, :n_vocab], added)

    def _status(self, drawn: Tensor, runs: Tensor) -> Tensor:
        """Statuses after a draw, `FULL` where the token that was drawn has no room."""
        if self.room.max_context is None:
            return drawn
        held = self.prefix_length[self.prefix.clamp(min=0).long()] + self.length
        is_full = runs & (drawn == Status.RUNNING) & (held >= self.room.max_context)
        status = torch.where(is_full, int(Status.FULL), drawn)
        self.slots[:, Column.STATUS] = status
        return status

    @torch.no_grad()
    def advance(self) -> None:
        """One step of all rows, without a word from the host."""
        self._refill()
        runs = self.slots[:, Column.STATUS] == Status.RUNNING
        job = torch.where(runs, self.job, -1)
        draws = sample(self._logits(), self.slots, self.keys, self.tables, self.rule)
        self.token.copy_(draws.token)
        told = {**draws._asdict(), "job": job, "fault": self.slots[:, Column.FAULT]}
        told["status"] = self._status(draws.status, runs)
        for name, kept in self.ring.items():
            kept.index_copy_(0, self.place, told[name].to(kept.dtype)[None])
        self.place.add_(1).remainder_(2 * self.room.n_steps)

    def step(self) -> None:
        """`advance`, as a CUDA graph on a GPU from the second call on."""
        if self.device.type != "cuda":
            self.advance()
            return
        if self.graph is None:
            self.advance()  # warms up; the graph is of the same step on the same tensors
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.advance()
            return
        self.graph.replay()

    def launch(self) -> Told:
        """Sends `n_steps` steps off, and a copy of what they draw behind them."""
        n_steps, half = self.room.n_steps, self.n_launched % 2
        self.n_launched += 1
        for _ in range(n_steps):
            self.step()
        copies = self._copies[half]
        for name, kept in self.ring.items():
            copies[name].copy_(kept[half * n_steps : (half + 1) * n_steps], non_blocking=True)
        if self.device.type != "cuda":
            return Told(copies, None)
        is_there = torch.cuda.Event()  # type: ignore[no-untyped-call]
        is_there.record()
        return Told(copies, is_there)
