"""Counts of the train split become a vocabulary: entries, tokens, buckets, grammar.

The result depends on the counts only. Rare codes are rolled up to the nearest kept ancestor of the
same table, else dropped; both are listed in the fit report, never in the tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from chronoward.ahead import side_by_side
from chronoward.errors import ConfigError
from chronoward.schema import Role
from chronoward.tokenizer.code_entry import CodeEntry
from chronoward.tokenizer.grammar import N_KNOTS, DurationRule, TokenClass, make_automaton
from chronoward.tokenizer.time_scheme import (
    DAY_MIN,
    OPEN_END_MIN,
    REPEAT_MIN,
    Bucket,
    age_bands,
    make_buckets,
)
from chronoward.tokenizer.values import fit_duration_quantiles, fit_value_bins
from chronoward.tokenizer.vocabulary import (
    NO_AGE,
    SEX_INDEX,
    UNKNOWN_CODE,
    Token,
    Vocabulary,
)
from chronoward.tokenizer.vocabulary_check import has_token

if TYPE_CHECKING:
    from chronoward.tokenizer.counts import FitCounts, Key
    from chronoward.tokenizer.spec import TokenizerSpec
    from chronoward.tokenizer.values import ValueBins

KIND_OF_ROLE: Final = {
    Role.BIRTH: "birth",
    Role.SEX: "sex",
    Role.RACE: "race",
    Role.VISIT: "visit",
    Role.DETAIL: "detail",
    Role.CODE: "code",
    Role.DISCHARGE: "discharge",
    Role.DEATH: "death",
}
CEHR_UNKNOWN_SEX: Final = "Gender/0"
BIRTH_CODE: Final = "MEDS_BIRTH"
DEATH_CODE: Final = "MEDS_DEATH"
_GROUPS_AT_ONCE: Final = 128  # keys whose sampled values a thread has in memory
_OPEN_CAP_MIN: Final = 20 * 365 * DAY_MIN  # an open bucket is drawn up to this long past its start
_CLASS_OF_KIND: Final = {
    "sex": TokenClass.SEX,
    "race": TokenClass.RACE,
    "visit": TokenClass.VISIT_TYPE,
    "detail": TokenClass.DETAIL_START,
    "discharge": TokenClass.DISCHARGE,
    "code": TokenClass.CODE,
    "death": TokenClass.DEATH,
}


@dataclass(frozen=True)
class FitReport:
    """What fitting rolled up, placed or dropped; for the ingest report, not for publication."""

    rolled_up: tuple[dict[str, Any], ...]
    dropped: tuple[dict[str, Any], ...]
    placed: tuple[dict[str, Any], ...] = ()


def kind_of(role: int, spec: TokenizerSpec) -> str | None:
    """The kind of entry that an event's role asks for; None where a preset has no place for it."""
    kind = KIND_OF_ROLE.get(Role(role))
    if spec.preset == "events" and kind in ("visit", "detail", "discharge"):
        return "code"
    if kind == "detail" and not spec.details:
        return None
    return kind


def fit_vocabulary(
    counts: FitCounts, spec: TokenizerSpec, threads: int = 1
) -> tuple[Vocabulary, FitReport]:
    """Builds the vocabulary from counts.

    Args:
        counts: of the train split, all shards merged.
        spec: what to build.
        threads: that take keys side by side; the result does not depend on them.

    Raises:
        ConfigError: the counts hold nothing that the preset can use.
    """
    entries, report = _make_entries(counts, spec, threads)
    if not any(entry.kind == "code" for entry in entries):
        message = f"no code occurs in {spec.min_subjects} subjects or more; nothing to fit"
        raise ConfigError(message)
    tokens = _make_tokens(entries, counts, spec)
    names, next_state = make_automaton(spec)
    vocabulary = Vocabulary(
        spec=spec,
        codes=tuple(entries),
        tokens=tuple(tokens),
        state_names=tuple(names),
        next_state=next_state,
    )
    return _with_starts(vocabulary, counts), report


def _make_entries(
    counts: FitCounts, spec: TokenizerSpec, threads: int
) -> tuple[list[CodeEntry], FitReport]:
    subjects: dict[tuple[str, str, str, str | None], int] = {}
    events: dict[tuple[str, str, str, str | None], int] = {}
    for key, n in counts.n_subjects.items():
        kind = kind_of(key[0], spec) if key[0] != Role.STATIC else None
        if kind is not None:
            has_unit = kind == "code" and spec.keeps_units
            name = (kind, key[1], key[2], key[3] if has_unit else None)
            before = subjects.get(name, 0)
            is_shared = kind == "code" and not has_unit  # units of a code have subjects in common
            subjects[name] = max(before, n) if is_shared else before + n
            events[name] = events.get(name, 0) + counts.n_events[key]
    fixed = _fixed_entries(subjects, events)
    kept = {
        name
        for name, n in subjects.items()
        if name[0] not in ("sex", "birth", "death") and n >= spec.min_subjects
    }
    ordered = sorted(kept | fixed, key=lambda k: (k[0], k[1], k[2], k[3] or ""))
    bins = {} if spec.values == "none" else _value_bins(counts, spec, threads)
    entries = [_make_entry(name, subjects.get(name, 0), counts, spec, bins) for name in ordered]
    return entries, _report(subjects, events, set(ordered), counts)


def _fixed_entries(
    subjects: dict[tuple[str, str, str, str | None], int],
    events: dict[tuple[str, str, str, str | None], int],
) -> set[tuple[str, str, str, str | None]]:
    """Entries that every vocabulary has; their table is the one the source uses most."""

    def table_of(kind: str) -> str:
        used: dict[str, int] = {}
        for name, n in events.items():
            if name[0] == kind:
                used[name[1]] = used.get(name[1], 0) + n
        return min(used, key=lambda t: (-used[t], t)) if used else ""

    always = [("sex", code) for code in ("Gender/F", "Gender/M", "Gender/U")]
    always += [(k, UNKNOWN_CODE[k]) for k in ("race", "visit", "discharge")]
    always += [("birth", BIRTH_CODE), ("death", DEATH_CODE)]
    return {(kind, table_of(kind), code, None) for kind, code in always}


def _value_bins(counts: FitCounts, spec: TokenizerSpec, threads: int) -> dict[Key, ValueBins]:
    """The value bins of every key that has numbers."""
    found: dict[Key, ValueBins] = {}

    def bins_of(first: int) -> tuple[list[Key], list[ValueBins]]:
        keys = counts.key_order[first : first + _GROUPS_AT_ONCE]
        sample = counts.values.groups(first, first + len(keys))
        offsets = np.searchsorted(sample.group, first + np.arange(len(keys) + 1))
        return keys, fit_value_bins(
            sample.value.astype(np.float32),
            sample.subject,
            offsets.astype(np.int64),
            n_bins=spec.n_value_bins,
            min_subjects=spec.min_subjects,
        )

    firsts = range(0, len(counts.key_order), _GROUPS_AT_ONCE)
    for keys, bins in side_by_side(bins_of, firsts, threads):
        found |= zip(keys, bins, strict=True)
    return found


def _make_entry(
    name: tuple[str, str, str, str | None],
    n_subjects: int,
    counts: FitCounts,
    spec: TokenizerSpec,
    bins: dict[Key, ValueBins],
) -> CodeEntry:
    kind, table, code, unit = name
    row = counts.codes.get((table, code), {})
    key = (int(Role.CODE), table, code, unit)
    has_values = kind == "code" and spec.values != "none"
    edges, quantiles = bins.get(key, ((), ())) if has_values else ((), ())
    return CodeEntry(
        kind=kind,
        table=table,
        code=code,
        unit=unit,
        description=row.get("description"),
        concept_id=row.get("concept_id") or 0,
        vocabulary_id=row.get("vocabulary_id"),
        domain_id=row.get("domain_id"),
        concept_class_id=row.get("concept_class_id"),
        sex_specific=row.get("sex_specific") if kind == "code" else None,
        is_inpatient=bool(row.get("is_inpatient")) if kind == "visit" else False,
        n_subjects=n_subjects if n_subjects >= spec.min_subjects else 0,
        edges=edges,
        quantiles=quantiles,
        texts=_kept_texts(key, counts, spec) if has_values else (),
    )


def _kept_texts(key: Key, counts: FitCounts, spec: TokenizerSpec) -> tuple[str, ...]:
    texts = counts.texts_of(key)
    frequent = [(-n, text) for text, n in texts.items() if n >= spec.min_subjects]
    return tuple(sorted(text for _, text in sorted(frequent)[: spec.n_text_categories]))


def _report(
    subjects: dict[tuple[str, str, str, str | None], int],
    events: dict[tuple[str, str, str, str | None], int],
    kept: set[tuple[str, str, str, str | None]],
    counts: FitCounts,
) -> FitReport:
    known = {name[:3] for name in kept}
    rolled_up, dropped = [], []
    for name in sorted(set(subjects) - kept, key=lambda k: (k[0], k[1], k[2], k[3] or "")):
        kind, table, code, unit = name
        row: dict[str, Any] = {"kind": kind, "table": table, "code": code, "unit": unit}
        row |= {"n_subjects": subjects[name], "n_events": events[name]}
        target = nearest_kept(kind, table, code, known, counts.codes.get((table, code)))
        if target is None:
            dropped.append(row)
        else:
            rolled_up.append({**row, "to": target})
    return FitReport(tuple(rolled_up), tuple(dropped))


def nearest_kept(
    kind: str,
    table: str,
    code: str,
    known: set[tuple[str, str, str]],
    code_row: dict[str, Any] | None,
) -> str | None:
    """The code that stands for one that is not kept: itself in another unit, else an ancestor.

    Args:
        kind: kind of entry.
        table: the code's table.
        code: the code.
        known: (kind, table, code) of the vocabulary.
        code_row: the code's row of the code table, where there is one.
    """
    candidates = [code, *((code_row or {}).get("parent_codes") or [])]
    if kind in UNKNOWN_CODE:
        candidates.append(UNKNOWN_CODE[kind])
    for candidate in candidates:
        if (kind, table, candidate) in known:
            return str(candidate)
    return None


def possible_labels(entry: CodeEntry, spec: TokenizerSpec) -> list[str]:
    """Ever longer labels of an entry: the code (preset cehr: its concept id), unit, table, kind."""
    name = entry.code
    if spec.preset == "cehr":
        if entry.concept_id > 0:
            name = str(entry.concept_id)
        elif entry.kind == "sex" and entry.code == UNKNOWN_CODE["sex"]:
            name = CEHR_UNKNOWN_SEX
    with_unit = f"{name}//{entry.unit}" if entry.unit is not None else name
    in_table = f"{with_unit}@{entry.table}"
    return [name, with_unit, in_table, f"{entry.kind}:{in_table}"]


def _labels(entries: list[CodeEntry], spec: TokenizerSpec) -> list[str]:
    """One label an entry, made longer only where shared."""
    options = [possible_labels(entry, spec) for entry in entries]
    labels = [option[0] for option in options]
    for level in (1, 2, 3):
        seen: dict[str, int] = {}
        for label in labels:
            seen[label] = seen.get(label, 0) + 1
        labels = [
            option[level] if seen[label] > 1 else label
            for option, label in zip(options, labels, strict=True)
        ]
    return labels


def _make_tokens(entries: list[CodeEntry], counts: FitCounts, spec: TokenizerSpec) -> list[Token]:
    has_visits = spec.preset != "events"
    tokens = [
        Token(label="[PAD]", token_class=TokenClass.PAD),
        Token(label="[END]", token_class=TokenClass.END),
        Token(label="[CONTINUED]", token_class=TokenClass.CONTINUED),
        *_prompt_tokens(counts, spec),
        *_entry_tokens(entries, spec),
        *_time_tokens(counts, spec),
    ]
    if has_visits:
        tokens.append(Token(label="[VS]", token_class=TokenClass.VISIT_START))
        tokens.append(Token(label="[VE]", token_class=TokenClass.VISIT_END))
    if spec.details:
        tokens.append(Token(label="[DETAIL_END]", token_class=TokenClass.DETAIL_END))
    if spec.values == "split":
        tokens.extend(_shared_value_tokens(entries))
    return sorted(tokens, key=lambda token: token.token_class)  # stable: order of making inside


def _prompt_tokens(counts: FitCounts, spec: TokenizerSpec) -> list[Token]:
    tokens = []
    if "year" in spec.prompt_fields:
        years = sorted(y for y, n in counts.years.items() if n >= spec.min_subjects)
        if not years:
            years = [max(counts.years, key=lambda y: (counts.years[y], y), default=2000)]
        tokens += [Token(label=f"year:{y}", token_class=TokenClass.YEAR, value=y) for y in years]
    if "age" in spec.prompt_fields:
        bands = [*age_bands(str(spec.age_bins)), (NO_AGE, "age:unknown")]
        tokens += [Token(label=n, token_class=TokenClass.AGE, value=day) for day, n in bands]
    return tokens


def _entry_tokens(entries: list[CodeEntry], spec: TokenizerSpec) -> list[Token]:
    tokens = []
    for i, (entry, label) in enumerate(zip(entries, _labels(entries, spec), strict=True)):
        if not has_token(entry.kind, spec):
            continue
        token_class = _CLASS_OF_KIND[entry.kind]
        if spec.preset == "cehr" and entry.kind == "visit" and not entry.is_inpatient:
            token_class = TokenClass.FLAT_VISIT_TYPE
        sex = SEX_INDEX.get(entry.code[-1], 0) if entry.kind == "sex" else 0
        name = "[DEATH]" if entry.kind == "death" else label
        tokens.append(Token(label=name, token_class=token_class, entry=i, value=sex))
        if spec.values == "fused":
            tokens += [
                Token(label=f"{label}//q{b}", token_class=token_class, entry=i, bin=b)
                for b in range(entry.n_bins)
            ]
            tokens += [
                Token(label=f"{label}//={text}", token_class=token_class, entry=i, bin=-2 - t)
                for t, text in enumerate(entry.texts)
            ]
    return tokens


def _shared_value_tokens(entries: list[CodeEntry]) -> list[Token]:
    n_bins = max((entry.n_bins for entry in entries), default=0)
    texts = sorted({text for entry in entries for text in entry.texts})
    return [
        *(Token(label=f"VALUE//q{b}", token_class=TokenClass.VALUE, bin=b) for b in range(n_bins)),
        *(
            Token(label=f"VALUE//={text}", token_class=TokenClass.VALUE, bin=-2 - t)
            for t, text in enumerate(texts)
        ),
    ]


def _time_tokens(counts: FitCounts, spec: TokenizerSpec) -> list[Token]:
    scheme = str(spec.time_scheme)
    is_events, is_cehr = spec.preset == "events", spec.preset == "cehr"
    gaps = make_buckets(
        scheme, prefix="" if is_cehr else "gap:", shortest_min=int(is_events), repeat=True
    )
    kind = 2 if is_events else 0
    tokens = [_time_token(b, TokenClass.GAP, kind, counts, spec) for b in gaps]
    if is_events:
        return tokens
    inner = make_buckets(
        scheme,
        prefix="i-" if is_cehr else "stay:",
        shortest_min=DAY_MIN if spec.is_calendar else 1,
        repeat=False,
    )
    tokens += [_time_token(b, TokenClass.INPATIENT_GAP, 1, counts, spec) for b in inner]
    if spec.hour_tokens:
        tokens += [
            Token(
                label=f"i-H{h}",
                token_class=TokenClass.INPATIENT_HOUR,
                value=h,
                rule=DurationRule.HOUR,
                hi=DAY_MIN,
            )
            for h in range(1, 24)
        ]
    return tokens


def _time_token(
    bucket: Bucket, token_class: TokenClass, kind: int, counts: FitCounts, spec: TokenizerSpec
) -> Token:
    token = Token(
        label=bucket.label, token_class=token_class, lo=bucket.lo, hi=bucket.hi, value=bucket.days
    )
    if spec.is_calendar:
        return token._replace(rule=DurationRule.CALENDAR_DAY)
    if bucket.is_repeat:  # a run of n means n half years, so that a run can be read back
        constant = (REPEAT_MIN,) * N_KNOTS
        return token._replace(
            token_class=TokenClass.GAP_REPEAT, rule=DurationRule.QUANTILE, q=constant
        )
    minutes, subjects = counts.sampled_durations(kind)
    inside = (minutes >= bucket.lo) & (minutes < bucket.hi)
    cap = bucket.lo + _OPEN_CAP_MIN if bucket.hi == OPEN_END_MIN else bucket.hi
    if bucket.hi == OPEN_END_MIN and len(np.unique(subjects[inside])) >= 2 * spec.min_subjects:
        longest = np.sort(minutes[inside])[-spec.min_subjects]
        cap = int(min(cap, longest + 1))
    seen = inside & (minutes < cap)
    q = fit_duration_quantiles(
        minutes[seen], subjects[seen], bucket.lo, max(cap, bucket.lo + 1), spec.min_subjects
    )
    return token._replace(rule=DurationRule.QUANTILE, q=q)


def _with_starts(vocabulary: Vocabulary, counts: FitCounts) -> Vocabulary:
    """Quantile functions of where timelines start: day of the year, age inside a band, minute."""
    minimum = vocabulary.spec.min_subjects
    stamps, subjects = counts.starts.sample().of_group(0)
    years, days = np.divmod(stamps.astype(np.int64), 1000)
    day_q = {}
    for token in vocabulary.ids_of(TokenClass.YEAR):
        year = vocabulary.tokens[token].value
        own = years == year
        if len(np.unique(subjects[own])) < 4 * minimum:
            own = np.ones(len(years), np.bool_)  # too few: the season of all years
        day_q[year] = fit_duration_quantiles(days[own], subjects[own], 0, 365, minimum)
    ages, owners = counts.starts.sample().of_group(1)
    age_q = {}
    edges, tokens, _ = vocabulary.age_tokens
    lows = edges.astype(np.int64) // DAY_MIN
    highs = [*lows[1:].tolist(), int(lows[-1]) + 3653] if len(lows) else []
    for token, lo, hi in zip(tokens.tolist(), lows.tolist(), highs, strict=True):
        inside = (ages >= lo) & (ages < hi)
        age_q[token] = fit_duration_quantiles(
            ages[inside].astype(np.int64), owners[inside], lo, hi, minimum
        )
    minutes, whose = counts.starts.sample().of_group(2)
    minute_q = fit_duration_quantiles(minutes.astype(np.int64), whose, 0, DAY_MIN, minimum)
    return replace(vocabulary, start_day_q=day_q, start_age_q=age_q, start_minute_q=minute_q)
