"""Continues prefixes: a fixed number of slots, refilled as rollouts end.

A subject's prefix is prefilled once and its keys are shared by all its rollouts. What a rollout
draws depends on (model, subject, prediction time, seed, stream, rollout index) only, so the order
of prompts, the number of slots and the number of workers change nothing but the order of arrival.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chronoward.engine.context import MAX_ADDED, cut
from chronoward.engine.decode import PAGE_TOKENS, Decoder, ModelDecoder, one_thread
from chronoward.engine.randomness import stream_key
from chronoward.engine.rollout import STATUSES, Prompt, Rollout
from chronoward.errors import ConfigError, DataError
from chronoward.model import Model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from chronoward.engine.sampling import SamplingParams
    from chronoward.tokenizer.grammar import GrammarTables


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Room of an engine.

    Raises:
        ConfigError: no slots, or a context too short to be cut.
    """

    n_slots: int = 32
    """Rollouts that run side by side."""
    max_context: int = 1024
    """Tokens a context holds; a longer one is cut to its newest half at a visit border."""

    def __post_init__(self) -> None:
        if self.n_slots < 1:
            message = f"n_slots must be positive, got {self.n_slots}"
            raise ConfigError(message)
        if self.max_context < 4 * MAX_ADDED:
            message = f"max_context must be at least {4 * MAX_ADDED}, got {self.max_context}"
            raise ConfigError(message)


class _Prefix:
    """A prompt's context and how many of its rollouts still need it."""

    def __init__(self, prompt: Prompt, token_id: NDArray[np.int32], time_min: NDArray[np.int32]):
        self.prompt = prompt
        self.token_id = token_id
        self.time_min = time_min
        self.buffer = -1
        self.users = 0
        self.is_last_given = False


@dataclass(slots=True)
class _Path:
    """What a busy slot needs when it is cut or ends."""

    prefix: _Prefix
    rollout: int
    pool: int
    token_id: NDArray[np.int32]  # of the context when it was last prefilled
    time_min: NDArray[np.int32]
    n_drawn: int = 0  # tokens drawn before that
    shares_prefix: bool = True


class Engine:
    """Draws rollouts from a model under a grammar.

    Args:
        model: a `Model`, or anything that decodes as `Decoder` says.
        grammar: the tokenizer's tables.
        config: slots and context.

    Raises:
        ConfigError: model and grammar have different vocabularies.
    """

    def __init__(
        self, model: Model | Decoder, grammar: GrammarTables, config: EngineConfig | None = None
    ) -> None:
        self.config = config or EngineConfig()
        self.grammar = grammar
        self.decoder: Decoder = ModelDecoder(model) if isinstance(model, Model) else model
        n_tokens = len(grammar.token_class)
        if self.decoder.vocab_size != n_tokens:
            message = f"the model has {self.decoder.vocab_size} tokens, the grammar {n_tokens}"
            raise ConfigError(message)
        n_slots, max_context = self.config.n_slots, self.config.max_context
        # A slot's prefix and own tokens are one context, each with a page that is not full; and
        # one prefix may wait for its rollouts.
        self.decoder.open(
            2 * n_slots + 1, max_context, (n_slots + 1) * (max_context + 3 * PAGE_TOKENS)
        )

    def generate(self, prompts: Iterable[Prompt], params: SamplingParams) -> Iterator[Rollout]:
        """Yields rollouts as they end, in no promised order.

        Args:
            prompts: prefixes; their pairs (subject_id, prediction_time_us) differ.
            params: how tokens are drawn and what is summed up.

        Raises:
            ConfigError: a prompt without rollouts, or a deadline before its prediction time.
            DataError: two prompts of one subject and time; a prefix that the grammar refuses.
            NumericError: NaN logits or nothing to choose from; names step and row.
        """
        run = _Run(self, params)
        jobs = run.jobs(prompts)
        with one_thread():
            while run.fill(jobs):
                yield from run.step()


class _Run:
    """State of one call of `generate`: arrays over slots, and who sits in them."""

    def __init__(self, engine: Engine, params: SamplingParams) -> None:
        n_slots = engine.config.n_slots
        self.decoder, self.grammar = engine.decoder, engine.grammar
        self.max_context = engine.config.max_context
        self.sampler = params.sampler(engine.grammar, n_slots)
        self.pools = [(masked, stream_key(params.seed, name)) for masked, name in params.pools()]
        self.paths: list[_Path | None] = [None] * n_slots
        self.free_buffers = deque(range(n_slots, 2 * n_slots + 1))
        self.token = np.zeros(n_slots, np.int32)  # drawn, not yet in the cache
        self.time = np.zeros(n_slots, np.int32)
        self.start = np.zeros(n_slots, np.int32)
        self.places = np.zeros((n_slots, 4), np.int32)
        self.places[:, 2] = np.arange(n_slots)

    def jobs(self, prompts: Iterable[Prompt]) -> Iterator[tuple[_Prefix, int, int, int]]:
        """(prefix, masked set, key, rollout index) of every rollout, prompt by prompt."""
        seen: dict[tuple[int, int], int] = {}
        for row, prompt in enumerate(prompts):
            prompt.check(row)
            first = seen.setdefault((prompt.subject_id, prompt.prediction_time_us), row)
            if first != row:
                message = f"prompts {first} and {row} are of one subject and prediction time"
                raise DataError(message)
            prefix = _Prefix(prompt, *self.fitted(prompt.token_id, prompt.time_min, prompt, row))
            left = len(self.pools) * len(prompt.rollouts)
            for masked, key in self.pools:
                for rollout in prompt.rollouts:
                    left -= 1
                    prefix.is_last_given = left == 0
                    yield prefix, masked, key, rollout

    def fitted(
        self,
        token_id: NDArray[np.int32],
        time_min: NDArray[np.int32],
        prompt: Prompt,
        row: int = -1,
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The context itself, or its newest half where it is longer than `max_context`."""
        token_id, time_min = np.ascontiguousarray(token_id), np.ascontiguousarray(time_min)
        if row >= 0:
            refused = self.sampler.walk(token_id)
            if refused >= 0:
                message = f"prompt {row}: the grammar refuses its token at position {refused}"
                raise DataError(message)
        if len(token_id) <= self.max_context:
            return token_id, time_min
        return cut(
            token_id,
            time_min,
            grammar=self.grammar,
            origin_us=prompt.origin_us,
            keep=self.max_context // 2,
            accepts=lambda window: self.sampler.walk(window) < 0,
        )

    def fill(self, jobs: Iterator[tuple[_Prefix, int, int, int]]) -> bool:
        """Gives free slots their next rollout; False when nothing is left to run."""
        new: list[_Prefix] = []
        for slot, path in enumerate(self.paths):
            if path is not None:
                continue
            job = next(jobs, None)
            if job is None:
                break
            prefix, masked, key, rollout = job
            if prefix.buffer < 0:
                prefix.buffer = self.free_buffers.popleft()
                new.append(prefix)
            self.seat(slot, prefix, masked, key, rollout)
        self.prefill([(p.buffer, p.token_id[:-1], p.time_min[:-1]) for p in new])
        return any(path is not None for path in self.paths)

    def seat(self, slot: int, prefix: _Prefix, masked: int, key: int, rollout: int) -> None:
        prompt = prefix.prompt
        self.sampler.load(
            slot,
            np.ascontiguousarray(prompt.token_id),
            key=key,
            subject_id=prompt.subject_id,
            prediction_time_us=prompt.prediction_time_us,
            rollout=rollout,
            clock_min=int(prompt.time_min[-1]),
            prediction_min=-1 if prompt.prediction_min is None else prompt.prediction_min,
            deadline_min=-1 if prompt.deadline_min is None else prompt.deadline_min,
            masked_set=masked,
        )
        prefix.users += 1
        self.paths[slot] = _Path(prefix, rollout, masked, prefix.token_id, prefix.time_min)
        self.token[slot], self.time[slot] = prefix.token_id[-1], prefix.time_min[-1]
        self.start[slot] = prefix.time_min[0]
        self.places[slot] = (prefix.buffer, len(prefix.token_id) - 1, slot, 1)

    def prefill(self, parts: list[tuple[int, NDArray[np.int32], NDArray[np.int32]]]) -> None:
        """Takes whole contexts into their buffers, all their rows in one list of tiles."""
        parts = [part for part in parts if len(part[1])]
        if not parts:
            return
        lengths = [len(tokens) for _, tokens, _ in parts]
        places = np.zeros((sum(lengths), 4), np.int32)
        places[:, 2] = np.repeat([buffer for buffer, _, _ in parts], lengths)
        places[:, 3] = np.concatenate([np.arange(1, n + 1) for n in lengths])
        self.decoder.forward(
            np.concatenate([tokens for _, tokens, _ in parts]),
            np.concatenate([times for _, _, times in parts]),
            np.repeat([times[0] for _, _, times in parts], lengths).astype(np.int32),
            places,
            wants_logits=False,
        )

    def step(self) -> list[Rollout]:
        """One token for every busy slot; returns the rollouts that ended with it."""
        busy = np.array([i for i, path in enumerate(self.paths) if path is not None], np.int32)
        logits = self.decoder.forward(
            self.token[busy],
            self.time[busy],
            self.start[busy],
            self.places[busy],
            wants_logits=True,
        )
        assert logits is not None
        tokens, times, statuses = self.sampler.step(logits, busy)
        self.token[busy], self.time[busy] = tokens, times
        self.places[busy, 3] += 1
        ended = [
            self.finish(int(slot), int(s)) for slot, s in zip(busy, statuses, strict=True) if s
        ]
        lengths = self.places[busy, 1] + self.places[busy, 3]
        for slot in busy[(lengths > self.max_context) & (statuses == 0)]:
            self.recut(int(slot))
        return ended

    def finish(self, slot: int, status: int) -> Rollout:
        path = self.paths[slot]
        assert path is not None
        self.release(path)
        self.decoder.release(slot)
        self.paths[slot] = None
        prompt = path.prefix.prompt
        return Rollout(
            subject_id=prompt.subject_id,
            prediction_time_us=prompt.prediction_time_us,
            rollout=path.rollout,
            pool=path.pool,
            status=STATUSES[status],
            **self.sampler.arrays(slot),
        )

    def release(self, path: _Path) -> None:
        """Frees the prefix's buffer when no rollout needs it any more."""
        if not path.shares_prefix:
            return
        path.shares_prefix = False
        path.prefix.users -= 1
        if path.prefix.users == 0 and path.prefix.is_last_given:
            self.decoder.release(path.prefix.buffer)
            self.free_buffers.append(path.prefix.buffer)

    def recut(self, slot: int) -> None:
        """Cuts a full context and takes what stays into the slot's own buffer."""
        path = self.paths[slot]
        assert path is not None
        drawn = self.sampler.arrays(slot)
        token_id = np.concatenate([path.token_id, drawn["token_id"][path.n_drawn :]])
        time_min = np.concatenate([path.time_min, drawn["time_min"][path.n_drawn :]])
        path.token_id, path.time_min = self.fitted(token_id, time_min, path.prefix.prompt)
        path.n_drawn = len(drawn["token_id"])
        self.release(path)
        self.start[slot] = path.time_min[0]
        self.places[slot] = (slot, 0, slot, len(path.token_id))
        self.prefill([(slot, path.token_id[:-1], path.time_min[:-1])])
