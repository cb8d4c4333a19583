"""Host side of rollouts on a device: hands out jobs ahead, and reads what was drawn behind.

The device takes jobs from its queue by itself, so the host is in no step: while the device is at
some steps, the host reads what was drawn in those before, makes rollouts of it, prefills prefixes
and fills the queue. A rollout whose context is full comes back, is cut, and waits for a row again
like any other: what it draws does not depend on which row that is, or when.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward import philox
from chronoward.engine.admission import Admission, Prefix
from chronoward.engine.device import Job
from chronoward.engine.device_prefill import Context
from chronoward.engine.device_room import PrefixPlaces
from chronoward.engine.rollout import STATUSES, Prompt, Rollout
from chronoward.errors import NumericError
from chronoward.kernels.sample import FAULTS, Fault, Rule, Status, make_tables
from chronoward.tokenizer.grammar import TokenClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from chronoward import _core
    from chronoward.engine import admission
    from chronoward.engine.device import DeviceRollouts, Told
    from chronoward.engine.device_room import PrefixPlace
    from chronoward.engine.sampling import SamplingParams
    from chronoward.engine.statistics import EngineStatistics
    from chronoward.tokenizer.grammar import GrammarTables


@dataclass(eq=False, slots=True)
class _Life:
    """A rollout from its admission to its end."""

    job: admission.Job
    context: Prefix  # what was prefilled last: the prompt's prefix, or what a cut left
    line: list[int]  # of its row when that context was taken, without masked set and rollout
    parts: list[NDArray[Any]] = field(default_factory=list)  # its steps, as they were read
    n_drawn: int = 0
    n_before: int = 0  # tokens drawn before its context was prefilled


class GrammarPlaces:
    """Where runs of tokens lead in the grammar.

    Args:
        grammar: the tokenizer's tables.
    """

    def __init__(self, grammar: GrammarTables) -> None:
        self._next: list[list[int]] = grammar.next_state.tolist()
        self._class, self._sex = grammar.token_class, grammar.token_sex
        self.start = grammar.start_state

    def after(self, token_id: NDArray[np.int32], state: int, sex: int) -> tuple[int, int, int, int]:
        """State, sex, last class and last token after tokens that the grammar takes, n ≥ 1."""
        classes = self._class[token_id]
        for token_class in classes.tolist():
            state = self._next[state][token_class]
        sexes = token_id[classes == TokenClass.SEX]
        if len(sexes):
            sex = int(self._sex[sexes[-1]])
        return state, sex, int(classes[-1]), int(token_id[-1])


def device_rule(grammar: GrammarTables, params: SamplingParams) -> Rule:
    """How a device draws under these parameters."""
    return Rule(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        max_new_tokens=params.max_new_tokens,
        max_clock_min=grammar.max_clock_min,
        codes_ascend=grammar.codes_ascend,
    )


def use(device: DeviceRollouts, grammar: GrammarTables, params: SamplingParams) -> None:
    """Makes a device draw under these parameters; nothing is made again where it does already.

    Raises:
        ConfigError: more than 64 outcome sets, or an unknown token in one.
    """
    rule = device_rule(grammar, params)
    purpose = (rule, params.forbid_end, tuple(x.tobytes() for x in params.outcome_sets))
    if device.purpose == purpose:
        device.reset()
        return
    tables = make_tables(
        grammar,
        outcome_sets=[x.tolist() for x in params.outcome_sets],
        forbid_end=params.forbid_end,
        device=device.device,
    )
    device.use(tables, rule)
    device.purpose = purpose


class DeviceScheduler:
    """State of one call of `Engine.generate` on a device.

    Args:
        device: its rows; whoever sits there leaves.
        grammar: the tokenizer's tables.
        params: how tokens are drawn.
        statistics: counts to keep.
    """

    def __init__(
        self,
        device: DeviceRollouts,
        grammar: GrammarTables,
        params: SamplingParams,
        *,
        statistics: EngineStatistics,
    ) -> None:
        max_context = device.room.max_context
        assert max_context is not None
        self.device, self.grammar, self.statistics = device, grammar, statistics
        self.sampler: _core.Sampler = params.sampler(grammar, 1)  # checks prompts, draws nothing
        use(device, grammar, params)
        self.admission = Admission(
            grammar, params, self.sampler, max_context=max_context, statistics=statistics
        )
        self.grammar_places = GrammarPlaces(grammar)
        self.free = PrefixPlaces(device.room)
        self.places: dict[int, PrefixPlace] = {}  # by number
        self.lines: dict[int, list[int]] = {}  # first line of rows of a prompt, by number
        self.lives: dict[int, _Life] = {}  # in the device's hands, by number of the job
        self.cut: deque[_Life] = deque()  # that wait for a place, before any new one
        self.held: admission.Job | None = None  # asked for, without a place
        self.n_taken = 0  # jobs that have had a row
        n_sets = len(params.outcome_sets)
        self.step_type = np.dtype(
            [("token", np.int32), ("time_min", np.int32), ("status", np.int32),
             ("step_min", np.int32), ("log_p", np.float32), ("value_u", np.float64),
             ("outcome_p", np.float32, (n_sets,))]
        )  # fmt: skip

    def run(self, prompts: Iterable[Prompt]) -> Iterator[Rollout]:
        """Steps until no rollout is left; yields rollouts as they are seen to have ended."""
        jobs = self.admission.jobs(prompts)
        self.statistics.peak_cache_bytes = self.device.cache_bytes
        before: Told | None = None
        self._admit(jobs)
        while self.lives:
            told = self.device.launch()
            if before is not None:
                yield from self._collect(before)
                self._admit(jobs)
            before = told
        assert not self.cut, "an empty device has room for a context that was cut"
        assert self.held is None, "an empty device has room for a prompt"

    def _admit(self, jobs: Iterator[admission.Job]) -> None:
        """Prefills and queues what there is room for: contexts that were cut, then new ones."""
        new: list[Context] = []
        pushed: list[Job] = []
        while self.device.n_pushed + len(pushed) - self.n_taken < self.device.room.n_queued:
            life = self._next(jobs, new)
            if life is None:
                break
            self.lives[self.device.n_pushed + len(pushed)] = life
            pushed.append(self._device_job(life))
        self.device.prefill(new)
        self.device.push(pushed)

    def _next(self, jobs: Iterator[admission.Job], new: list[Context]) -> _Life | None:
        """The next life whose context has a place; contexts that need a prefill go to `new`."""
        if self.cut:
            if not self._seat(self.cut[0].context, new):
                return None
            return self.cut.popleft()
        job = next(jobs, None) if self.held is None else self.held
        self.held = job
        if job is None or not self._seat(job.prefix, new):
            return None
        self.held = None
        return _Life(job, job.prefix, self._first_line(job.prefix))

    def _seat(self, context: Prefix, new: list[Context]) -> bool:
        """Whether a context has a place now."""
        if context.buffer >= 0:
            return True
        place = self.free.take(len(context.token_id) - 1)
        if place is None:
            return False
        context.buffer = place.number
        self.places[place.number] = place
        self.statistics.prefilled_tokens += len(context.token_id) - 1
        new.append(Context(place, context.token_id[:-1], context.time_min[:-1]))
        return True

    def _release(self, context: Prefix) -> None:
        """Frees a context's place when no rollout needs it any more."""
        context.users -= 1
        if context.users == 0 and context.is_last_given:
            self.lines.pop(context.buffer, None)
            self.free.give(self.places.pop(context.buffer))

    def _first_line(self, prefix: Prefix) -> list[int]:
        """What the rows of a prompt begin with, in the order of `Column` up to the deadline."""
        line = self.lines.get(prefix.buffer)
        if line is None:
            prompt = prefix.prompt
            self.sampler.load(  # refuses a prompt that has ended
                0, np.ascontiguousarray(prompt.token_id), key=0, subject_id=prompt.subject_id,
                prediction_time_us=prompt.prediction_time_us, rollout=0,
                clock_min=int(prompt.time_min[-1]), prediction_min=-1, deadline_min=-1,
                masked_set=-1,
            )  # fmt: skip
            place = self.grammar_places.after(prompt.token_id, self.grammar_places.start, 0)
            line = self._line(prompt, place, int(prompt.time_min[-1]), 0)
            self.lines[prefix.buffer] = line
        return line

    @staticmethod
    def _line(prompt: Prompt, place: tuple[int, ...], clock: int, step: int) -> list[int]:
        prediction = -1 if prompt.prediction_min is None else prompt.prediction_min
        deadline = -1 if prompt.deadline_min is None else prompt.deadline_min
        return [*place, clock, step, prediction, deadline]

    @staticmethod
    def _device_job(life: _Life) -> Job:
        job, context, prompt = life.job, life.context, life.context.prompt
        subject = philox.hash64(prompt.subject_id, prompt.prediction_time_us)
        key, who = np.array([job.key, subject], np.uint64).view(np.int64).tolist()
        return Job(
            slot=[*life.line, job.masked, job.rollout, Status.RUNNING, Fault.NONE],
            key=(key, who),
            prefix=context.buffer,
            token=int(context.token_id[-1]),
            start_min=int(context.time_min[0]),
        )

    def _collect(self, told: Told) -> list[Rollout]:
        """Takes steps in; the rollouts that ended with them, those that are full go to `cut`.

        Raises:
            NumericError: a row could not go on.
        """
        steps = told.read()
        # A job is in one row, its steps one after the other: they are pieces of the rows laid end
        # to end.
        is_drawn = steps["job"].T >= 0
        job = steps["job"].T[is_drawn]
        counts = self.statistics
        counts.steps += len(steps["job"])
        if not len(job):
            return []
        self.n_taken = max(self.n_taken, int(job.max()) + 1)
        if steps["fault"].any():
            self._fail(steps)
        found = np.empty(len(job), self.step_type)
        for name in self.step_type.names or ():
            found[name] = np.swapaxes(steps[name], 0, 1)[is_drawn]
        counts.drawn += int((found["step_min"] >= 0).sum())
        bounds = [0, *(np.flatnonzero(np.diff(job)) + 1).tolist(), len(job)]
        ended = []
        for first, last in pairwise(bounds):
            number, status = int(job[first]), int(found["status"][last - 1])
            life = self.lives[number]
            life.parts.append(found[first:last])
            life.n_drawn += last - first
            if status == Status.RUNNING:
                continue
            del self.lives[number]
            if status == Status.FULL:
                self._recut(life)
            else:
                ended.append(self._finish(life, status))
        return ended

    def _fail(self, steps: dict[str, NDArray[Any]]) -> None:
        """Raises for the first row, by step, that could not go on."""
        is_fault = (steps["fault"] != Fault.NONE) & (steps["job"] >= 0)
        for step, row in np.argwhere(is_fault).tolist():
            job = steps["job"][: step + 1, row]
            life = self.lives[int(job[-1])]
            n_drawn = life.n_drawn + int((job == job[-1]).sum()) - 1
            what = FAULTS[int(steps["fault"][step, row])]
            message = f"{what} at step {n_drawn}, slot {row}"
            raise NumericError(message)

    def _recut(self, life: _Life) -> None:
        """Cuts a full context: what stays waits for a place and a row of its own."""
        self.statistics.cut_contexts += 1
        context, prompt = life.context, life.context.prompt
        drawn = np.concatenate(life.parts)
        life.parts = [drawn]
        new = drawn[life.n_before :]
        token_id = np.concatenate([context.token_id, new["token"]])
        time_min = np.concatenate([context.time_min, new["time_min"]])
        place = self.grammar_places.after(new["token"], *life.line[:2])
        life.line = self._line(prompt, place, int(time_min[-1]), life.n_drawn)
        life.n_before = life.n_drawn
        life.context = Prefix(prompt, *self.admission.fitted(token_id, time_min, prompt))
        life.context.users, life.context.is_last_given = 1, True
        self._release(context)
        self.cut.append(life)

    def _finish(self, life: _Life, status: int) -> Rollout:
        self._release(life.context)
        steps = np.concatenate(life.parts)
        steps = steps[steps["step_min"] >= 0]  # where there was nothing to draw from
        drawn = steps[steps["status"] != Status.OUTCOME]
        prompt = life.context.prompt
        self.statistics.rollouts += 1
        self.statistics.tokens += len(drawn)
        return Rollout(
            subject_id=prompt.subject_id,
            prediction_time_us=prompt.prediction_time_us,
            rollout=life.job.rollout,
            pool=life.job.masked,
            status=STATUSES[status],
            token_id=drawn["token"].copy(),
            time_min=drawn["time_min"].copy(),
            log_p=drawn["log_p"].copy(),
            value_u=drawn["value_u"].copy(),
            step_min=steps["step_min"].copy(),
            outcome_p=steps["outcome_p"].copy(),
        )
