"""python benchmarks/run.py [ID …] [--quick] [--work-dir DIR]: JSON lines on standard output.

One line a number. Without ids it runs all that need no GPU; with --quick it leaves out those that
train for minutes (R5), which then run when named. Those against another project (D3, D7, T2) build
its environment when named, and are left out otherwise where there is none. A measure whose
correctness check fails prints no number: its error goes to standard error, the others still run,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

# One thread a library, said before they load: rates are per CPU-second.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.record import line  # noqa: E402
from benchmarks.registry import LONG, MODULES, PARTS, measure, unnamed  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Runs the measures and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = [*MODULES, *PARTS]
    parser.add_argument("ids", nargs="*", metavar="ID", help=f"any of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="smaller inputs, seconds each")
    parser.add_argument(
        "--work-dir",
        type=Path,
        help=f"keeps what {', '.join(sorted(LONG))} make, so that an interrupted one goes on",
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.ids if name not in known]
    if unknown:
        parser.error(f"no measure {', '.join(unknown)}; there are {', '.join(known)}")
    names = options.ids
    if not names:
        names, absent = unnamed(options.quick)
        if absent:
            absent_ids = ", ".join(absent)
            sys.stderr.write(f"{absent_ids} left out: no environment of the peer (name to build)\n")
    failed = False
    for name in names:
        more = {"work_dir": options.work_dir} if name in LONG else {}
        try:
            for measurement in measure(name)(options.quick, **more):
                sys.stdout.write(line(measurement) + "\n")
                sys.stdout.flush()
        except Exception:
            failed = True
            sys.stderr.write(f"{name} failed:\n{traceback.format_exc()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
