"""Every data set through `tokenize`: what becomes of its records, and the tables of the docs.

    python -m benchmarks.datasets DATA [NAME …]

tokenizes the data sets in the folder DATA, appends a line each to
`benchmarks/results/datasets.jsonl`, and writes the tables of `docs/datasets.md` anew from the last
line of each.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from benchmarks.mimic_forms import compare_forms
from benchmarks.record import ROOT, Measurement, Stopwatch, line

from chronoward.data.rules import Rule
from chronoward.files import read_json
from chronoward.tokenize import tokenize

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    "mimic-iv-demo-omop",
    "mimic-iv-demo-meds",
    "synthea-ma-meds",
    "cinc2012-a-meds",
    "gibleed-omop",
)
FORMS = ("mimic-iv-demo-meds", "mimic-iv-demo-omop")
RESULTS = ROOT / "benchmarks" / "results" / "datasets.jsonl"
PAGE = ROOT / "docs" / "datasets.md"
EFFECTS = ("merged", "dropped", "quarantined")


def measure(source: Path) -> Measurement:
    """Tokenizes a data set.

    Raises:
        AssertionError: the ledger does not hold as many records as the report.
    """
    with tempfile.TemporaryDirectory() as folder:
        with Stopwatch() as watch:
            store = tokenize(source, Path(folder) / "tokens", threads=2)
        report = read_json(store.path / "ingest_report.json")
        tables = report["tables"]
        n_records = sum(counts["records"] for counts in tables.values())
        ledger = pq.read_table(store.path / "ledger", columns=["n_records"])
        assert sum(ledger["n_records"].to_pylist()) == n_records, source.name
        rules = {rule: n for rule, n in report["rules"].items() if Rule.named(rule).removes}
        counts = store.manifest["counts"]
        splits = store.manifest["splits"].values()
        extra: dict[str, Any] = {
            "cpu_seconds": round(watch.cpu, 2),
            "records": n_records,
            "kept": sum(table["kept"] for table in tables.values()),
            **{e: sum(n for r, n in rules.items() if Rule.named(r).effect == e) for e in EFFECTS},
            "removed_by_rule": rules,
            "changed_by_rule": {r: n for r, n in report["rules"].items() if r not in rules},
            "subjects": report["n_subjects"],
            "events": report["n_events"],
            "tokens": sum(split["n_tokens"] for split in splits),
            "unknown_share": round(counts.get("unknown_code", 0) / report["n_events"], 6),
            "rolled_up_share": round(counts.get("rolled_up", 0) / report["n_events"], 6),
        }
    return Measurement(
        id="datasets",
        metric=source.name,
        value=n_records / watch.wall,
        unit="records/s",
        seconds=watch.wall,
        extra=extra,
    )


def measure_forms(data: Path) -> Measurement:
    """Compares the two forms of the MIMIC-IV demo."""
    with Stopwatch() as watch:
        rows = compare_forms(data / FORMS[0], data / FORMS[1])
    names = ("theme", "meds", "omop", "matched")
    extra = {"themes": [dict(zip(names, row, strict=True)) for row in rows]}
    return Measurement(
        id="datasets",
        metric="mimic-forms",
        value=len(rows),
        unit="themes",
        seconds=watch.wall,
        extra=extra,
    )


def _table(header: list[str], rows: Iterable[list[object]]) -> str:
    def text(cell: object) -> str:
        return f"{cell:,}" if isinstance(cell, int) else str(cell)

    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(text, row)) + " |" for row in lines)


def tables(results: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The docs' tables, from the last result of each data set and of the comparison."""
    found = [results[name] for name in NAMES if name in results]
    columns = ("records", "kept", *EFFECTS, "subjects", "events", "tokens")
    sums = _table(
        ["data set", *columns, "unknown", "CPU-seconds"],
        (
            [
                r["metric"],
                *(r[c] for c in columns),
                f"{r['unknown_share']:.2%}",
                f"{r['cpu_seconds']:.1f}",
            ]
            for r in found
        ),
    )
    rules = [rule for rule in Rule if any(rule in r["removed_by_rule"] for r in found)]
    removed = _table(
        ["rule", *(r["metric"] for r in found)],
        ([f"`{rule}`", *(r["removed_by_rule"].get(rule, 0) for r in found)] for rule in rules),
    )
    changed = [rule for rule in Rule if any(rule in r["changed_by_rule"] for r in found)]
    kept = _table(
        ["rule", *(r["metric"] for r in found)],
        ([f"`{rule}`", *(r["changed_by_rule"].get(rule, 0) for r in found)] for rule in changed),
    )
    made = {"sums": sums, "removed": removed, "changed": kept}
    if "mimic-forms" in results:
        themes = results["mimic-forms"]["themes"]
        names = ("theme", "meds", "omop", "matched")
        made["forms"] = _table(
            ["what (matched by)", "MEDS", "OMOP", "of MEDS, in OMOP"],
            ([t[name] for name in names] for t in themes),
        )
    return made


def write_page(results: dict[str, dict[str, Any]]) -> None:
    """Puts the tables between their marks in the docs."""
    page = PAGE.read_text()
    for name, table in tables(results).items():
        mark = f"<!-- {name} -->"
        before, _, after = page.partition(mark)
        page = f"{before}{mark}\n{table}\n{mark}{after.partition(mark)[2]}"
    PAGE.write_text(page)


def last_results() -> dict[str, dict[str, Any]]:
    """The last line of each metric."""
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    return {record["metric"]: record for record in map(json.loads, lines)}


def main(arguments: list[str]) -> None:
    """Measures and writes."""
    data, *names = Path(arguments[0]), *arguments[1:]
    chosen = names or [*NAMES, "mimic-forms"]
    with RESULTS.open("a") as results:
        for name in chosen:
            found = measure_forms(data) if name == "mimic-forms" else measure(data / name)
            results.write(line(found) + "\n")
            results.flush()
    write_page(last_results())


if __name__ == "__main__":
    main(sys.argv[1:])
