"""Loss against compute for four sizes of model, on the clinic and one real set.

    python -m benchmarks.scaling run --work-dir DIR [--steps 500] [--seeds 1]
    python -m benchmarks.scaling page

`run` trains what `benchmarks/results/scaling.jsonl` has no line of; `page` writes docs/scaling.md
and its plot anew from the lines. Compute is 6 P tokens; time in attention is left out of it.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.record import ROOT
from benchmarks.sweep import CLINIC, REAL, Arm, Sweep, markdown, said_runs, save_plot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

RESULTS = ROOT / "benchmarks" / "results" / "scaling.jsonl"
PAGE, PLOT = ROOT / "docs" / "scaling.md", ROOT / "docs" / "scaling.svg"
DATA_SETS = (CLINIC, REAL[0])
ROW_TOKENS, STEPS = 2048, 500
LENGTHS = (0.25, 0.5, 1.0)  # of the longest run: each size at three budgets
# name -> shape and learning rate; names are parameters without the vocabulary's rows
SIZES: dict[str, tuple[dict[str, int], float]] = {
    "0.3 M": ({"d_model": 96, "n_layers": 3, "n_heads": 3, "n_kv_heads": 3, "d_ff": 256}, 2e-2),
    "1 M": ({"d_model": 144, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "d_ff": 448}, 1.5e-2),
    "3 M": ({"d_model": 192, "n_layers": 6, "n_heads": 6, "n_kv_heads": 3, "d_ff": 640}, 1.2e-2),
    "10 M": ({"d_model": 320, "n_layers": 8, "n_heads": 10, "n_kv_heads": 5, "d_ff": 864}, 1e-2),
}
# tokens -> shape and parameters, at about 1,000 tokens a parameter (CoMET, arXiv 2508.12104)
PLAN = ((1e9, "`tiny`", 1e6), (1e10, "`small`", 1e7), (1e11, "`base`", 1.2e8))
H100_FLOPS, MFU = 989e12, 0.4
CPU_FLOPS = 160e9  # two cores
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def arms(steps: int) -> list[Arm]:
    """Each size at each length of training."""
    found = []
    for size, (shape, rate) in SIZES.items():
        for share in LENGTHS:
            n = max(1, round(steps * share))
            train = {
                "max_steps": n,
                "learning_rate": rate,
                "epochs": 1000.0,
                "row_tokens": ROW_TOKENS,
                "rows_per_step": 1,
                "patience": 1000,
            }
            found.append(
                Arm(name=f"{size}, {n} steps", factor=size, model=dict(shape), train=train)
            )
    return found


def points(lines: list[dict[str, Any]]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """(data set, size) -> (compute in FLOP, held-out bits per token), by compute."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for x in lines:
        steps = int(x["arm"].split(", ")[1].split()[0])
        compute = 6.0 * x["n_parameters"] * steps * ROW_TOKENS
        found[x["data_set"], x["factor"]].append((compute, x["bits_per_token"]["all"]))
    return {key: sorted(values) for key, values in found.items()}


def frontier(lines: list[dict[str, Any]], data_set: str) -> list[tuple[float, float]]:
    """(compute in FLOP, bits) of the runs that no cheaper one comes up to, by compute."""
    found: list[tuple[float, float]] = []
    runs = (x for (owner, _), values in points(lines).items() if owner == data_set for x in values)
    for compute, bits in sorted(runs):
        if not found or bits < found[-1][1]:
            found.append((compute, bits))
    return found


def power_law(found: list[tuple[float, float]]) -> float:
    """b of bits = c · FLOP^(-b) through (FLOP, bits), by least squares of their logarithms."""
    compute, bits = np.log(np.array(found)).T
    return -float(np.polyfit(compute, bits, 1)[0])


def table(lines: list[dict[str, Any]]) -> str:
    """Held-out bits per token by size and length, mean over seeds."""
    names = [arm.name for arm in arms(STEPS)]
    names += sorted({x["arm"] for x in lines} - set(names))
    rows = []
    for name in names:
        cells = []
        for data_set in DATA_SETS:
            mine = [x for x in lines if (x["arm"], x["data_set"]) == (name, data_set)]
            bits = [x["bits_per_token"]["all"] for x in mine]
            cells.append(f"{sum(bits) / len(bits):.3f}" if bits else "–")
        rows.append([name, *cells])
    return markdown(["model", *(f"{d}, bits per token" for d in DATA_SETS)], rows)


def plot(lines: list[dict[str, Any]]) -> Figure:
    """Bits per token over compute, a line a size, an axis a data set."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axis, data_set in zip(figure.subplots(1, len(DATA_SETS)), DATA_SETS, strict=True):
        for size in SIZES:
            values = points(lines).get((data_set, size), [])
            axis.plot([c for c, _ in values], [b for _, b in values], "o-", label=size)
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())  # they would lie on each other
        axis.set_title(data_set, fontsize=9)
        axis.set_xlabel("FLOP (6 P tokens)")
    figure.axes[0].set_ylabel("held-out bits per token")
    figure.axes[0].legend(fontsize=8)
    return figure


def plan() -> str:
    """What 10⁹ to 10¹¹ tokens ask for."""
    rows = []
    for tokens, shape, parameters in PLAN:
        flop = 6 * parameters * tokens
        rows.append(
            [
                f"10{_raised(tokens)}",
                shape,
                f"{parameters / 1e6:.0f} M",
                f"{flop / 10 ** math.floor(math.log10(flop)):.1f} · 10{_raised(flop)}",
                _duration(flop / (MFU * H100_FLOPS)),
                _duration(flop / CPU_FLOPS),
            ]
        )
    header = ["tokens", "shape", "parameters", "FLOP", "one H100", "two cores"]
    return markdown(header, rows)


def _raised(x: float) -> str:
    """The power of ten of a number, raised."""
    return str(math.floor(math.log10(x))).translate(_RAISED)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"


def page(lines: list[dict[str, Any]]) -> str:
    """docs/scaling.md."""
    fits = []
    for data_set in DATA_SETS:
        found = frontier(lines, data_set)
        said = "too few runs" if len(found) < 3 else f"bits ∝ FLOP^(−{power_law(found):.3f})"
        fits.append(f"- {data_set}: {said} ({len(found)} runs)")
    said = "\n".join(fits)
    runs = said_runs(len(lines), len(arms(STEPS)) * len(DATA_SETS))
    return f"""# Loss against compute

Four sizes of model, each trained for three lengths from scratch (the learning rate falls to its end
in each), judged on held-out subjects: {runs}. The lines, one a run:
`benchmarks/results/scaling.jsonl`; again: `python -m benchmarks.scaling run --work-dir DIR`.

![Bits per token over compute](scaling.svg)

{table(lines)}

Through the runs that no cheaper one comes up to:

{said}

A million tokens are seen at most here, fewer than a model of 3 M has parameters: what the sizes
differ in is how fast they learn from little, and no exponent of this page reaches to hospitals.

## From that, a plan

For 10⁹ tokens and more we go by the largest published fit on records, Epic's CoMET (118 million
patients, 151 billion tokens; arXiv 2508.12104): parameters and tokens grow alike with compute, at
about 1,000 tokens a parameter. One size up, where all data are seen once, costs what the table says
times the ratio of the sizes. Time on an H100 assumes 40 % of its 989 TFLOP/s, which T4 asks of
`base` and nobody has measured yet, less for smaller models; on two cores, 160 GFLOP/s (T1 in fp32,
two processes).

{plan()}

Rollouts cost more than training once many are drawn: 32 of 500 tokens for each of a million
patients are 1.6 · 10¹⁰ tokens of decoding.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the sweep or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--work-dir", type=Path, default=Path("scaling"))
    parser.add_argument("--lines", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--n-clinic", type=int, default=6000)
    parser.add_argument("--data-sets", nargs="*", default=list(DATA_SETS))
    options = parser.parse_args(arguments)
    sweep = Sweep("scaling", options.work_dir, options.lines, options.n_clinic, scores=False)
    if options.what == "run":
        sweep.run(arms(options.steps), options.data_sets, range(options.seeds))
        return
    lines = sweep.lines()
    PAGE.write_text(page(lines), encoding="utf-8")
    save_plot(plot(lines), PLOT)


if __name__ == "__main__":
    main()
