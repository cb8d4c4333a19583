"""A small Markov chain of tokens whose risks can be enumerated, behind the engine's interface.

Timelines of preset compact: sex, then visits of `visit_start visit_type code* visit_end gap`. Gaps
last exactly one day, so a path's clock is a count and all paths to a horizon can be summed up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from chronoward.engine import Engine, EngineConfig, Prompt
from chronoward.engine.decode import Decoder
from chronoward.tokenizer.grammar import GrammarTables, TokenClass, make_masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

_C = TokenClass
PAD, END, YOUNG, OLD, FEMALE, MALE, CONTINUED, START, TYPE, FINISH, GAP, LONG_GAP, STAY = range(13)
COUGH, OUTCOME, PROSTATE, PREGNANCY, DEATH = range(13, 18)
CLASSES = np.array(
    [
        _C.PAD, _C.END, _C.AGE, _C.AGE, _C.SEX, _C.SEX, _C.CONTINUED, _C.VISIT_START,
        _C.VISIT_TYPE, _C.VISIT_END, _C.GAP, _C.GAP, _C.INPATIENT_GAP, _C.CODE, _C.CODE, _C.CODE,
        _C.CODE, _C.DEATH,
    ],
    np.uint8,
)  # fmt: skip
V = len(CLASSES)
DAY = 1440


def toy_grammar(
    *, long_gap: tuple[int, int] = (2 * DAY, 2 * DAY), n_more_codes: int = 0, **changes: object
) -> GrammarTables:
    """Tables over the tokens above; LONG_GAP is uniform between two minutes."""
    classes = np.concatenate([CLASSES, np.full(n_more_codes, _C.CODE, np.uint8)])
    n_tokens = len(classes)
    inside = {_C.CODE: 4, _C.INPATIENT_GAP: 8, _C.VISIT_END: 5}
    states: list[dict[TokenClass, int]] = [
        {_C.AGE: 1},
        {_C.SEX: 2},
        {_C.CONTINUED: 9, _C.VISIT_START: 3, _C.END: 7},
        {_C.VISIT_TYPE: 4},
        inside,
        {_C.GAP: 6, _C.END: 7},
        {_C.VISIT_START: 3, _C.DEATH: 7},
        {_C.END: 7},
        {c: s for c, s in inside.items() if c != _C.INPATIENT_GAP},
        {_C.VISIT_START: 3, _C.GAP: 6, _C.END: 7},
    ]
    next_state = np.full((len(states), len(TokenClass)), -1, np.int8)
    for index, row in enumerate(states):
        for token_class, following in row.items():
            next_state[index, token_class] = following
    state_mask, sex_mask = make_masks(classes, next_state, {PROSTATE: 2, PREGNANCY: 1})
    duration_q = np.zeros((n_tokens, 33), np.int32)
    duration_q[[GAP, STAY]] = DAY
    duration_q[LONG_GAP] = np.round(np.linspace(*long_gap, 33)).astype(np.int32)
    token_sex = np.zeros(n_tokens, np.uint8)
    token_sex[[FEMALE, MALE]] = 1, 2
    is_moving = np.isin(np.arange(n_tokens), [GAP, LONG_GAP, STAY])
    tables: dict[str, object] = {
        "token_class": classes,
        "next_state": next_state,
        "start_state": 0,
        "state_names": tuple(str(i) for i in range(len(states))),
        "state_mask": state_mask,
        "sex_mask": sex_mask,
        "token_sex": token_sex,
        "duration_rule": is_moving.astype(np.uint8),
        "duration_q": duration_q,
        "duration_lo": duration_q[:, 0],
        "duration_hi": duration_q[:, -1] + 1,
        "base_code": np.where(classes == _C.CODE, np.arange(n_tokens), -1).astype(np.int32),
        "is_moving": is_moving,
        "max_clock_min": 120 * 366 * DAY,
        "pad_id": PAD,
        "end_id": END,
        "continued_id": CONTINUED,
        "prompt_classes": np.array([_C.AGE, _C.SEX], np.uint8),
        "year_first": 0,
        "year_token": np.zeros(0, np.int32),
        "age_edge_min": np.array([0, 40 * 365 * DAY], np.int32),
        "age_token": np.array([YOUNG, OLD], np.int32),
        "age_unknown_id": -1,
        "is_calendar": False,
        "days_are_visits": False,
        "codes_ascend": False,
    }
    return GrammarTables(**{**tables, **changes})  # type: ignore[arg-type]


def toy_probabilities(outcome: float = 0.02, death: float = 0.03) -> NDArray[np.float64]:
    """(V, V): the row's token is followed by the column's; legal continuations only have mass."""
    p = np.zeros((V, V))
    p[FEMALE, START] = p[MALE, START] = p[CONTINUED, START] = 1
    p[START, TYPE] = 1
    p[TYPE, [COUGH, OUTCOME, FINISH]] = 0.6, outcome, 0.4 - outcome
    p[COUGH, [COUGH, OUTCOME, FINISH]] = 0.3, 2 * outcome, 0.7 - 2 * outcome
    p[OUTCOME, [COUGH, FINISH]] = 0.2, 0.8
    p[FINISH, GAP] = 1
    p[GAP, [START, DEATH]] = 1 - death, death
    return p


@dataclass
class MarkovDecoder(Decoder):
    """Logits by the last token alone."""

    probabilities: NDArray[np.float64]
    noise: float = 0.0
    rows: int = field(default=0)

    @property
    def vocab_size(self) -> int:
        return len(self.probabilities)

    def open(self, n_buffers: int, max_context: int, max_tokens: int) -> None:
        self.room = (n_buffers, max_context, max_tokens)
        with np.errstate(divide="ignore"):
            self.logits = np.log(self.probabilities).astype(np.float32)

    def release(self, buffer: int) -> None:
        assert 0 <= buffer < self.room[0]

    @property
    def cache_bytes(self) -> int:
        return 0

    def forward(
        self,
        token_id: NDArray[np.int32],
        time_min: NDArray[np.int32],
        start_min: NDArray[np.int32],
        places: NDArray[np.int32],
        *,
        wants_logits: bool,
    ) -> NDArray[np.float32] | None:
        self.rows += len(token_id)
        return self.logits[token_id] if wants_logits else None


def exact_risk(p: NDArray[np.float64], n_days: int, outcome: int = OUTCOME) -> float:
    """P(the outcome is drawn before death and before the clock passes `n_days`), after a visit."""

    @cache
    def risk(token: int, day: int) -> float:
        total = 0.0
        for following in np.flatnonzero(p[token]):
            if following == outcome:
                total += p[token, following]
            elif token == following or following == DEATH:
                continue  # a repeated COUGH: the geometric series below
            elif following != GAP or day + 1 <= n_days:
                total += p[token, following] * risk(int(following), day + (following == GAP))
        return total / (1 - p[token, token])

    return risk(FINISH, 0)


def toy_engine(
    p: NDArray[np.float64], *, n_slots: int = 32, grammar: GrammarTables | None = None
) -> Engine:
    """An engine over the chain."""
    return Engine(MarkovDecoder(p), grammar or toy_grammar(), EngineConfig(n_slots=n_slots))


def toy_prompt(
    n_rollouts: int, *, n_days: int = 5, subject_id: int = 7, sex: int = FEMALE, silent_min: int = 0
) -> Prompt:
    """A subject after one visit, at day 100, predicted `silent_min` minutes after it."""
    clock = 100 * DAY
    tokens = np.array([YOUNG, sex, START, TYPE, COUGH, FINISH], np.int32)
    return Prompt(
        subject_id=subject_id,
        prediction_time_us=clock * 60_000_000,
        token_id=tokens,
        time_min=np.full(len(tokens), clock, np.int32),
        origin_us=0,
        rollouts=range(n_rollouts),
        prediction_min=clock + silent_min,
        deadline_min=clock + silent_min + n_days * DAY,
    )
