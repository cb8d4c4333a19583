"""Writes `expected.json` anew: what CEHR-GPT's own code makes of the cases.

CHRONOWARD_PEERS=FOLDER python -m tests.conformance.regenerate
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from .cases import CASES, RUNS
from .gaps import GAPS_MIN, VALUES
from .omop_tables import write_cases
from .peer import ETHOS, convert, environment, run

EXPECTED = Path(__file__).with_name("expected.json")
BY = {
    "runs": "cehrbert_data 0.1.1: apps.generate_training_data.main, on pyspark 3.5.6",
    "ethos": f"{ETHOS.replace('==', ' ')}: decorators.ethos_time_tokens_func",
    "value_bins": "cehrgpt 0.1.9: create_bins_with_spline, NumericEventStatistics.normalize",
}


def of_their_functions(folder: Path, work: Path) -> dict[str, Any]:
    """ETHOS tokens of `GAPS_MIN`, bins of `VALUES`."""
    found = {}
    for name, given, variables in (
        ("ethos_gaps", GAPS_MIN, {"PYTHONPATH": str(folder / "ethos")}),
        ("value_bins", VALUES, {}),
    ):
        source, out = work / f"{name}.json", work / f"{name}_out.json"
        source.write_text(json.dumps(given))
        run(folder, f"{name}.py", str(source), str(out), **variables)
        found[name] = json.loads(out.read_text())
    return {"ethos": found["ethos_gaps"], "value_bins": found["value_bins"]}


def of_their_conversion(folder: Path, work: Path) -> dict[str, dict[str, str]]:
    """Tokens of every case by run and name, parted by blanks."""
    write_cases(work / "omop")
    runs = {
        name: {"source": str(work / "omop"), "options": dict(one.theirs)}
        for name, one in RUNS.items()
    }
    tokens = convert(folder, runs)
    found: dict[str, dict[str, str]] = {name: {} for name in RUNS}
    for person, case in enumerate(CASES, 1):
        found[case.run][case.name] = " ".join(tokens[case.run][str(person)])
    return found


def expected(folder: Path) -> dict[str, Any]:
    """The content of `expected.json`."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        found = of_their_functions(folder, work)
        found["runs"] = of_their_conversion(folder, work)
    return {"by": BY, **found}


def main() -> int:
    """Writes the file."""
    made = expected(environment(lambda name: Path(tempfile.mkdtemp(prefix=name))))
    text = json.dumps(made, indent=1, sort_keys=True) + "\n"
    EXPECTED.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
