"""What `chronoward inspect` says about a source, from its prepared events and their report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from chronoward.cli.sections import Section
from chronoward.data.rules import Rule
from chronoward.schema import Role

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.data.prepared import PreparedEvents

_YEAR_US = 365.25 * 86_400e6
_BYTES_A_TOKEN = 13
"""token_id, time_min, event_min (int32 each) and n_prior (uint8) of the token store."""
_TOKENS_A_SECOND = 1_000_000
"""A careful rate of `chronoward tokenize` after reading, events per second and core."""


def describe_source(path: Path, prepared: PreparedEvents) -> list[Section]:
    """Sections on tables, rules, mapping, follow-up and expected sizes."""
    report = prepared.report
    roles = _count_roles(prepared)
    return [
        _overview(path, prepared, report, roles),
        _tables(report),
        _rules(report),
        _mapping(report),
        _estimates(prepared, roles),
    ]


def _count_roles(prepared: PreparedEvents) -> dict[int, int]:
    counts: dict[int, int] = {}
    for table in prepared.batches():
        for entry in pc.value_counts(table["role"].combine_chunks()).to_pylist():
            counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
    return counts


def _overview(
    path: Path, prepared: PreparedEvents, report: dict[str, Any], roles: dict[int, int]
) -> Section:
    periods = prepared.observation
    start = periods["start_time"].cast("int64").to_numpy()
    years = (periods["end_time"].cast("int64").to_numpy() - start) / _YEAR_US
    if len(years):
        low, middle, high = np.quantile(years, [0.25, 0.5, 0.75])
        follow_up = f"{middle:.1f} years median (quartiles {low:.1f} to {high:.1f})"
    else:
        follow_up = "none"
    visits = report["visits"]
    rows = [
        ("source", f"{report['source'].upper()} {path}"),
        ("subjects", f"{prepared.n_subjects:,}"),
        ("events", f"{prepared.n_events:,}"),
        ("deaths", f"{roles.get(Role.DEATH, 0):,}"),
        ("calendar", prepared.calendar),
        ("extract date", report["extract_date"] or "unknown"),
        ("observation", f"{len(years):,} periods by {report['observation']}; {follow_up}"),
        (
            "visits",
            f"{visits['visits']:,}, of which artificial {visits['artificial_visits']:,} "
            f"({visits['artificial_share']:.1%} of the records)"
            if prepared.has_visits
            else "none: use preset events",
        ),
        *(("warning", warning) for warning in report["warnings"]),
    ]
    return Section("Overview", ("", ""), rows)


def _tables(report: dict[str, Any]) -> Section:
    rows = [
        (name, f"{n['records']:,}", f"{n['kept']:,}", f"{n['records'] - n['kept']:,}")
        for name, n in report["tables"].items()
    ]
    not_read = ", ".join(report["tables_not_read"])
    note = f"not read: {not_read}" if not_read else ""
    return Section("Tables", ("table", "records", "kept", "removed"), rows, note)


def _rules(report: dict[str, Any]) -> Section:
    rows = [
        (name, f"{n:,}", Rule.named(name).effect, Rule.named(name).meaning)
        for name, n in sorted(report["rules"].items(), key=lambda item: -item[1])
    ]
    return Section("Rules that applied", ("rule", "records", "effect", "meaning"), rows)


def _mapping(report: dict[str, Any]) -> Section:
    mapping = report["mapping"]
    n_events = sum(mapping["events"].values()) or 1
    meaning = {
        "coded": "vocabulary and code",
        "concept_id_only": "a concept id without a row in the concept table",
        "unmapped": "source value only",
    }
    rows = [
        (meaning[kind], f"{n:,}", f"{n / n_events:.1%}", f"{mapping['codes'][kind]:,}")
        for kind, n in mapping["events"].items()
    ]
    return Section("Codes", ("known by", "events", "share", "codes"), rows)


def _estimates(prepared: PreparedEvents, roles: dict[int, int]) -> Section:
    structural = 4 * roles.get(Role.VISIT, 0) + 2 * roles.get(Role.DETAIL, 0)
    n_tokens = (
        roles.get(Role.CODE, 0)
        + structural
        + roles.get(Role.DISCHARGE, 0)
        + 6 * prepared.n_subjects
    )
    rows = [
        ("tokens", f"about {n_tokens:,}"),
        ("token store", f"about {n_tokens * _BYTES_A_TOKEN / 1e6:,.1f} MB"),
        (
            "encoding after reading",
            f"about {max(1, round(n_tokens / _TOKENS_A_SECOND)):,} s on one core",
        ),
    ]
    return Section("Estimates (preset compact)", ("", ""), rows)
