"""`python -m tests.fuzz.run --seconds N --seed S [target …]`: spoiled files until time is over.

Every finding is kept as a file in `--findings`; one that was mended moves to `tests/fuzz/corpus`,
where the suite replays it. A line of JSON a target says what ran.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.child import run_input
from tests.fuzz.targets import TARGETS, Target

_SHORTEST_TURN = 2.0


def prepare_template(target: Target, folder: Path) -> tuple[Path, bytes]:
    """A folder with the target's good source, and the content of the file to spoil."""
    template = folder / target.name
    template.mkdir()
    path = target.make(template)
    (template / ".file").write_text(str(path.relative_to(template)))
    return template, path.read_bytes()


def fuzz(target: Target, folder: Path, seconds: float, seed: int, findings: Path) -> bool:
    """Runs one target; prints what came of it, and whether nothing was found."""
    template, good = prepare_template(target, folder)
    rng = random.Random(f"{target.name}:{seed}")
    kinds, faults, worst_seconds, worst_bytes = Counter[str](), dict[str, str](), 0.0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        content = rng.choice(target.mutations)(good, rng)
        outcome = run_input(target, template, content, folder / "input")
        kinds[outcome.kind] += 1
        worst_seconds = max(worst_seconds, outcome.seconds)
        worst_bytes = max(worst_bytes, outcome.growth_bytes)
        if outcome.fault:
            place = _place(outcome.fault)
            if place not in faults:
                name = f"{target.name}-{hashlib.sha256(content).hexdigest()[:12]}"
                findings.mkdir(parents=True, exist_ok=True)
                (findings / name).write_bytes(content)
                (findings / f"{name}.txt").write_text(f"{outcome.kind}\n{outcome.fault}\n")
                faults[place] = name
    summary = {
        "target": target.name,
        "executions": kinds.total(),
        "outcomes": dict(kinds.most_common()),
        "findings": faults,
        "longest_s": round(worst_seconds, 2),
        "most_memory_mib": worst_bytes >> 20,
        "seed": seed,
    }
    print(json.dumps(summary), flush=True)
    return not faults


def _place(fault: str) -> str:
    """What findings of one place in the code have in common."""
    lines = fault.strip().splitlines()
    sanitizer = [line for line in lines if "SUMMARY:" in line or "runtime error:" in line]
    return (sanitizer or lines)[-1][:200]


def main(arguments: list[str] | None = None) -> int:
    """Runs the targets, each for its share of the time; 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz/findings"))
    parser.add_argument("target", nargs="*", choices=[*TARGETS, []], help="all by default")
    chosen = parser.parse_args(arguments)
    targets = [TARGETS[name] for name in chosen.target or TARGETS]
    turn = max(_SHORTEST_TURN, chosen.seconds / len(targets))
    with tempfile.TemporaryDirectory() as folder:
        # warm: the children share what is imported and made here
        clean = [
            fuzz(target, Path(folder), turn, chosen.seed, chosen.findings) for target in targets
        ]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
