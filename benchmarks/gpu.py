"""python benchmarks/gpu.py [PART …] [--results-dir DIR]: everything that needs a GPU, in one call.

Runs the `gpu` tests, then the measures, each in a process of its own with a share of nine minutes,
so that one that fails or takes too long loses nothing of the others. Installs nothing: the package
has to be there (`pip install --no-build-isolation --no-deps .` needs no network). Lines go to
DIR/gpu.jsonl, with the commit, the device and the name of the raw log beside it; nothing is kept
there when a test failed. Exit code 1 if any part failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOTAL_SECONDS = 530.0
_MODULE = (sys.executable, "-u", "-m")


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        command: prints JSON lines among whatever else it says.
        seconds: after which it is ended.
    """

    command: tuple[str, ...]
    seconds: float


# in this order; what is left of the total bounds each
PARTS: dict[str, Part] = {
    "device": Part((*_MODULE, "benchmarks.gpu_device"), 60),
    "tests": Part(
        (
            *(*_MODULE, "pytest", "tests/kernels/gpu", "-q", "-m", "gpu", "-n", "8"),
            *("-p", "no:cacheprovider", "-W", "default"),  # other versions warn of other things
        ),
        170,
    ),
    "T3": Part((*_MODULE, "benchmarks.gpu_attention"), 170),
    "T4": Part((*_MODULE, "benchmarks.gpu_training"), 200),
    "G5": Part((*_MODULE, "benchmarks.gpu_generation"), 190),
}


@dataclass(frozen=True)
class Outcome:
    """How a part ended: `passed`, `failed (code)` or `cut off`, and the lines it had printed."""

    ending: str
    seconds: float
    lines: list[dict[str, Any]]


def run_part(part: Part, log: Path, seconds: float) -> Outcome:
    """Runs a part for at most so many seconds and adds all it says to the log."""
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("ab") as file:
        file.write(f"\n== {' '.join(part.command)}\n".encode())
        file.flush()
        before = file.tell()
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its workers end with it
        )
        try:
            code = process.wait(timeout=seconds)
            ending = "passed" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:
            ending = "cut off"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    said = log.read_bytes()[before:].decode(errors="replace")
    return Outcome(ending, time.monotonic() - start, _json_lines(said))


def _json_lines(text: str) -> list[dict[str, Any]]:
    lines = []
    for text_line in text.splitlines():
        if text_line.startswith('{"id"'):
            try:
                lines.append(json.loads(text_line))
            except json.JSONDecodeError:  # cut off inside a line: the log has it
                continue
    return lines


def table(outcomes: dict[str, Outcome]) -> str:
    """What came of it, a line a number."""
    rows = []
    for name, outcome in outcomes.items():
        rows.append(f"{name:8} {outcome.ending}, {outcome.seconds:.0f} s")
        for line in outcome.lines:
            ratio = "" if line["ratio"] is None else f"{line['ratio']:8.3f} x {line['against']}"
            rows.append(f"  {line['metric']:20} {line['value']:12.5g} {line['unit']:28} {ratio}")
            fault = line.get("fault") or line.get("gpt2_fault")
            rows += [f"    {fault}"] if fault else []
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts, prints the table, keeps the lines; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--results-dir", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    started = time.monotonic()
    options.results_dir.mkdir(parents=True, exist_ok=True)
    log = options.results_dir / f"gpu-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.log"
    outcomes: dict[str, Outcome] = {}
    for name in options.parts or PARTS:
        left = TOTAL_SECONDS - (time.monotonic() - started)
        if left < 5:
            outcomes[name] = Outcome("not begun, no time left", 0.0, [])
            continue
        outcomes[name] = run_part(PARTS[name], log, min(PARTS[name].seconds, left))
        print(table({name: outcomes[name]}), flush=True)
    is_green = outcomes.get("tests", Outcome("not run", 0.0, [])).ending == "passed"
    if is_green:
        with (options.results_dir / "gpu.jsonl").open("a") as file:
            for outcome in outcomes.values():
                for line in outcome.lines:
                    file.write(json.dumps({**line, "log": log.name}) + "\n")
    print(f"{'kept' if is_green else 'not kept, the tests did not pass'}; raw log: {log}")
    return 0 if all(x.ending == "passed" for x in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
