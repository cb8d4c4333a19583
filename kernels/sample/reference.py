"""The truth of the sampler: one row after the other in fp64 NumPy, as csrc/core/sample.cpp draws.

Runs on the CPU; tensors elsewhere are fetched and their rows written back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from chronoward.kernels.sample.tables import (
    CODE,
    DEATH,
    END,
    INPATIENT_GAP,
    N_KNOTS,
    SEX,
    VISIT_TYPE,
    Column,
    Fault,
    Status,
)

from chronoward._core import philox4x32

if TYPE_CHECKING:
    from chronoward.kernels.sample.tables import Rule, Tables
    from numpy.typing import NDArray
    from torch import Tensor

DAY_MIN, LAST_MINUTE = 1440, 2**31 - 1


@dataclass
class Drawn:
    """One row's step."""

    token: int = 0
    time: int = 0
    status: int = Status.IDLE
    step_min: int = -1
    log_p: float = 0.0
    value_u: float = 0.0
    outcome_p: NDArray[np.float32] | None = None


class ReferenceSampler:
    """Draws for rows whose state is in `slots` and `keys`; see `sample`."""

    def __init__(self, tables: Tables, rule: Rule) -> None:
        self.t: dict[str, Any] = {n: x.cpu().numpy() for n, x in tables._asdict().items()}
        self.rule = rule
        self.vocab = len(self.t["token_class"])

    def draw(self, logits: NDArray[np.float32], row: Any, key: NDArray[np.int64]) -> Drawn:
        """One row: takes its line of `slots` a step further."""
        found = Drawn(time=int(row[Column.CLOCK]), status=int(row[Column.STATUS]))
        found.outcome_p = np.zeros(len(self.t["set_words"]), np.float32)
        if row[Column.STATUS] != Status.RUNNING:
            return found
        fault = self._step(logits.astype(np.float64), row, key.view(np.uint64), found)
        if fault:
            row[Column.STATUS], row[Column.FAULT] = Status.FAULT, fault
        found.status = int(row[Column.STATUS])
        return found

    def _step(self, logits: Any, row: Any, key: Any, found: Drawn) -> Fault:
        if np.isnan(logits).any():
            return Fault.NAN
        legal, share = self._legal(row)
        if legal is None:
            return Fault.NO_TOKEN
        if not legal.any() and share is None:
            row[Column.STATUS] = Status.CLOCK_CAP
            return Fault.NONE
        top = logits[legal].max() if legal.any() else -np.inf
        if not np.isfinite(top):
            return Fault.NO_FINITE
        weight = np.ones(self.vocab)
        weight[self.t["moving"]] = share
        mass = self._mass(logits, legal, top, 1.0) * weight
        if not 0 < mass.sum() < np.inf:
            return Fault.NO_MASS
        is_silent = self._is_silent(row)
        found.step_min = int(row[Column.CLOCK])
        bounds = self.t["set_offsets"]
        for k in range(len(bounds) - 1):
            tokens = self.t["set_tokens"][bounds[k] : bounds[k + 1]]
            found.outcome_p[k] = min(1.0, mass[tokens].sum() / mass.sum())  # type: ignore[index]
        mass = self._mass(logits, legal, top, self.rule.temperature) * weight
        mass = self._truncated(mass)
        if row[Column.MASKED] >= 0 and not is_silent:
            first, last = bounds[row[Column.MASKED] : row[Column.MASKED] + 2]
            mass[self.t["set_tokens"][first:last]] = 0.0
        total = mass.sum()
        if not total > 0:
            row[Column.STATUS] = Status.OUTCOME
            return Fault.NONE
        counter = np.array(
            [[row[Column.STEP], row[Column.ROLLOUT], key[1] & 0xFFFFFFFF, key[1] >> np.uint64(32)]]
        ).astype(np.uint32)
        words = philox4x32(int(key[0]), counter)[0]
        u = (words.astype(np.float64) + 0.5) * 2.0**-32
        running = np.cumsum(mass)
        open_ = np.flatnonzero((mass > 0) & (running > u[0] * total))
        token = int(open_[0]) if len(open_) else int(np.flatnonzero(mass > 0)[-1])
        found.log_p = float(np.log(mass[token] / total))
        found.token, found.value_u = token, float(u[2])
        self._accept(row, token, float(u[1]))
        found.time = int(row[Column.CLOCK])
        return Fault.NONE

    @staticmethod
    def _mass(logits: Any, legal: Any, top: float, temperature: float) -> Any:
        mass = np.zeros(len(logits))
        mass[legal] = np.exp((logits[legal] - top) / temperature)
        return mass

    def _is_silent(self, row: Any) -> bool:
        return bool(0 <= row[Column.PREDICTION] >= row[Column.CLOCK])

    def _legal(self, row: Any) -> tuple[Any, Any]:
        """Legal tokens (V,) and the share of each moving one; (None, None) where there is none to
        begin with, and nothing legal with no shares where the clock's cap left none."""
        t = self.t
        words = t["state_words"][row[Column.STATE]] & t["sex_words"][row[Column.SEX]]
        legal = self._bits(words)
        if not legal.any():
            return None, None
        if self.rule.codes_ascend and row[Column.PREVIOUS_CLASS] == CODE:
            is_code = t["token_class"] == CODE
            legal &= ~(is_code & (np.arange(self.vocab) <= row[Column.PREVIOUS_TOKEN]))
        moving = t["moving"]
        starts = np.array([self._clock_after(row, i, 0.0) for i in range(len(moving))])
        past = legal[moving] & (starts > self.rule.max_clock_min)
        legal[moving[past]] = False
        if past.any() and not legal.any():
            return legal, None
        share = np.ones(len(moving))
        return (legal, share) if not self._is_silent(row) else self._silent(row, legal, share)

    def _bits(self, words: Any) -> Any:
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        return bits[: self.vocab].astype(bool)

    def _silent(self, row: Any, legal: Any, share: Any) -> tuple[Any, Any]:
        """Only a move beyond the prediction time; before it, what closes an open visit; where no
        move is long enough, the longest."""
        moving, kept = self.t["moving"], np.zeros(self.vocab, bool)
        places = np.flatnonzero(legal[moving]).tolist()
        if len(places) == 0:
            closing = legal & self._bits(self.t["limits"][2])
            return (closing if closing.any() else legal), share
        for i in places:
            share[i] = self._silent_share(row, i)
        reaching = [i for i in places if share[i] > 0]
        if len(reaching) == 0:
            ends = [self._clock_after(row, i, 1.0) for i in places]
            reaching = [i for i, end in zip(places, ends, strict=True) if end == max(ends)]
            share[reaching] = 1.0
        kept[moving[reaching]] = True
        return kept, share

    def _truncated(self, mass: Any) -> Any:
        """Top-k, then top-p of what is left, then min-p; ties go to the smaller id."""
        rule = self.rule
        if not rule.truncates(self.vocab):
            return mass
        mass = mass.astype(np.float32).astype(np.float64)  # so that ties are those of fp32
        order = np.argsort(-mass, kind="stable")[: int((mass > 0).sum())]
        if 0 < rule.top_k < self.vocab:
            order = order[: rule.top_k]
        if rule.top_p < 1.0:
            before = np.cumsum(mass[order]) - mass[order]
            order = order[: max(1, int((before < rule.top_p * mass[order].sum()).sum()))]
        order = order[mass[order] >= rule.min_p * mass[order[0]]]
        kept = np.zeros_like(mass)
        kept[order] = mass[order]
        return kept

    def _clock_after(self, row: Any, i: int, u: float) -> int:
        """The clock after the i-th moving token when its duration's quantile is u."""
        q = self.t["duration"][i].astype(np.int64)
        clock, rule = int(row[Column.CLOCK]), self.t["rule"][i]
        midnight, after = clock - clock % DAY_MIN, clock
        if rule == 1:
            place = u * (N_KNOTS - 1)
            j = min(int(place), N_KNOTS - 2)
            after = clock + int(np.floor(q[j] + (place - j) * float(q[j + 1] - q[j]) + 0.5))
        elif rule == 2 and q[0] > 0:
            after = midnight + int(q[0]) * DAY_MIN
        elif rule == 3:
            hours = int(q[0]) * 60
            of_day = row[Column.PREVIOUS_CLASS] in (VISIT_TYPE, INPATIENT_GAP)
            after = max(clock, midnight + hours) if of_day else clock + hours
        return min(after, LAST_MINUTE)

    def _silent_share(self, row: Any, i: int) -> float:
        """P(the clock after the i-th moving token lies beyond the prediction time)."""
        if self.t["rule"][i] != 1:
            return float(self._clock_after(row, i, 0.5) > row[Column.PREDICTION])
        q = self.t["duration"][i].astype(np.float64)
        needed = float(row[Column.PREDICTION]) - float(row[Column.CLOCK]) + 0.5
        n = int((q < needed).sum())
        if n in (0, N_KNOTS):
            return float(n == 0)
        part = float((needed - q[n - 1]) / (q[n] - q[n - 1]))
        return 1.0 - (n - 1 + part) / (N_KNOTS - 1)

    def _accept(self, row: Any, token: int, u: float) -> None:
        """Takes a token into the row: clock, place in the grammar, and whether it ends."""
        t, token_class = self.t, int(self.t["token_class"][token])
        i = int(t["moving_index"][token])
        if i >= 0:
            is_silent = self._is_silent(row)
            if is_silent:
                share = self._silent_share(row, i)
                u = (1.0 - share) + share * u
            clock = self._clock_after(row, i, u)
            if is_silent:
                clock = max(clock, int(row[Column.PREDICTION]) + 1)
            row[Column.CLOCK] = min(clock, max(self.rule.max_clock_min, int(row[Column.CLOCK])))
        row[Column.STATE] = t["next_state"][row[Column.STATE], token_class]
        row[Column.PREVIOUS_CLASS], row[Column.PREVIOUS_TOKEN] = token_class, token
        if token_class == SEX:
            row[Column.SEX] = t["token_sex"][token]
        row[Column.STEP] += 1
        clock = int(row[Column.CLOCK])
        if token_class == DEATH:
            row[Column.STATUS] = Status.DEATH
        elif token_class == END:
            row[Column.STATUS] = Status.END
        elif 0 <= row[Column.DEADLINE] < clock:
            row[Column.STATUS] = Status.DEADLINE
        elif self._is_silent(row) and clock >= self.rule.max_clock_min:
            row[Column.STATUS] = Status.CLOCK_CAP
        elif row[Column.STEP] >= self.rule.max_new_tokens:
            row[Column.STATUS] = Status.TOKEN_CAP


def sample_reference(
    logits: Tensor, slots: Tensor, keys: Tensor, tables: Tables, rule: Rule
) -> list[Drawn]:
    """A step of all rows; `slots` is changed in place. See `sample`."""
    sampler = ReferenceSampler(tables, rule)
    lines = slots.cpu().numpy().copy()
    scores, who = logits.float().cpu().numpy(), keys.cpu().numpy()
    found = [sampler.draw(*parts) for parts in zip(scores, lines, who, strict=True)]
    slots.copy_(slots.new_tensor(lines))
    return found
