"""Runs every check on a database and adds the answers up; names rows, never persons."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronoward.evaluation.omop.checks import Check, Finding, all_checks, structure
from chronoward.evaluation.omop.database import open_cdm
from chronoward.evaluation.suppression import count

if TYPE_CHECKING:
    from chronoward.evaluation.omop.database import CdmDatabase


def _finding(check: Check, violations: int, example_row: int | None) -> Finding:
    return Finding(
        name=check.name,
        severity=check.severity,
        table=check.table,
        column=check.column,
        violations=violations,
        example_row=example_row,
    )


def _answer(database: CdmDatabase, relation: str, checks: list[Check]) -> list[Finding]:
    """Answers of checks that ask the same relation, by one query."""
    columns = ", ".join(
        f"count(*) FILTER (WHERE {c.condition}), min(t.row) FILTER (WHERE {c.condition})"
        for c in checks
    )
    found = database.connection.execute(f"SELECT {columns} FROM {relation}").fetchone()
    assert found is not None
    return [_finding(c, found[2 * i], found[2 * i + 1]) for i, c in enumerate(checks)]


def _cannot_fire(database: CdmDatabase, check: Check) -> bool:
    """Whether a column holds nothing that a check could find fault with."""
    if not check.column:
        return False
    if check.name == "required":
        return database.rows.get(check.table, 0) == 0
    return check.column not in database.filled.get(check.table, ())


def run_checks(database: CdmDatabase) -> list[Finding]:
    """Answers of every check that applies, in a fixed order."""
    findings = list(structure(database))
    groups: dict[str, list[Check]] = {}
    order: dict[tuple[str, str, str], int] = {}
    answers = []
    for check in all_checks(database):
        order[check.name, check.table, check.column] = len(order)
        if _cannot_fire(database, check):
            answers.append(_finding(check, 0, None))
        else:
            groups.setdefault(check.relation, []).append(check)
    for relation, checks in groups.items():
        answers += _answer(database, relation, checks)
    answers.sort(key=lambda a: order[a.name, a.table, a.column])
    return findings + answers


def evaluate_omop(
    source: Path | str, *, memory_limit: str = "2GB", threads: int = 1
) -> dict[str, Any]:
    """Checks an OMOP CDM 5.4 database: structure, keys, types, times, visits, plausibility, eras.

    Args:
        source: folder of CSV or Parquet tables, or a DuckDB file.
        memory_limit: DuckDB's limit; larger tables spill to disk.
        threads: DuckDB's threads.

    Returns:
        The section `omop` of metrics.json: `n_checks`, `hard_violations`, `soft_violations`,
        `rows` by table (small cells suppressed), `by_name` (violations by check name, those
        above zero), and `failed` (one entry a check with violations: name, severity, table,
        column, violations, example_row). Example rows are numbers of rows in the file, never ids.

    Raises:
        DataError: nothing of the CDM is there, or a file cannot be read.
    """
    with open_cdm(Path(source), memory_limit=memory_limit, threads=threads) as database:
        results = run_checks(database)
        rows = {table: count(n) for table, n in sorted(database.rows.items())}
    by_name: dict[str, int] = {}
    for result in results:
        if result.violations:
            by_name[result.name] = by_name.get(result.name, 0) + result.violations
    return {
        "schema": 1,
        "cdm_version": "5.4",
        "n_checks": len(results),
        "hard_violations": sum(r.violations for r in results if r.severity == "hard"),
        "soft_violations": sum(r.violations for r in results if r.severity == "soft"),
        "rows": rows,
        "by_name": dict(sorted(by_name.items())),
        "failed": [asdict(r) for r in results if r.violations],
    }
