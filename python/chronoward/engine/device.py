"""Rollouts whose state stays on a device: tokens, clocks, grammar, lengths and pages are tensors.

A step asks nothing of the host and waits for nothing, so that all of it is one CUDA graph: rows
that ended take the next job of a queue that the host filled before, the model runs, tokens are
drawn, and what was drawn goes into a ring that the host reads every so many steps. A row's pages
are its own for good; a prefix is prefilled once, into the pages of its number.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

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

    from torch import Tensor

    from chronoward.kernels.sample import Rule, Tables
    from chronoward.model import Model


@dataclass(frozen=True, kw_only=True)
class DeviceRoom:
    """Sizes that are fixed once; memory is (rows · own + prefixes · prefix) tokens."""

    n_rows: int = 256
    n_prefixes: int = 64
    prefix_tokens: int = 1024
    own_tokens: int = 1024
    """Most tokens that a row takes: the prefix's last and all it draws but the last."""
    page_tokens: int = 64
    n_steps: int = 16
    """Steps that the ring holds."""
    n_queued: int = 1024
    """Jobs that may wait."""
    dtype: torch.dtype = torch.bfloat16
    """Of weights and activations."""
    stored: torch.dtype | None = None
    """Of keys and values; None: the same. fp8 (e4m3) halves them and rounds them."""


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
        self.room, self.tables, self.rule = room, tables, rule
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
        self._make_pages()
        self._make_rows()
        self._make_ring()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.n_pushed = 0

    def _integers(self, *shape: int, value: int = 0, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.full(shape, value, dtype=dtype, device=self.device)

    def _make_pages(self) -> None:
        """Page 0 is nobody's, then those of the rows, then those of the prefixes."""
        room, config = self.room, self.model.config
        n_own, n_prefix = (-(-n // room.page_tokens) for n in (room.own_tokens, room.prefix_tokens))
        n_pages = 1 + room.n_rows * n_own + room.n_prefixes * n_prefix
        number = torch.arange(1, n_pages, dtype=torch.int32, device=self.device)
        n_first = room.n_rows * n_own
        self.table = number[:n_first].view(-1, n_own)
        self.prefix_table = number[n_first:].view(-1, n_prefix)
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
        self.prefix, self.job = (self._integers(room.n_rows, value=-1) for _ in range(2))
        self.prefix_length, self.prefix_kind = (self._integers(room.n_prefixes) for _ in range(2))
        self.seen = torch.zeros(room.n_rows, n_vocab, dtype=torch.bool, device=self.device)
        self.prefix_seen = self.seen.new_zeros(room.n_prefixes, n_vocab)
        self.queue_slots, self.queue_keys = make_slots(room.n_queued, self.device)
        self.queue = self._integers(room.n_queued, 3)  # prefix, token, start
        self.head, self.tail = (self._integers(1, dtype=torch.int64) for _ in range(2))

    def _make_ring(self) -> None:
        n_steps, n_rows, n_sets = self.room.n_steps, self.room.n_rows, len(self.tables.set_words)
        integers = ("job", "token", "time_min", "status", "step_min", "fault")
        self.ring = {name: self._integers(n_steps, n_rows) for name in integers}
        self.ring["log_p"] = torch.zeros(n_steps, n_rows, device=self.device)
        self.ring["value_u"] = self.ring["log_p"].double()
        self.ring["outcome_p"] = torch.zeros(n_steps, n_rows, n_sets, device=self.device)
        self.place = self._integers(1, dtype=torch.int64)

    @torch.no_grad()
    def prefill(self, number: int, token_id: Tensor, time_min: Tensor) -> None:
        """Takes a prefix into the pages of its number; nobody may be reading them.

        Args:
            number: of the prefix.
            token_id: int64 (n,) on the device, without the prompt's last token.
            time_min: int32 (n,).
        """
        n, model = len(token_id), self.model
        self.prefix_length[number] = n
        self.prefix_seen[number] = False
        self.prefix_kind[number] = 0
        if n == 0:
            return
        index = torch.arange(n, device=self.device)
        page = self.prefix_table[number].long()[index // self.room.page_tokens]
        place = page * self.room.page_tokens + index % self.room.page_tokens
        self.page_time.view(-1)[place] = time_min
        bounds = torch.tensor([0, n], dtype=torch.int32, device=self.device)
        elapsed = time_min.long() - time_min[0].long()
        x = model.begin(model.embed(token_id), time_min, index, elapsed)
        angles = model.rotary(index, elapsed)
        for block, pages, bias in zip(self.blocks, self.pages, self.time_biases, strict=True):
            q, k, v = block.qkv(x, angles)
            write_pages(k, v, pages, place)
            x = block.finish(x, varlen_attention(q, k, v, time_min, bounds, **bias))
        self.prefix_seen[number, token_id] = True
        kinds = self.visit_kind[token_id]
        kinds = kinds[kinds >= 0]
        if len(kinds):
            self.prefix_kind[number] = kinds[-1]

    def push(self, jobs: Sequence[Job]) -> None:
        """Puts jobs behind those that wait; never more than `n_queued` that have not ended."""
        for job in jobs:
            at = self.n_pushed % self.room.n_queued
            self.queue_slots[at] = torch.tensor(job.slot, dtype=torch.int32)
            self.queue_keys[at] = torch.tensor(job.key)
            self.queue[at] = torch.tensor([job.prefix, job.token, job.start_min])
            self.n_pushed += 1
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

    @torch.no_grad()
    def advance(self) -> None:
        """One step of all rows, without a word from the host."""
        self._refill()
        runs = self.slots[:, Column.STATUS] == Status.RUNNING
        job = torch.where(runs, self.job, -1)
        draws = sample(self._logits(), self.slots, self.keys, self.tables, self.rule)
        self.token.copy_(draws.token)
        told = {**draws._asdict(), "job": job, "fault": self.slots[:, Column.FAULT]}
        for name, kept in self.ring.items():
            kept.index_copy_(0, self.place, told[name].to(kept.dtype)[None])
        self.place.add_(1).remainder_(self.room.n_steps)

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

    def read(self) -> dict[str, Tensor]:
        """What the last `n_steps` steps drew, oldest first, on the host: the one place that waits.

        Returns:
            (n_steps, R) tensors by the names of `Draws`, `job` (-1: the row was idle) and `fault`.
        """
        order = (torch.arange(self.room.n_steps, device=self.device) + self.place) % len(
            self.ring["job"]
        )
        copies = {}
        for name, kept in self.ring.items():
            copies[name] = torch.empty(kept.shape, dtype=kept.dtype, pin_memory=kept.is_cuda)
            copies[name].copy_(kept[order], non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        return copies
