"""What `chronoward inspect` says about a source: a look at it, and, when asked, every rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chronoward.cli.sections import Section
from chronoward.data.rules import Rule

if TYPE_CHECKING:
    from chronoward.data.look import SourceLook, TableLook, Trap


def describe_look(name: str, seen: SourceLook) -> list[Section]:
    """Sections on what was seen, tables, traps and expected sizes.

    Args:
        name: how the source is named; without a password.
        seen: what `look` returned.
    """
    return [_overview(name, seen), _tables(seen), _traps(seen), _estimates(seen)]


def describe_rules(report: dict[str, Any]) -> list[Section]:
    """Sections on what became of the records, by table, rule and code, from an ingest report."""
    return [_records(report), _rules(report), _mapping(report)]


def _overview(name: str, seen: SourceLook) -> Section:
    if seen.follow_up_years is None:
        follow_up = seen.follow_up_from
    else:
        low, middle, high = seen.follow_up_years
        follow_up = (
            f"{middle:.1f} years median (quartiles {low:.1f} to {high:.1f}), {seen.follow_up_from}"
        )
    rows = [
        ("source", f"{seen.form.upper()} {name}"),
        ("held as", seen.described),
        ("subjects", f"{seen.n_subjects:,}"),
        ("records", f"{seen.n_records:,}"),
        ("visits", f"{seen.n_visits:,}"),
        ("deaths", f"{seen.n_deaths:,}"),
        ("follow-up", follow_up),
        ("calendar", seen.calendar),
        *(("note", note) for note in seen.notes),
    ]
    return Section("Overview", ("", ""), rows)


def _tables(seen: SourceLook) -> Section:
    def row(table: TableLook) -> tuple[str, ...]:
        return (
            table.name,
            "not counted" if table.n_rows is None else f"{table.n_rows:,}",
            f"{table.n_columns}",
            "" if table.mapped is None else f"{table.mapped:.1%}",
            "" if table.first is None else f"{table.first:%Y-%m-%d}",
            "" if table.last is None else f"{table.last:%Y-%m-%d}",
        )

    note = (
        "mapped: share of the rows with a concept id other than 0"
        if seen.form == "omop"
        else "mapped: share of the rows whose code metadata/codes.parquet describes"
    )
    columns = ("table", "rows", "columns", "mapped", "first", "last")
    return Section("Tables", columns, [row(table) for table in seen.tables], note)


def _traps(seen: SourceLook) -> Section:
    def row(trap: Trap) -> tuple[str, ...]:
        about = "about " if trap.is_estimate else ""
        return trap.what, f"{about}{trap.n:,}", f"{trap.n / trap.of:.1%}"

    note = "what becomes of them is a rule each, counted in ingest_report.json (see --rules)"
    rows = [row(trap) for trap in seen.traps]
    return Section("Traps", ("seen", "records", "share"), rows, note)


def _estimates(seen: SourceLook) -> Section:
    rows = [
        ("tokens", f"about {seen.n_tokens:,}"),
        ("token store", f"about {seen.store_bytes / 1e6:,.1f} MB"),
        ("chronoward tokenize", f"about {seen.tokenize_seconds:,.0f} s of one core"),
    ]
    return Section("Estimates (preset compact)", ("", ""), rows)


def _records(report: dict[str, Any]) -> Section:
    rows = [
        (name, f"{n['records']:,}", f"{n['kept']:,}", f"{n['records'] - n['kept']:,}")
        for name, n in report["tables"].items()
    ]
    note = "; ".join(report["warnings"])
    return Section("Records", ("table", "records", "kept", "removed"), rows, note)


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
