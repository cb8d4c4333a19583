"""A unit's subjects drawn from the model: prompt, observation length, timeline, decoded events.

A subject's numbers are a function of (seed, subject) alone. Its timeline stops at the drawn end of
observation: what the model says beyond is dropped, and a visit still open is ended at its last
moment. Codes known to belong to one sex are barred from the other, whatever the training data held.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from chronoward.data import cdm
from chronoward.engine import Engine, EngineConfig, Prompt, SamplingParams
from chronoward.philox import hash64, uniforms
from chronoward.population import draw_observation_min, draw_prompts
from chronoward.schema import observation_schema
from chronoward.synthesize.concepts import Code
from chronoward.tokenizer import TokenBatch, TokenClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from chronoward.engine import Rollout
    from chronoward.model import Model
    from chronoward.tokenizer import GrammarTables, Tokenizer

US_PER_MIN = 60_000_000
STREAM = "synthesis"
_OPENING = (TokenClass.VISIT_START,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Where one synthetic life enters observation, and when it leaves it."""

    subject_id: int
    prompt: NDArray[np.int32]
    origin_us: int
    start_min: int
    deadline_min: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Unit:
    """What a unit of subjects became."""

    events: pa.Table
    """event_schema."""
    observation: pa.Table
    """observation_schema, one row a subject."""
    counts: dict[str, int]
    """How the timelines ended."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnTimelines:
    """Tokens of some synthetic subjects."""

    batch: TokenBatch
    value_u: NDArray[np.float64]
    """(T,) where in its bin each token's value lies."""
    observation: pa.Table
    """observation_schema, one row a subject."""
    counts: dict[str, int]
    """How the timelines ended."""


def code_list(tokenizer: Tokenizer) -> list[Code]:
    """The tokenizer's codes, one a (table, code)."""
    found: dict[tuple[str, str], Code] = {}
    for entry in tokenizer.codes:
        key = (entry.table, entry.code)
        earlier = found.get(key)
        found[key] = Code(
            table=entry.table,
            code=entry.code,
            description=entry.description,
            concept_id=entry.concept_id,
            vocabulary_id=entry.vocabulary_id,
            domain_id=entry.domain_id,
            concept_class_id=entry.concept_class_id,
            is_inpatient=entry.is_inpatient,
            has_values=bool(entry.n_bins or entry.texts) or (earlier or _NONE).has_values,
        )
    return list(found.values())


_NONE = Code(table="", code="")


def unit_concepts(tokenizer: Tokenizer) -> dict[str, int]:
    """UCUM concept of each unit that the tokenizer's codes have, where it is known."""
    from chronoward.data.units import concept_ids

    known = concept_ids()
    used = {entry.unit for entry in tokenizer.codes if entry.unit is not None}
    return {unit: known[unit] for unit in sorted(used) if unit in known}


def barred_by_sex(tokenizer: Tokenizer) -> GrammarTables:
    """The grammar with every code that is known to belong to one sex barred from the other."""
    grammar = tokenizer.grammar()
    sexes = cdm.sex_specific_concepts()
    mask = grammar.sex_mask.copy()
    for token, entry in enumerate(grammar.base_code.tolist()):
        sex = sexes.get(tokenizer.codes[entry].concept_id) if entry >= 0 else None
        if sex is not None:
            row = {"F": 2, "M": 1}[sex]  # barred from the other sex
            mask[row, token // 32] &= np.uint32(~np.uint32(1 << (token % 32)))
    return replace(grammar, sex_mask=mask)


class _Waiting(NamedTuple):
    """A unit of which some subjects are still being drawn."""

    starts: dict[int, Start]
    rollouts: dict[int, Rollout]


class Synthesizer:
    """Draws units from one model.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        profile: what `chronoward.population.profile` made of the training data.
        seed: names the random numbers.
        max_tokens: most tokens drawn for one subject.
        config: room of the engine; its own defaults where none is given.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        profile: Mapping[str, Any],
        *,
        seed: int,
        max_tokens: int,
        config: EngineConfig | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.profile = profile
        self.seed = seed
        self.grammar = barred_by_sex(tokenizer)
        self.engine = Engine(model, self.grammar, config)
        self.params = SamplingParams(seed=seed, stream=STREAM, max_new_tokens=max_tokens)

    def starts(self, subject_ids: Sequence[int]) -> dict[int, Start]:
        """Prompt, origin and observation length of each subject, whoever the others are."""
        width = len(self.profile["fields"]) + 1
        u = np.zeros((len(subject_ids), width + 4))
        for row, subject_id in enumerate(subject_ids):
            u[row] = uniforms(hash64(self.seed, STREAM, subject_id), width + 4)
        prompts = draw_prompts(self.profile, u[:, :width])
        lengths = draw_observation_min(self.profile, prompts, u[:, width + 3])
        found = {}
        for row, subject_id in enumerate(subject_ids):
            origin_us, start_min = self.tokenizer.start(prompts[row], u[row, width : width + 3])
            found[subject_id] = Start(
                subject_id=subject_id,
                prompt=prompts[row],
                origin_us=origin_us,
                start_min=start_min,
                deadline_min=min(start_min + int(lengths[row]), self.grammar.max_clock_min),
            )
        return found

    def unit(self, subject_ids: Sequence[int]) -> Unit:
        """Events and observation of some subjects, in order of their ids.

        Raises:
            NumericError: the model gave NaN, or nothing to choose from.
        """
        return self._decoded(self.timelines(subject_ids))

    def units(self, subjects: Iterable[Sequence[int]]) -> Iterator[tuple[int, Unit]]:
        """Places and contents of units of subjects, as they come to be whole.

        What stands in a unit is what `unit` gives. Rollouts of the next begin where those of one
        leave slots free, so that no unit ends with its longest lives alone.

        Raises:
            NumericError: the model gave NaN, or nothing to choose from.
        """
        waiting: dict[int, _Waiting] = {}  # by place
        place_of: dict[int, int] = {}  # by subject

        def prompts() -> Iterator[Prompt]:
            for place, subject_ids in enumerate(subjects):
                starts = self.starts(subject_ids)
                waiting[place] = _Waiting(starts, {})
                place_of.update(dict.fromkeys(subject_ids, place))
                yield from map(self._prompt, starts.values())

        for rollout in self.engine.generate(prompts(), self.params):
            place = place_of.pop(rollout.subject_id)
            starts, rollouts = waiting[place]
            rollouts[rollout.subject_id] = rollout
            if len(rollouts) == len(starts):
                del waiting[place]
                yield place, self._decoded(self._drawn(starts, rollouts))

    def _decoded(self, drawn: DrawnTimelines) -> Unit:
        return Unit(
            events=self.tokenizer.decode(drawn.batch, value_u=drawn.value_u),
            observation=drawn.observation,
            counts=drawn.counts,
        )

    def timelines(self, subject_ids: Sequence[int]) -> DrawnTimelines:
        """The tokens of some subjects, in order of their ids, up to the end of observation.

        Raises:
            NumericError: the model gave NaN, or nothing to choose from.
        """
        starts = self.starts(subject_ids)
        prompts = [self._prompt(start) for start in starts.values()]
        rollouts = {r.subject_id: r for r in self.engine.generate(prompts, self.params)}
        return self._drawn(starts, rollouts)

    def _drawn(self, starts: dict[int, Start], rollouts: dict[int, Rollout]) -> DrawnTimelines:
        """The subjects of `starts`, in its order."""
        kept = {s: self._kept(starts[s], rollouts[s]) for s in starts}
        batch = TokenBatch.from_timelines(
            [tokens for tokens, _, _, _ in kept.values()],
            [times for _, times, _, _ in kept.values()],
            subject_id=list(starts),
            origin_us=[start.origin_us for start in starts.values()],
        )
        value_u = np.concatenate([u for _, _, u, _ in kept.values()])
        ends = [start.origin_us + kept[s][3] * US_PER_MIN for s, start in starts.items()]
        return DrawnTimelines(
            batch=batch,
            value_u=value_u,
            observation=_periods(list(starts.values()), ends),
            counts=dict(sorted(Counter(r.status for r in rollouts.values()).items())),
        )

    def _prompt(self, start: Start) -> Prompt:
        return Prompt(
            subject_id=start.subject_id,
            prediction_time_us=start.origin_us + start.start_min * US_PER_MIN,
            token_id=start.prompt,
            time_min=np.full(len(start.prompt), start.start_min, np.int32),
            origin_us=start.origin_us,
            rollouts=range(1),
            deadline_min=start.deadline_min,
        )

    def _kept(
        self, start: Start, rollout: Rollout
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64], int]:
        """Tokens, clock and value uniforms up to the end of observation, and that end.

        A timeline that ran out of tokens ends its observation there: nothing is known beyond.
        """
        n = int(np.searchsorted(rollout.time_min, start.deadline_min, side="right"))
        classes = self.grammar.token_class[rollout.token_id]
        while n and (self.grammar.is_moving[rollout.token_id[n - 1]] or classes[n - 1] in _OPENING):
            n -= 1
        end_min = start.deadline_min
        if rollout.status in ("token_cap", "death", "end"):
            end_min = int(rollout.time_min[n - 1]) if n else start.start_min
        prompt_times = np.full(len(start.prompt), start.start_min, np.int32)
        return (
            np.concatenate([start.prompt, rollout.token_id[:n]]),
            np.concatenate([prompt_times, rollout.time_min[:n]]),
            np.concatenate([np.full(len(start.prompt), 0.5), rollout.value_u[:n]]),
            end_min,
        )


def _periods(starts: list[Start], ends: list[int]) -> pa.Table:
    time = pa.timestamp("us")
    begun = [start.origin_us + start.start_min * US_PER_MIN for start in starts]
    return pa.Table.from_arrays(
        [
            pa.array([start.subject_id for start in starts], pa.int64()),
            pa.array(begun, pa.int64()).cast(time),
            pa.array(ends, pa.int64()).cast(time),
        ],
        schema=observation_schema(),
    )
