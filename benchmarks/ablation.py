"""What each choice of the defaults is worth: one factor at a time, three seeds, four data sets.

    python -m benchmarks.ablation run --work-dir DIR [--steps 500] [--seeds 3] [--data-sets …]
    python -m benchmarks.ablation page

`run` trains what `benchmarks/results/ablation.jsonl` has no line of (96 runs of 500 steps and 1 M
tokens; real data through CHRONOWARD_TEST_DATA), in any number of sittings. `page` writes
docs/ablation.md and its plot anew from the lines.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.record import ROOT
from benchmarks.sweep import (
    CLINIC,
    OUTCOMES,
    REAL,
    Arm,
    Sweep,
    against_base,
    markdown,
    said_runs,
    save_plot,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

RESULTS = ROOT / "benchmarks" / "results" / "ablation.jsonl"
PAGE, PLOT = ROOT / "docs" / "ablation.md", ROOT / "docs" / "ablation.svg"
BASE = "base"
DATA_SETS = (CLINIC, *REAL)
ROW_TOKENS, STEPS, SEEDS = 2048, 500, 3  # one row a step: 1.02 M tokens


def arms(steps: int) -> list[Arm]:
    """The base (the shipped defaults) and what differs from it in one factor."""
    common = {
        "max_steps": steps,
        "epochs": 1000.0,
        "row_tokens": ROW_TOKENS,
        "rows_per_step": 1,
        "patience": 1000,
    }

    def arm(
        name: str, factor: str, *, values: str = "fused", train: Any = None, **model: Any
    ) -> Arm:
        return Arm(
            name=name, factor=factor, model=model, train=common | (train or {}), values=values
        )

    def mix(name: str) -> dict[str, Any]:
        return {"objectives": {"next_event": 1.0, name: 0.1}}

    return [
        arm(BASE, "shipped defaults"),
        arm("bias none", "time in attention", time_bias="none"),
        arm("bias log", "time in attention", time_bias="log"),
        arm("rotary index", "rotary angles", rotary="index"),
        arm("rotary time", "rotary angles", rotary="time"),
        arm("values split", "value fusion", values="split"),
        arm("gap loss", "gap loss", train=mix("gap")),
        arm("subtime loss", "subtime loss", train=mix("subtime")),
    ]


def _bits(line: dict[str, Any]) -> float:
    return float(line["bits_per_event"])


def _auroc(line: dict[str, Any]) -> float | None:
    found = [line.get("auroc", {}).get(name) for name in OUTCOMES]
    known = [x for x in found if x is not None]
    return sum(known) / len(known) if known else None


def _cell(found: tuple[float, float] | None, digits: int) -> str:
    if found is None:
        return "–"
    mean, half = found
    return f"{mean:+.{digits}f}" + (f" ± {half:.{digits}f}" if half == half else ", one seed")


def table(lines: list[dict[str, Any]]) -> str:
    """The page's table: differences to the base, 95 % intervals over seeds."""
    names = [arm.name for arm in arms(STEPS) if arm.name != BASE]
    bits, auroc = against_base(lines, BASE, _bits), against_base(lines, BASE, _auroc)
    header = ["arm", *(f"{d}, bits" for d in (CLINIC, *REAL)), f"{CLINIC}, AUROC"]
    rows = [
        [
            name,
            *(_cell(bits.get((name, d)), 3) for d in (CLINIC, *REAL)),
            _cell(auroc.get((name, CLINIC)), 3),
        ]
        for name in names
    ]
    return markdown(header, rows)


def class_table(lines: list[dict[str, Any]]) -> str:
    """Held-out bits per token of the base by class, mean over seeds."""
    header = ["data set", "all", "time", "code", "value"]
    rows = []
    for data_set in (CLINIC, *REAL):
        mine = [x["bits_per_token"] for x in lines if (x["arm"], x["data_set"]) == (BASE, data_set)]
        cells = []
        for kind in header[1:]:
            known = [bits[kind] for bits in mine if kind in bits]
            cells.append(f"{sum(known) / len(known):.3f}" if known else "–")
        rows.append([data_set, *cells])
    return markdown(header, rows)


def plot(lines: list[dict[str, Any]]) -> Figure:
    """Differences in bits for each recorded event, an axis a data set."""
    from matplotlib.figure import Figure

    found = against_base(lines, BASE, _bits)
    names = [arm.name for arm in arms(STEPS) if arm.name != BASE][::-1]
    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots(1, 1 + len(REAL), sharey=True)
    for axis, data_set in zip(axes, (CLINIC, *REAL), strict=True):
        for row, name in enumerate(names):
            if (name, data_set) in found:
                mean, half = found[name, data_set]
                axis.errorbar(mean, row, xerr=half if half == half else None, fmt="o", color="C0")
        axis.axvline(0, color="0.6", linewidth=1)
        axis.set_title(data_set, fontsize=9)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(-0.5, len(names) - 0.5)
    figure.supxlabel("bits for each recorded event, minus the base (less is better)", fontsize=9)
    return figure


def page(lines: list[dict[str, Any]]) -> str:
    """docs/ablation.md."""
    seeds = len({x["seed"] for x in lines})
    runs = said_runs(len(lines), len(arms(STEPS)) * len(DATA_SETS) * SEEDS)
    return f"""# What the defaults are worth

One factor at a time against the shipped defaults: {runs} of `tiny`, {seeds} seeds, about
{STEPS} steps of one row of {ROW_TOKENS:,} tokens (1 M tokens) each, judged on held-out subjects.
Numbers are differences to the base with the same seed, mean ± half of the 95 % interval over seeds
(Student's t); fewer bits are better. Bits are for each recorded event (a code with its value), so
that fused and split values compare. AUROC is zero-shot on the simulated clinic, the mean of
{" and ".join(OUTCOMES)} at {365} days from rollouts. The lines, one a run:
`benchmarks/results/ablation.jsonl`; again: `python -m benchmarks.ablation run --work-dir DIR`.

![Differences to the base](ablation.svg)

{table(lines)}

## The base, by class of token

Held-out bits per token.

{class_table(lines)}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the sweep or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--work-dir", type=Path, default=Path("ablation"))
    parser.add_argument("--lines", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--n-clinic", type=int, default=6000)
    parser.add_argument("--data-sets", nargs="*", default=list(DATA_SETS))
    parser.add_argument("--arms", nargs="*", help="only these")
    options = parser.parse_args(arguments)
    sweep = Sweep("ablation", options.work_dir, options.lines, options.n_clinic)
    if options.what == "run":
        chosen = [a for a in arms(options.steps) if not options.arms or a.name in options.arms]
        sweep.run(chosen, options.data_sets, range(options.seeds))
        return
    lines = sweep.lines()
    PAGE.write_text(page(lines), encoding="utf-8")
    save_plot(plot(lines), PLOT)


if __name__ == "__main__":
    main()
