"""Encode in plain Python: the specification of the C++ encoder, and its oracle in tests.

One subject at a time, as it is told: origin and clock, visits in order, moments in them, tokens.
Rules that change or drop something count it by name in `count`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chronoward.schema import Role
from chronoward.tokenizer.batch import TokenBatch
from chronoward.tokenizer.columns import NULL_US
from chronoward.tokenizer.grammar import US_PER_DAY, US_PER_MIN, TokenClass
from chronoward.tokenizer.inputs import EXACT, NOT_IN_PRESET, PLACED, ROLLED_UP, EncodeInput
from chronoward.tokenizer.time_scheme import DAY_MIN, HOUR_MIN, REPEAT_MIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.tokenizer.encode_tables import EncodeTables

DEATH, DISCHARGE, DETAIL, CODE, VISIT = (
    Role.DEATH,
    Role.DISCHARGE,
    Role.DETAIL,
    Role.CODE,
    Role.VISIT,
)


class Row(NamedTuple):
    """One event with its key resolved: `entry` -1 is unknown; `match` says how it was found."""

    role: int
    time: int
    available: int
    entry: int
    match: int
    value: float
    text: int
    visit: int
    end: int


class Out(NamedTuple):
    """One token of a timeline."""

    token: int
    clock: int
    event: int


class Item(NamedTuple):
    """A code of a visit or moment; sorts in canonical order."""

    order: int  # the source's time where order_by_time, else 0
    rank: int
    value_rank: int
    event: int
    clock: int
    token: int
    value_token: int


def minute(t: EncodeTables, origin: int, us: int, count: Counter[str]) -> int:
    """Minutes since origin, rounded up; on the event's own date where gaps count dates."""
    m = -((origin - us) // US_PER_MIN)
    if t.is_calendar:
        m = min(m, (us - origin) // US_PER_DAY * DAY_MIN + DAY_MIN - 1)
    count["clamped_to_origin"] += m < 0
    count["clamped_to_cap"] += m > t.max_clock_min
    return min(max(m, 0), t.max_clock_min)


def code_tokens(t: EncodeTables, r: Row, sex: int, count: Counter[str]) -> tuple[int, int] | None:
    """(token, value token or -1) of an event, None when it is dropped."""
    if r.entry < 0:
        count["unknown_code"] += 1
        return None
    count["rolled_up"] += r.match == ROLLED_UP
    count["placed"] += r.match == PLACED
    if t.entry_sex[r.entry] and sex and t.entry_sex[r.entry] != sex:
        count["sex_conflict"] += 1
        return None
    plain, valued = int(t.entry_plain[r.entry]), -1
    count["infinite_value"] += bool(np.isinf(r.value))
    if r.match == EXACT and np.isfinite(r.value) and t.entry_n_bins[r.entry]:
        lo, hi = t.entry_edge_offset[r.entry], t.entry_edge_offset[r.entry + 1]
        b = int(np.searchsorted(t.edges[lo:hi], np.float32(r.value), side="right"))
        valued = int(t.entry_bin_token[r.entry]) + b
    elif r.match == EXACT and r.text != -1:
        at = int(np.searchsorted(t.text_key, (r.entry << 32) | max(r.text, 0)))
        known = r.text >= 0 and at < len(t.text_key) and t.text_key[at] == (r.entry << 32) | r.text
        valued = int(t.text_token[at]) if known else -1
        count["unknown_text"] += not known
    if valued < 0 or t.is_split:
        return plain, valued
    return valued, -1


def gap_tokens(t: EncodeTables, before: int, after: int) -> list[Out]:
    """The gap between visits (or moments of preset events)."""
    d = (after // DAY_MIN - before // DAY_MIN) * DAY_MIN if t.is_calendar else after - before
    if t.gap_repeat_token >= 0 and d >= REPEAT_MIN:
        steps = [before + REPEAT_MIN * i for i in range(1, (d + REPEAT_MIN // 2) // REPEAT_MIN)]
        return [Out(t.gap_repeat_token, clock, clock) for clock in [*steps, after]]
    return [Out(int(t.gap_token[bisect_right(t.gap_lo.tolist(), d) - 1]), after, after)]


def gap_is_days(t: EncodeTables, minutes: int) -> bool:
    """Whether a gap's token says a day or more: observation starts on a date, without a time."""
    if minutes < DAY_MIN:
        return False
    return bool(t.gap_lo[bisect_right(t.gap_lo.tolist(), minutes) - 1] >= DAY_MIN)


def inner_tokens(t: EncodeTables, before: int, after: int) -> list[Out]:
    """What passes between two moments of a visit."""
    if not t.is_calendar:
        return [
            Out(
                int(t.inner_token[bisect_right(t.inner_lo.tolist(), after - before) - 1]),
                after,
                after,
            )
        ]
    days = after // DAY_MIN - before // DAY_MIN
    tokens = []
    if days:
        tokens = [int(t.inner_token[bisect_right(t.inner_lo.tolist(), days * DAY_MIN) - 1])]
    hours = after % DAY_MIN // HOUR_MIN - (0 if days else before % DAY_MIN // HOUR_MIN)
    if t.use_hours and hours > 0:
        tokens.append(int(t.hour_token[hours]))
    return [Out(token, after, after) for token in tokens]


def detail_marks(details: list[tuple[int, int, int, int]], end_token: int) -> list[tuple[int, int]]:
    """(clock, token) of detail starts and ends, made disjoint.

    A detail is (start, end, rank, token). Of details that start together all but the last-ending
    take no time; a later start ends the earlier detail.
    """
    marks: list[tuple[int, int]] = []
    starts = sorted({d[0] for d in details})
    for i, start in enumerate(starts):
        group = sorted({d for d in details if d[0] == start}, key=lambda d: d[1:])
        last = group.pop() if group[-1][1] > start else None
        for _, token in sorted({(rank, token) for _, _, rank, token in group}):
            marks += [(start, token), (start, end_token)]
        if last is not None:
            until = min([last[1], *starts[i + 1 : i + 2]])
            marks += [(start, last[3]), (until, end_token)]
    return marks


class Visit:
    """A visit while its subject is being encoded."""

    def __init__(self, row: Row, start: int, end: int, event: int) -> None:
        self.row, self.start, self.end, self.event = row, start, end, event
        self.items: list[Item] = []
        self.details: list[tuple[int, int, int, int]] = []
        self.discharges: list[int] = []


def find_visits(
    t: EncodeTables, rows: list[Row], origin: int, death: int | None, sex: int, count: Counter[str]
) -> list[Visit]:
    """Visits in order, disjoint, none after death; in preset cehr none without codes."""
    by_key: dict[tuple[int, ...], Visit] = {}
    told = {
        r.visit for r in rows if r.role == CODE and code_tokens(t, r, sex, Counter()) is not None
    }
    last: dict[int, int] = {}
    for r in rows:
        if r.role in (DETAIL, CODE, DISCHARGE):
            last[r.visit] = max(last.get(r.visit, 0), minute(t, origin, r.available, Counter()))
    for r in rows:
        if r.role == VISIT:
            s = minute(t, origin, r.available, count)
            if r.end != NULL_US:
                e = minute(t, origin, r.end, count)
            else:
                e = last.get(r.visit, 0) if r.visit != NULL_US else 0
            event = min(s, minute(t, origin, r.time, Counter())) if r.time != NULL_US else s
            visit = Visit(r, s, e, event)
            by_key[(s, r.visit, e, r.entry, event, len(by_key))] = visit
    visits, seen, before = [], set(), 0
    for _, visit in sorted(by_key.items()):
        if visit.row.visit != NULL_US and visit.row.visit in seen:
            count["duplicate_visit"] += 1
            continue
        seen.add(visit.row.visit)
        if death is not None and visit.start > death:
            count["after_death"] += 1
            continue
        if t.preset == 1 and (visit.row.visit == NULL_US or visit.row.visit not in told):
            count["empty_visit"] += 1
            continue
        count["visit_overlap"] += visit.start < before
        visit.start = max(visit.start, before)
        end = visit.end if death is None else min(visit.end, death)
        visit.end = max(end, visit.start)
        before = visit.end
        visits.append(visit)
    return visits


def fill_visits(
    t: EncodeTables,
    rows: list[Row],
    visits: list[Visit],
    origin: int,
    sex: int,
    count: Counter[str],
) -> None:
    """Puts codes, details and discharges into their visits."""
    of = {v.row.visit: v for v in visits if v.row.visit != NULL_US}
    for r in rows:
        if r.role not in (DETAIL, CODE, DISCHARGE):
            continue
        tokens = code_tokens(t, r, sex, count)
        if tokens is None:
            continue
        visit = of.get(r.visit)
        if visit is None:
            count["without_visit"] += 1
            continue
        m = minute(t, origin, r.available, count)
        clock = min(max(m, visit.start), visit.end)
        count["clamped_to_visit"] += clock != m
        token, value_token = tokens
        rank = int(t.token_rank[token])
        if r.role == DISCHARGE:
            visit.discharges.append(token)
        elif r.role == DETAIL:
            end = visit.end if r.end == NULL_US else minute(t, origin, r.end, count)
            visit.details.append((clock, min(max(end, clock), visit.end), rank, token))
        else:
            event = min(clock, minute(t, origin, r.time, Counter()) if r.time != NULL_US else clock)
            value_rank = int(t.token_rank[value_token]) if value_token >= 0 else -1
            order = event if t.order_by_time else 0
            item = Item(order, rank, value_rank, event, clock, token, value_token)
            visit.items.append(item)


def put_items(items: list[Item], clock: int, out: list[Out], count: Counter[str]) -> None:
    """The codes of one moment, sorted, each once."""
    seen = None
    for item in sorted(items):
        if (item.order, item.token, item.value_token) == seen:
            count["duplicate_token"] += 1
            continue
        seen = (item.order, item.token, item.value_token)
        out.append(Out(item.token, clock, item.event))
        if item.value_token >= 0:
            out.append(Out(item.value_token, clock, item.event))


def put_visit(
    t: EncodeTables, v: Visit, before: int | None, out: list[Out], count: Counter[str]
) -> int:
    """The tokens of one visit; returns the clock at its end."""
    _, visit_start, visit_end, detail_end, _ = (int(x) for x in t.special)
    type_token = int(t.entry_plain[v.row.entry])
    count["rolled_up"] += v.row.match == ROLLED_UP
    is_flat = t.token_class[type_token] == TokenClass.FLAT_VISIT_TYPE
    if is_flat:  # no time inside: all of it is known when its last event is
        v.end = max([v.start, *(item.clock for item in v.items)])
    marks = detail_marks(v.details, detail_end)

    def moment_of(clock: int) -> int:
        return 0 if is_flat else clock // t.resolution_min

    clocks: dict[int, int] = {}
    codes: dict[int, list[Item]] = {}
    for item in v.items:
        codes.setdefault(moment_of(item.clock), []).append(item)
    points = [v.start, v.end, *(item.clock for item in v.items), *(clock for clock, _ in marks)]
    for clock in points:
        clocks[moment_of(clock)] = max(clocks.get(moment_of(clock), 0), clock)
    now = clocks[moment_of(v.start)]
    if before is not None:
        out += gap_tokens(t, before, now)
    out += [Out(visit_start, now, v.event), Out(type_token, now, v.event)]
    if t.use_hours and not is_flat and now % DAY_MIN >= HOUR_MIN:
        out.append(Out(int(t.hour_token[now % DAY_MIN // HOUR_MIN]), now, now))
    for moment, clock in sorted(clocks.items()):
        if clock > now:
            out += inner_tokens(t, now, clock)
        out += [Out(token, clock, clock) for at, token in marks if at == clock]
        put_items(codes.get(moment, []), clock, out, count)
        now = clock
    discharges = v.discharges or [int(t.default_token[3])]
    if not is_flat and (t.preset == 1 or v.discharges):
        out.append(Out(min(discharges, key=lambda x: int(t.token_rank[x])), now, now))
    out.append(Out(visit_end, now, now))
    return now


def put_moments(
    t: EncodeTables, rows: list[Row], origin: int, death: int | None, sex: int, count: Counter[str]
) -> tuple[list[Out], int | None]:
    """Preset events: all events by moment, gaps between; returns the tokens and the last clock."""
    moments: dict[int, list[Item]] = {}
    for r in rows:
        if r.role not in (VISIT, DETAIL, CODE, DISCHARGE):
            continue
        tokens = code_tokens(t, r, sex, count)
        if tokens is None:
            continue
        m = minute(t, origin, r.available, count)
        clock = m if death is None else min(m, death)
        count["after_death"] += clock != m
        event = min(clock, minute(t, origin, r.time, Counter()) if r.time != NULL_US else clock)
        value_rank = int(t.token_rank[tokens[1]]) if tokens[1] >= 0 else -1
        order = event if t.order_by_time else 0
        rank = int(t.token_rank[tokens[0]])
        moments.setdefault(clock, []).append(Item(order, rank, value_rank, event, clock, *tokens))
    out: list[Out] = []
    now = None
    for clock, items in sorted(moments.items()):
        if now is not None:
            out += gap_tokens(t, now, clock)
        put_items(items, clock, out, count)
        now = clock
    return out, now


def put_death(t: EncodeTables, death: int, before: int | None, out: list[Out]) -> None:
    """Death after the last visit or moment; preset events needs no gap when no time passed."""
    death = max(death, before or 0)
    if before is not None and (t.preset != 2 or death > before):
        out += gap_tokens(t, before, death)
    tokens = [int(t.special[4])]
    if t.preset == 1:
        tokens = [int(t.special[1]), *tokens, int(t.special[2])]
    out += [Out(token, death, death) for token in tokens]


def prompt_facts(t: EncodeTables, rows: list[Row]) -> tuple[int, int]:
    """(sex token, race token); of several the one of least id, so that row order is no matter."""
    facts = []
    for role, default in ((Role.SEX, 0), (Role.RACE, 1)):
        said = [int(t.entry_plain[r.entry]) for r in rows if r.role == role and r.entry >= 0]
        facts.append(min(said, default=int(t.default_token[default])))
    return facts[0], facts[1]


def prompt(
    t: EncodeTables, facts: tuple[int, int], origin: int, clock: int, has_birth: bool
) -> list[Out]:
    """The prompt at a clock."""
    tokens = {int(TokenClass.SEX): facts[0], int(TokenClass.RACE): facts[1]}
    if len(t.year_token):
        us = origin + clock * US_PER_MIN
        year = int(np.datetime64(us, "us").astype("datetime64[Y]").astype(np.int64)) + 1970
        at = min(max(year - t.year_first, 0), len(t.year_token) - 1)
        tokens[int(TokenClass.YEAR)] = int(t.year_token[at])
    if len(t.age_token):
        band = bisect_right(t.age_edge_min.tolist(), clock) - 1
        tokens[int(TokenClass.AGE)] = int(t.age_token[band]) if has_birth else t.age_unknown_id
    return [Out(tokens[int(c)], clock, clock) for c in t.prompt_classes]


def count_prior(t: EncodeTables, out: list[Out]) -> list[int]:
    """In how many earlier visits (days in preset events) each token's base code occurred."""
    seen: dict[int, set[int]] = {}
    prior, visit = [], 0
    for token, clock, _ in out:
        visit = clock // DAY_MIN if t.preset == 2 else visit + (token == t.special[1])
        base = int(t.base_code[token])
        counts = base >= 0 and t.token_class[token] != TokenClass.DEATH
        earlier = seen.setdefault(base, set()) if counts else set()
        prior.append(min(len(earlier - {visit}), 255))
        earlier.add(visit)
    return prior


def encode_subject(
    t: EncodeTables, rows: list[Row], observed: list[tuple[int, int]], count: Counter[str]
) -> tuple[int, list[Out], list[tuple[int, int]]]:
    """(origin in microseconds, tokens, observation periods in minutes) of one subject."""
    birth = min((r.time for r in rows if r.role == Role.BIRTH and r.time != NULL_US), default=None)
    count["without_time"] += sum(r.role >= VISIT and r.available == NULL_US for r in rows)
    timed = [r for r in rows if r.role >= VISIT and r.available != NULL_US]
    starts = [r.available for r in timed]
    if t.preset != 1 or not starts:  # timelines begin with observation, but for CEHR-GPT's
        starts += [start for start, _ in observed[:1]]
    origin = (birth if birth is not None else min(starts, default=0)) // US_PER_DAY * US_PER_DAY
    deaths = [minute(t, origin, r.available, count) for r in timed if r.role == DEATH]
    death = min(deaths, default=None)
    periods = [
        (minute(t, origin, start, Counter()), minute(t, origin, end, Counter()))
        for start, end in observed
    ]
    fields = prompt_facts(t, rows)
    sex = int(t.token_sex[fields[0]]) if TokenClass.SEX in t.prompt_classes else 0
    out: list[Out] = []
    before: int | None = None
    if t.preset == 2:
        out, before = put_moments(t, timed, origin, death, sex, count)
    else:
        visits = find_visits(t, timed, origin, death, sex, count)
        fill_visits(t, timed, visits, origin, sex, count)
        for visit in visits:
            before = put_visit(t, visit, before, out, count)
    if death is not None:
        put_death(t, death, before, out)
    first = out[0].clock if out else (periods[0][0] if periods else 0)
    watched_from = periods[0][0] if periods else first
    if t.preset != 1 and out and gap_is_days(t, first - watched_from):
        out = gap_tokens(t, watched_from, first) + out
        first = watched_from
    head = prompt(t, fields, origin, first, birth is not None)
    last = out[-1].clock if out else first
    return origin, [*head, *out, Out(int(t.special[0]), last, last)], periods


def encode(t: EncodeTables, given: EncodeInput) -> TokenBatch:
    """Token timelines of all subjects of an input; the C++ encoder must equal it byte for byte."""
    c, count = given.columns, Counter[str]()
    arrays: list[NDArray[Any]] = [c.role, c.time_us, c.available_us, given.key_entry[c.key]]
    arrays += [given.key_exact[c.key], c.value, given.text_number[c.text], c.visit_id, c.end_us]
    encoded = []
    for i in range(len(given.subject_id)):
        lo, hi = given.row_offsets[i], given.row_offsets[i + 1]
        rows = [Row(*row) for row in zip(*(a[lo:hi].tolist() for a in arrays), strict=True)]
        count["not_in_preset"] += sum(r.entry == NOT_IN_PRESET for r in rows)
        rows = [r for r in rows if r.entry != NOT_IN_PRESET]
        part = slice(given.obs_offsets[i], given.obs_offsets[i + 1])
        observed = list(
            zip(given.obs_start_us[part].tolist(), given.obs_end_us[part].tolist(), strict=True)
        )
        encoded.append(encode_subject(t, rows, observed, count))
    flat = [out for _, timeline, _ in encoded for out in timeline]
    prior = [n for _, timeline, _ in encoded for n in count_prior(t, timeline)]
    periods = [period for _, _, subject_periods in encoded for period in subject_periods]
    lengths = np.array([0, *(len(timeline) for _, timeline, _ in encoded)], np.int64)
    return TokenBatch(
        subject_id=given.subject_id,
        origin_us=np.array([origin for origin, _, _ in encoded], np.int64),
        offsets=np.cumsum(lengths),
        token_id=np.array([out.token for out in flat], np.int32),
        time_min=np.array([out.clock for out in flat], np.int32),
        event_min=np.array([out.event for out in flat], np.int32),
        n_prior=np.array(prior, np.uint8),
        obs_offsets=given.obs_offsets,
        obs_start_min=np.array([start for start, _ in periods], np.int32),
        obs_end_min=np.array([end for _, end in periods], np.int32),
        counts={rule: n for rule, n in sorted(count.items()) if n},
    )
