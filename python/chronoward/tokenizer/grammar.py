"""The grammar as plain arrays: what may follow, how the clock moves, how a prompt is re-derived.

`GrammarTables` is all that an engine or a packer needs; it knows token ids and classes, not codes.
Two classes stand behind DESIGN's list, because legality is decided by class: `gap_repeat` (ETHOS's
=6mt, the only gap that may repeat) and `flat_visit_type` (preset cehr: visits without inner time).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from chronoward import _core
from chronoward.errors import DataError
from chronoward.tokenizer.time_scheme import DAY_MIN, HOUR_MIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from chronoward.tokenizer.batch import TokenBatch
    from chronoward.tokenizer.spec import TokenizerSpec

N_KNOTS: Final = 33  # quantile functions: even grid of u, linear in between
US_PER_MIN: Final = 60_000_000
US_PER_DAY: Final = 86_400_000_000


class TokenClass(IntEnum):
    """What a token is; the order is the order of token ids."""

    PAD = 0
    END = 1
    YEAR = 2
    AGE = 3
    SEX = 4
    RACE = 5
    CONTINUED = 6
    VISIT_START = 7
    VISIT_TYPE = 8
    DETAIL_START = 9
    DETAIL_END = 10
    VISIT_END = 11
    DISCHARGE = 12
    GAP = 13
    INPATIENT_GAP = 14
    INPATIENT_HOUR = 15
    CODE = 16
    VALUE = 17
    DEATH = 18
    GAP_REPEAT = 19
    FLAT_VISIT_TYPE = 20


class DurationRule(IntEnum):
    """How a token moves the clock."""

    NONE = 0
    QUANTILE = 1  # clock += duration drawn from the quantile function
    CALENDAR_DAY = 2  # n > 0: clock = midnight(clock) + n days; n = 0: unchanged
    HOUR = 3  # after a visit type or inpatient_gap: max(clock, midnight + h); else clock += h hours


_PROMPT_CLASS: Final = {
    "year": TokenClass.YEAR,
    "age": TokenClass.AGE,
    "sex": TokenClass.SEX,
    "race": TokenClass.RACE,
}
_C = TokenClass
_Row = dict[TokenClass, str]  # class -> next state

_NEXT_MOMENT: Final[_Row] = {
    _C.CODE: "moment",
    _C.GAP: "gap",
    _C.GAP_REPEAT: "gap_repeat",
    _C.DEATH: "dead",
    _C.END: "done",
}
# state -> class -> next state; prompt states are put in front by `make_automaton`
_EVENTS: Final[dict[str, _Row]] = {
    "start": {_C.CONTINUED: "continued", **_NEXT_MOMENT},
    "continued": _NEXT_MOMENT,
    "moment": {_C.VALUE: "valued", **_NEXT_MOMENT},
    "valued": _NEXT_MOMENT,
    "gap": {_C.CODE: "moment", _C.DEATH: "dead"},
    "gap_repeat": {_C.GAP_REPEAT: "gap_repeat", _C.CODE: "moment", _C.DEATH: "dead"},
    "dead": {_C.END: "done"},
    "done": {},
}


def _visit_states(*, details: bool) -> dict[str, _Row]:
    """States of a visit in preset compact; `value` is legal right after its code only."""
    inside: _Row = {
        _C.CODE: "code",
        _C.INPATIENT_GAP: "inner_gap",
        _C.DISCHARGE: "discharged",
        _C.VISIT_END: "after_visit",
    }
    if details:
        inside[_C.DETAIL_START] = "detail"
    moved: _Row = {
        c: s for c, s in inside.items() if c != _C.INPATIENT_GAP
    }  # two moves are one move
    states: dict[str, _Row] = {
        "visit": {_C.VISIT_TYPE: "typed"},
        "typed": inside,
        "code": {**inside, _C.VALUE: "typed"},
        "inner_gap": moved,
        "discharged": {_C.VISIT_END: "after_visit"},
    }
    if details:
        in_detail: _Row = {
            _C.CODE: "detail_code",
            _C.INPATIENT_GAP: "detail_gap",
            _C.DETAIL_END: "typed",
        }
        states["detail"] = in_detail
        states["detail_code"] = {**in_detail, _C.VALUE: "detail"}
        states["detail_gap"] = {_C.CODE: "detail_code", _C.DETAIL_END: "typed"}
    return states


def _visit_grammar(spec: TokenizerSpec) -> dict[str, _Row]:
    is_cehr = spec.preset == "cehr"
    death: _Row = {} if is_cehr else {_C.DEATH: "dead"}
    gaps: _Row = {_C.GAP: "gap", _C.GAP_REPEAT: "gap_repeat"}
    wait: _Row = gaps if spec.waits_from_observation else {}
    states: dict[str, _Row] = {
        "start": {
            _C.CONTINUED: "continued",
            _C.VISIT_START: "visit",
            **wait,
            **death,
            _C.END: "done",
        },
        "continued": {_C.VISIT_START: "visit", **gaps, **death, _C.END: "done"},
        "after_visit": {**gaps, _C.END: "done"},
        "gap": {_C.VISIT_START: "visit", **death},
        "gap_repeat": {_C.GAP_REPEAT: "gap_repeat", _C.VISIT_START: "visit", **death},
        **_visit_states(details=bool(spec.details)),
        "dead": {_C.END: "done"},
        "done": {},
    }
    if is_cehr:
        states["visit"] = {
            _C.VISIT_TYPE: "opened",
            _C.FLAT_VISIT_TYPE: "flat_opened",
            _C.DEATH: "dying",
        }
        states["dying"] = {_C.VISIT_END: "dead"}
        # a visit without codes is not told
        states["opened"] = {_C.CODE: "code", _C.INPATIENT_GAP: "early_gap"}
        states["early_gap"] = {_C.CODE: "code"}
        states["flat_opened"] = {_C.CODE: "flat_code"}
        states["flat"] = {_C.CODE: "flat_code", _C.VISIT_END: "after_visit"}
        states["flat_code"] = {**states["flat"], _C.VALUE: "flat"}
        # an inpatient stay always says where the patient went
        for name in ("typed", "code", "inner_gap"):
            states[name] = {c: s for c, s in states[name].items() if c != _C.VISIT_END}
    if spec.hour_tokens:
        without_hour: _Row = {c: s for c, s in states["typed"].items() if c != _C.INPATIENT_HOUR}
        states["hour"] = {c: s for c, s in without_hour.items() if c != _C.INPATIENT_GAP}
        states["first_hour"] = {**states["opened"], _C.INPATIENT_HOUR: "early_hour"}
        states["opened"] = {**states["opened"], _C.INPATIENT_HOUR: "first_hour"}
        states["early_gap"] = {**states["early_gap"], _C.INPATIENT_HOUR: "early_hour"}
        states["early_hour"] = {_C.CODE: "code"}
        states["typed"] = {**states["typed"], _C.INPATIENT_HOUR: "hour"}
        states["code"] = {**states["code"], _C.INPATIENT_HOUR: "hour"}
        states["inner_gap"] = {**states["inner_gap"], _C.INPATIENT_HOUR: "hour"}
    return states


def make_automaton(spec: TokenizerSpec) -> tuple[list[str], NDArray[np.int8]]:
    """The states of a preset and `next_state` int8 (S, C), -1 where a class is refused.

    State 0 is where a timeline starts.
    """
    body = _EVENTS if spec.preset == "events" else _visit_grammar(spec)
    states: dict[str, _Row] = {}
    names = [f"prompt_{name}" for name in spec.prompt_fields]
    for i, name in enumerate(spec.prompt_fields):
        following = names[i + 1] if i + 1 < len(names) else "start"
        states[names[i]] = {_PROMPT_CLASS[name]: following}
    states.update(body)
    index = {name: i for i, name in enumerate(states)}
    table = np.full((len(states), len(TokenClass)), -1, np.int8)
    for name, row in states.items():
        for token_class, following in row.items():
            table[index[name], token_class] = index[following]
    return list(states), table


def pack_bits(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Rows of booleans as words: bit v % 32 of word v // 32 (zero beyond the vocabulary)."""
    n_words = -(-mask.shape[1] // 32)
    padded = np.zeros((mask.shape[0], n_words * 32), np.bool_)
    padded[:, : mask.shape[1]] = mask
    packed = np.packbits(padded, axis=1, bitorder="little")
    return packed.view("<u4").astype(np.uint32)


@dataclass(frozen=True, eq=False)
class GrammarTables:
    """NumPy arrays over V tokens, S states, C classes, W = ceil(V / 32) words; times in minutes.

    Attributes:
        token_class: uint8 (V,), `TokenClass`.
        next_state: int8 (S, C), -1 = refused.
        start_state: state before the first token.
        state_names: one a state, for messages.
        state_mask: uint32 (S, W), bit v % 32 of word v // 32: token v may be drawn in the state
            (`continued` never: next_state accepts it, cuts put it there).
        sex_mask: uint32 (3, W), tokens legal for sex 0 unknown, 1 F, 2 M.
        token_sex: uint8 (V,), what a sex token says (0 for all others).
        duration_rule: uint8 (V,), `DurationRule`.
        duration_q: int32 (V, 33), quantile function of the duration on an even grid of u, linear in
            between, rounded half up; rules 2 and 3 hold n (days, hours) in every column.
        duration_lo: int32 (V,), bucket's lower edge in minutes (rule 2: from midnight).
        duration_hi: int32 (V,), bucket's upper edge, exclusive.
        base_code: int32 (V,), index of the code entry, -1 for structural tokens.
        is_moving: bool (V,), duration tokens.
        max_clock_min: the clock may not pass this.
        pad_id: id of `pad`.
        end_id: id of `end`.
        continued_id: id of `continued`.
        prompt_classes: uint8 (P,), classes of the prompt in order.
        year_first: year of year_token[0]; 0 without years.
        year_token: int32 (Y,), token of each year from year_first on (rare years: the nearest).
        age_edge_min: int32 (A,), lower edges of the age bands, ascending from 0.
        age_token: int32 (A,), token of each band; empty without ages.
        age_unknown_id: token of an unknown age, -1 without ages.
        is_calendar: gaps count dates, not elapsed minutes.
        days_are_visits: n_prior counts days, not visits (preset events).
        codes_ascend: a code that follows a code has a larger id: codes of one moment lie in
            canonical order, each once. The sampler draws nothing else.
    """

    token_class: NDArray[np.uint8]
    next_state: NDArray[np.int8]
    start_state: int
    state_names: tuple[str, ...]
    state_mask: NDArray[np.uint32]
    sex_mask: NDArray[np.uint32]
    token_sex: NDArray[np.uint8]
    duration_rule: NDArray[np.uint8]
    duration_q: NDArray[np.int32]
    duration_lo: NDArray[np.int32]
    duration_hi: NDArray[np.int32]
    base_code: NDArray[np.int32]
    is_moving: NDArray[np.bool_]
    max_clock_min: int
    pad_id: int
    end_id: int
    continued_id: int
    prompt_classes: NDArray[np.uint8]
    year_first: int
    year_token: NDArray[np.int32]
    age_edge_min: NDArray[np.int32]
    age_token: NDArray[np.int32]
    age_unknown_id: int
    is_calendar: bool
    days_are_visits: bool
    codes_ascend: bool

    @property
    def vocab_size(self) -> int:
        """Number of tokens, V."""
        return len(self.token_class)

    def legal(self, state: int, sex: int = 0) -> NDArray[np.bool_]:
        """bool (V,): tokens legal in a state for a sex (0 unknown, 1 F, 2 M)."""
        words = self.state_mask[state] & self.sex_mask[sex]
        bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
        return bits[: self.vocab_size].astype(np.bool_)

    def following(self, state: int, token_id: int) -> int:
        """State after a token, -1 where the token is refused."""
        return int(self.next_state[state, self.token_class[token_id]])

    def run(self, token_id: ArrayLike) -> int:
        """State after a whole prefix from the start.

        Raises:
            DataError: the grammar refuses a token (the message names its position).
        """
        state = self.start_state
        for position, token in enumerate(np.asarray(token_id, np.int64)):
            following = self.following(state, int(token))
            if following < 0:
                name = TokenClass(int(self.token_class[token])).name.lower()
                message = f"token {position} ({name}) may not follow in {self.state_names[state]}"
                raise DataError(message)
            state = following
        return state

    def duration(self, token_id: int, u: float) -> int:
        """A draw of the token's duration (minutes for rule 1, days or hours for 2 and 3).

        Args:
            token_id: the token.
            u: uniform in [0, 1).
        """
        knots = self.duration_q[token_id].astype(np.int64)
        x = u * (N_KNOTS - 1)
        i = min(int(x), N_KNOTS - 2)
        return int(np.floor(knots[i] + (knots[i + 1] - knots[i]) * (x - i) + 0.5))

    def advance(self, clock_min: int, previous: int, token_id: int, u: float = 0.5) -> int:
        """The clock after a token.

        Args:
            clock_min: clock before it, minutes since origin.
            previous: the token before it (-1 at the start).
            token_id: the token.
            u: uniform in [0, 1) for its duration.
        """
        rule = self.duration_rule[token_id]
        if rule == DurationRule.NONE:
            return clock_min
        n = self.duration(token_id, u)
        if rule == DurationRule.QUANTILE:
            return clock_min + n
        midnight = clock_min - clock_min % DAY_MIN
        if rule == DurationRule.CALENDAR_DAY:
            return midnight + n * DAY_MIN if n > 0 else clock_min
        since_midnight = previous >= 0 and self.token_class[previous] in (
            TokenClass.VISIT_TYPE,
            TokenClass.INPATIENT_GAP,
        )
        if since_midnight:
            return max(clock_min, midnight + n * HOUR_MIN)
        return clock_min + n * HOUR_MIN

    def clock(
        self, token_id: ArrayLike, start_min: int, u: ArrayLike | None = None
    ) -> NDArray[np.int32]:
        """Clock of every token of one timeline from its durations.

        Args:
            token_id: int32 (T,).
            start_min: clock of the prompt, minutes since origin.
            u: float64 (T,), one uniform a token; 0.5 each when not given.

        Returns:
            int32 (T,), minutes since origin; a token's time includes its own duration.
        """
        tokens = np.asarray(token_id, np.int64)
        uniforms = np.full(len(tokens), 0.5) if u is None else np.asarray(u, np.float64)
        times = np.empty(len(tokens), np.int32)
        now, previous = start_min, -1
        for i, token in enumerate(tokens):
            now = self.advance(now, previous, int(token), float(uniforms[i]))
            times[i] = now
            previous = int(token)
        return times

    def year_token_at(self, origin_us: ArrayLike, time_min: ArrayLike) -> NDArray[np.int32]:
        """Year tokens at clocks; years outside the vocabulary take the nearest one."""
        us = np.asarray(origin_us, np.int64) + np.asarray(time_min, np.int64) * US_PER_MIN
        years = us.astype("datetime64[us]").astype("datetime64[Y]").astype(np.int64) + 1970
        return self.year_token[np.clip(years - self.year_first, 0, len(self.year_token) - 1)]

    def age_token_at(self, time_min: ArrayLike) -> NDArray[np.int32]:
        """Age tokens at clocks of subjects whose birth is known (origin = birth)."""
        band = np.searchsorted(self.age_edge_min, np.asarray(time_min), side="right") - 1
        return self.age_token[np.maximum(band, 0)]

    def rederive_prompt(
        self, prompt: ArrayLike, origin_us: int, time_min: int, *, continued: bool = True
    ) -> NDArray[np.int32]:
        """The prompt at a later cut: year and age moved on, sex and race kept, then `continued`.

        Args:
            prompt: int32, any prefix of the timeline that starts with its prompt.
            origin_us: the subject's origin, microseconds since 1970.
            time_min: clock of the cut, minutes since origin.
            continued: put `continued` behind it.
        """
        old = np.asarray(prompt, np.int32)[: len(self.prompt_classes)]
        new = [self._moved_on(int(token), origin_us, time_min) for token in old]
        return np.array(new + [self.continued_id] * continued, np.int32)

    def _moved_on(self, token: int, origin_us: int, time_min: int) -> int:
        token_class = self.token_class[token]
        if token_class == TokenClass.YEAR:
            return int(self.year_token_at(origin_us, time_min))
        if token_class == TokenClass.AGE and token != self.age_unknown_id:
            return int(self.age_token_at(time_min))
        return token

    def sex_of(self, prompt: ArrayLike) -> int:
        """Row of `sex_mask` that a prefix's prompt asks for."""
        head = np.asarray(prompt, np.int64)[: len(self.prompt_classes)]
        return int(self.token_sex[head].max(initial=0))


@dataclass(frozen=True)
class Violation:
    """The first fault of one timeline.

    Attributes:
        row: position of the subject in the batch.
        position: position of the token in its timeline.
        rule: token_range, order, mask, sex, clock_back, clock_moved, duration, clock_cap,
            event_time or incomplete.
        state: name of the automaton's state before the token.
    """

    row: int
    position: int
    rule: str
    state: str

    def __str__(self) -> str:
        return f"timeline {self.row}, token {self.position}: {self.rule} in state {self.state}"


def validate(
    grammar: GrammarTables, batch: TokenBatch, *, complete: bool = True, threads: int = 1
) -> list[Violation]:
    """Checks every timeline against the automaton, the masks and the clock.

    Args:
        grammar: of the tokenizer that made the batch.
        batch: timelines.
        complete: each timeline must end with `end`; False for prefixes and unfinished rollouts.
        threads: worker threads; the result does not depend on it.

    Returns:
        The first fault of each timeline that has one, in order of the timelines.
    """
    rows, positions, rules, states = _core.validate_timelines(grammar, batch, complete, threads)
    within = positions - batch.offsets[rows]
    return [
        Violation(row, position, rule, grammar.state_names[state])
        for row, position, rule, state in zip(
            rows.tolist(), within.tolist(), rules, states.tolist(), strict=True
        )
    ]


def make_masks(
    token_class: NDArray[np.uint8],
    next_state: NDArray[np.int8],
    sex_specific: Mapping[int, int],
    refused: Mapping[int, NDArray[np.bool_]] | None = None,
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """`state_mask` and `sex_mask` from the automaton.

    Args:
        token_class: uint8 (V,).
        next_state: int8 (S, C).
        sex_specific: token id -> 1 (F only) or 2 (M only).
        refused: state -> bool (V,), tokens refused there though their class is not.
    """
    legal = next_state[:, token_class] >= 0  # (S, V)
    for state, tokens in (refused or {}).items():
        legal[state, tokens] = False
    legal[:, token_class == TokenClass.CONTINUED] = False  # put there by cuts, never drawn
    by_sex = np.ones((3, len(token_class)), np.bool_)
    for token, sex in sex_specific.items():
        by_sex[3 - sex, token] = False
    return pack_bits(legal), pack_bits(by_sex)
