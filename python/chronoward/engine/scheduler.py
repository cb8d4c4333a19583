"""Who sits in which slot: continuous batching over a fixed number of slots.

A slot whose rollout ends is given the next one before the following step. A prefix is prefilled
once, into a buffer of its own, which all its rollouts read and the last of them gives back; a slot
holds what its rollout has drawn since. A context that is full is cut and prefilled into the slot.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chronoward.engine.admission import Admission, Job, Prefix
from chronoward.engine.decode import StepRows
from chronoward.engine.rollout import STATUSES, Prompt, Rollout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from chronoward.engine.decode import Decoder
    from chronoward.engine.sampling import SamplingParams
    from chronoward.engine.statistics import EngineStatistics
    from chronoward.tokenizer.grammar import GrammarTables

STEPS_A_CALL = 64  # of the core: how long Ctrl-C may wait


@dataclass(slots=True)
class _Path:
    """What a busy slot needs when it is cut or ends."""

    prefix: Prefix
    rollout: int
    pool: int
    token_id: NDArray[np.int32]  # of the context when it was last prefilled
    time_min: NDArray[np.int32]
    n_drawn: int = 0  # tokens drawn before that
    shares_prefix: bool = True


class Scheduler:
    """State of one call of `Engine.generate`: arrays over slots, and who sits in them.

    Args:
        decoder: opened for 2 · n_slots + 1 buffers; those from n_slots on hold prefixes.
        grammar: the tokenizer's tables.
        params: how tokens are drawn.
        max_context: tokens after which a context is cut.
        statistics: counts to keep; its `n_slots` is the number of slots.
    """

    def __init__(
        self,
        decoder: Decoder,
        grammar: GrammarTables,
        params: SamplingParams,
        *,
        max_context: int,
        statistics: EngineStatistics,
    ) -> None:
        n_slots = statistics.n_slots
        self.decoder, self.grammar, self.statistics = decoder, grammar, statistics
        self.max_context = max_context
        self.sampler = params.sampler(grammar, n_slots)
        self.admission = Admission(
            grammar, params, self.sampler, max_context=max_context, statistics=statistics
        )
        self.paths: list[_Path | None] = [None] * n_slots
        self.free_slots = list(range(n_slots))
        self.busy = np.zeros(0, np.int32)  # ascending
        self.steps_to_full = max_context  # at least so many, the longest may have ended
        self.free_buffers = deque(range(n_slots, 2 * n_slots + 1))
        self.all_rows = StepRows(
            token_id=np.zeros(n_slots, np.int32),
            time_min=np.zeros(n_slots, np.int32),
            start_min=np.zeros(n_slots, np.int32),
            places=np.zeros((n_slots, 4), np.int32),
        )
        self.all_rows.places[:, 2] = np.arange(n_slots)
        self._gather()

    def _gather(self) -> None:
        """Takes what steps read of the busy slots out of the arrays over all slots, or these where
        no slot is free."""
        rows = self.busy
        self.rows = self.all_rows
        if len(rows) < len(self.paths):
            self.rows = StepRows(*(x[rows] for x in self.all_rows))

    def _spread(self) -> None:
        """Puts it back, as the steps have left it."""
        if self.rows is not self.all_rows:
            for kept, now in zip(self.all_rows, self.rows, strict=True):
                kept[self.busy] = now

    def fill(self, jobs: Iterator[Job]) -> bool:
        """Gives free slots their next rollout; False when nothing is left to run."""
        self._spread()
        new: list[Prefix] = []
        while self.free_slots:
            job = next(jobs, None)
            if job is None:
                break
            if job.prefix.buffer < 0:
                job.prefix.buffer = self.free_buffers.popleft()
                new.append(job.prefix)
            self._seat(self.free_slots.pop(), job)
        self._prefill([(p.buffer, p.token_id[:-1], p.time_min[:-1]) for p in new])
        if self.free_slots or len(self.busy) < len(self.paths):
            self.busy = np.array([i for i, p in enumerate(self.paths) if p is not None], np.int32)
        self._gather()
        return len(self.busy) > 0

    def _seat(self, slot: int, job: Job) -> None:
        prefix, prompt = job.prefix, job.prefix.prompt
        self.sampler.load(
            slot,
            np.ascontiguousarray(prompt.token_id),
            key=job.key,
            subject_id=prompt.subject_id,
            prediction_time_us=prompt.prediction_time_us,
            rollout=job.rollout,
            clock_min=int(prompt.time_min[-1]),
            prediction_min=-1 if prompt.prediction_min is None else prompt.prediction_min,
            deadline_min=-1 if prompt.deadline_min is None else prompt.deadline_min,
            masked_set=job.masked,
        )
        self.paths[slot] = _Path(prefix, job.rollout, job.masked, prefix.token_id, prefix.time_min)
        rows = self.all_rows
        rows.token_id[slot], rows.time_min[slot] = prefix.token_id[-1], prefix.time_min[-1]
        rows.start_min[slot] = prefix.time_min[0]
        rows.places[slot] = (prefix.buffer, len(prefix.token_id) - 1, slot, 1)
        self.steps_to_full = min(self.steps_to_full, self.max_context - len(prefix.token_id))

    def _prefill(self, parts: list[tuple[int, NDArray[np.int32], NDArray[np.int32]]]) -> None:
        """Takes whole contexts into their buffers, all their rows in one list."""
        parts = [part for part in parts if len(part[1])]
        if not parts:
            return
        lengths = [len(tokens) for _, tokens, _ in parts]
        self.statistics.prefilled_tokens += sum(lengths)
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

    def run(self, prompts: Iterable[Prompt]) -> Iterator[Rollout]:
        """Steps until no rollout is left, refilling slots; yields rollouts as they end."""
        jobs = self.admission.jobs(prompts)
        while self.fill(jobs):
            ended: list[Rollout] = []
            while not ended:
                ended = self.steps()
            yield from ended

    def steps(self) -> list[Rollout]:
        """Tokens for every busy slot until a rollout ends, a context is full or a while has passed.

        Returns:
            The rollouts that ended with the last step.
        """
        busy, counts = self.busy, self.statistics
        n_steps, statuses = self.decoder.steps(
            self.sampler, busy, self.rows, min(self.steps_to_full + 1, STEPS_A_CALL)
        )
        counts.steps += n_steps
        counts.drawn += n_steps * len(busy)
        self.steps_to_full -= n_steps
        if self.steps_to_full < 0:
            self._recut_full(statuses)
        ended = np.flatnonzero(statuses)
        if len(ended):
            counts.peak_cache_bytes = max(counts.peak_cache_bytes, self.decoder.cache_bytes)
        return [self._finish(int(busy[row]), int(statuses[row])) for row in ended]

    def _finish(self, slot: int, status: int) -> Rollout:
        path = self.paths[slot]
        assert path is not None
        self._release(path)
        self.decoder.release(slot)
        self.paths[slot] = None
        self.free_slots.append(slot)
        prompt = path.prefix.prompt
        rollout = Rollout(
            subject_id=prompt.subject_id,
            prediction_time_us=prompt.prediction_time_us,
            rollout=path.rollout,
            pool=path.pool,
            status=STATUSES[status],
            **self.sampler.arrays(slot),
        )
        self.statistics.rollouts += 1
        self.statistics.tokens += len(rollout.token_id)
        return rollout

    def _release(self, path: _Path) -> None:
        """Frees the prefix's buffer when no rollout needs it any more."""
        if not path.shares_prefix:
            return
        path.shares_prefix = False
        path.prefix.users -= 1
        if path.prefix.users == 0 and path.prefix.is_last_given:
            self.decoder.release(path.prefix.buffer)
            self.free_buffers.append(path.prefix.buffer)

    def _recut_full(self, statuses: NDArray[np.uint8]) -> None:
        """Cuts the contexts that are full, and looks when the next one is."""
        places = self.rows.places
        is_full = places[:, 1] + places[:, 3] > self.max_context
        self._spread()
        goes_on = statuses == 0
        for slot in self.busy[is_full & goes_on]:
            self._recut(int(slot))
        self._gather()
        places = self.rows.places
        lengths = (places[:, 1] + places[:, 3])[goes_on]
        self.steps_to_full = self.max_context - int(lengths.max(initial=0))

    def _recut(self, slot: int) -> None:
        """Cuts a full context and takes what stays into the slot's own buffer."""
        path = self.paths[slot]
        assert path is not None
        self.statistics.cut_contexts += 1
        drawn = self.sampler.arrays(slot)
        token_id = np.concatenate([path.token_id, drawn["token_id"][path.n_drawn :]])
        time_min = np.concatenate([path.time_min, drawn["time_min"][path.n_drawn :]])
        path.token_id, path.time_min = self.admission.fitted(token_id, time_min, path.prefix.prompt)
        path.n_drawn = len(drawn["token_id"])
        self._release(path)
        self.decoder.release(slot)
        self.all_rows.start_min[slot] = path.time_min[0]
        self.all_rows.places[slot] = (slot, 0, slot, len(path.token_id))
        self._prefill([(slot, path.token_id[:-1], path.time_min[:-1])])
