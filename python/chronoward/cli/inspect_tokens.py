"""What `chronoward inspect` says about a token store, with a timeline of nobody as the example.

The example's subject is made up from the vocabulary: no subject of the store is ever shown.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from chronoward.cli.sections import Section
from chronoward.schema import SPLITS, Role, event_schema, observation_schema
from chronoward.store import TokenStore
from chronoward.tokenizer import TokenClass, Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.store import StoreSplit
    from chronoward.tokenizer.code_entry import CodeEntry

_DAY_MIN = 1440
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BIRTH = datetime(1950, 5, 17)
_FIRST_VISIT = datetime(2015, 3, 2, 10)


def describe_store(path: Path) -> list[Section]:
    """Sections on splits, token classes, lengths, gaps and an example.

    Raises:
        FormatError: the store is damaged.
    """
    store = TokenStore.open(path)
    tokenizer = Tokenizer.load(store.tokenizer_path)
    splits = {name: store.split(name) for name in SPLITS}
    n_of = sum(
        (_count(split, tokenizer) for split in splits.values()),
        np.zeros(len(TokenClass), np.int64),
    )
    return [
        _splits(splits),
        _classes(tokenizer, n_of),
        _distribution(
            "Tokens a subject", [split.lengths.astype(np.float64) for split in splits.values()]
        ),
        _distribution(
            "Days between moments", [_gaps(split, tokenizer) for split in splits.values()]
        ),
        _example(tokenizer),
    ]


def _splits(splits: dict[str, StoreSplit]) -> Section:
    rows = [(name, f"{len(split):,}", f"{split.n_tokens:,}") for name, split in splits.items()]
    return Section("Splits", ("split", "subjects", "tokens"), rows)


def _count(split: StoreSplit, tokenizer: Tokenizer) -> Any:
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for shard in split.shards:
        counts += np.bincount(shard.token_id, minlength=tokenizer.vocab_size)
    return np.bincount(tokenizer.token_class, weights=counts, minlength=len(TokenClass)).astype(
        np.int64
    )


def _classes(tokenizer: Tokenizer, counts: Any) -> Section:
    n_tokens = np.bincount(tokenizer.token_class, minlength=len(TokenClass))
    total = max(1, int(counts.sum()))
    rows = [
        (
            kind.name.lower(),
            f"{n_tokens[kind]:,}",
            f"{counts[kind]:,}",
            f"{counts[kind] / total:.1%}",
        )
        for kind in TokenClass
        if n_tokens[kind]
    ]
    return Section("Token classes", ("class", "vocabulary", "tokens", "share"), rows)


def _distribution(title: str, parts: list[Any]) -> Section:
    values = np.concatenate(parts)
    columns = tuple("max" if q == 1.0 else f"{q:.0%}" for q in _QUANTILES)
    if not len(values):
        return Section(title, columns, [])
    found = np.quantile(values, _QUANTILES)
    return Section(title, columns, [tuple(f"{value:,.4g}" for value in found)])


def _gaps(split: StoreSplit, tokenizer: Tokenizer) -> Any:
    """Days between successive different clock times after the prompt, of the first subjects."""
    is_prompt = tokenizer.token_class <= TokenClass.CONTINUED
    gaps = []
    n_seen = 0
    for i in range(len(split)):
        timeline = split.timeline(i)
        steps = np.diff(timeline.time_min[~is_prompt[timeline.token_id]])
        gaps.append(steps[steps > 0] / _DAY_MIN)
        n_seen += len(steps)
        if n_seen > 1_000_000:
            break
    return np.concatenate(gaps) if gaps else np.empty(0)


def _first(tokenizer: Tokenizer, prefix: str, table: str, n: int = 1) -> list[CodeEntry]:
    found = [
        entry for entry in tokenizer.codes if entry.table == table and entry.code.startswith(prefix)
    ]
    return sorted(found, key=lambda e: (e.code == "Visit/0", -e.n_subjects, e.code))[:n]


def _example_events(tokenizer: Tokenizer) -> pa.Table:
    """A made-up life: two visits with the commonest codes of the vocabulary."""
    rows: list[dict[str, Any]] = []

    def add(role: Role, code: str, table: str, time: datetime | None, **other: Any) -> None:
        rows.append(
            {"subject_id": 0, "time": time, "available_time": time, "role": int(role)}
            | {"table": table, "code": code}
            | other
        )

    visit = _first(tokenizer, "Visit/", "visit_occurrence")
    codes = [
        entry
        for entry in sorted(tokenizer.codes, key=lambda e: (-e.n_subjects, e.code))
        if entry.kind == "code"
    ]
    plain = [entry for entry in codes if not entry.n_bins][:2]
    valued = [entry for entry in codes if entry.n_bins][:1]
    add(Role.SEX, "Gender/F", "person", None)
    add(Role.BIRTH, "MEDS_BIRTH", "person", _BIRTH)
    for number in range(2):
        start = _FIRST_VISIT + timedelta(days=100 * number)
        if visit:
            end = start + timedelta(minutes=45)
            code = visit[0].code
            add(Role.VISIT, code, "visit_occurrence", start, visit_id=number, end_time=end)
        for minutes, entry in enumerate([*plain, *valued]):
            middle = entry.quantiles[entry.n_bins // 2] if entry.n_bins else ()
            add(
                Role.CODE,
                entry.code,
                entry.table,
                start + timedelta(minutes=10 * minutes),
                unit=entry.unit,
                numeric_value=middle[len(middle) // 2] if middle else None,
                visit_id=number if visit else None,
            )
    rows.sort(key=lambda r: (r["time"] is not None, r["time"] or _BIRTH, r["role"], r["table"]))
    return pa.Table.from_pylist(rows, schema=event_schema())


def _example(tokenizer: Tokenizer) -> Section:
    events = _example_events(tokenizer)
    end = [_FIRST_VISIT + timedelta(days=400)]
    observed = pa.table(
        [pa.array([0]), pa.array([_FIRST_VISIT], pa.timestamp("us")), pa.array(end)],
        schema=observation_schema(),
    )
    batch = tokenizer.encode(events, observed)
    decoded = tokenizer.decode(batch)
    tokens = [
        f"{timedelta(minutes=int(minute))}  {tokenizer.labels[token]}"
        for token, minute in zip(batch.token_id, batch.time_min, strict=True)
    ]
    columns = [_lines(events), tokens, _lines(decoded)]
    height = max(len(column) for column in columns)
    padded = [column + [""] * (height - len(column)) for column in columns]
    rows = [tuple(column[i] for column in padded) for i in range(height)]
    note = "the subject is made up from the vocabulary"
    return Section("A synthetic timeline", ("raw", "tokens (clock)", "decoded"), rows, note)


def _lines(events: pa.Table) -> list[str]:
    lines = []
    for row in events.to_pylist():
        value = "" if row["numeric_value"] is None else f" {row['numeric_value']:.4g}"
        unit = f" {row['unit']}" if row["unit"] else ""
        when = "" if row["time"] is None else f"{row['time']:%Y-%m-%d %H:%M} "
        lines.append(f"{when}{row['code']}{value}{unit}")
    return lines
