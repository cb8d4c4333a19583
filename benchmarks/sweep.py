"""Many small trainings on the same data sets, one JSON line a run; a sweep that is stopped goes on.

A sweep's folder keeps what is made once (the simulated clinic, token stores, cohorts, runs); its
lines file says what is done. `benchmarks.ablation` and `benchmarks.scaling` are sweeps.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pyarrow.parquet as pq
import torch
from benchmarks.process import chronoward
from benchmarks.record import Measurement, Stopwatch, line
from scipy import stats
from sklearn.metrics import roc_auc_score

from chronoward.loader import Loader
from chronoward.store import TokenStore
from chronoward.store.layout import MANIFEST
from chronoward.tokenize import tokenize
from chronoward.tokenizer import Tokenizer, TokenizerSpec
from chronoward.train import TrainConfig, train
from chronoward.train import data as from_store
from chronoward.train.metrics import Sums

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure

    from chronoward.model import Model

CLINIC = "clinic"
REAL = ("synthea-ma-meds", "cinc2012-a-meds", "mimic-iv-demo-meds")
PRESETS = {"cinc2012-a-meds": "events"}  # it has no visits
CLINIC_SEED = 11
HELD_OUT_TOKENS = 262_144
OUTCOMES = ("heart_failure", "sim_spontaneous")
HORIZON_DAYS = 365
N_ROLLOUTS = 16
DONE = "finished"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training.

    Attributes:
        name: of the arm.
        factor: what it differs from the base in.
        model: fields of the model's config.
        train: fields of the run's config.
        values: how the tokenizer holds values.
    """

    name: str
    factor: str
    model: dict[str, Any]
    train: dict[str, Any]
    values: str = "fused"


def data_folder() -> Path:
    """The folder of real data sets.

    Raises:
        OSError: CHRONOWARD_TEST_DATA does not name one.
    """
    folder = Path(os.environ.get("CHRONOWARD_TEST_DATA", ""))
    if not folder.is_absolute() or not folder.is_dir():
        message = "CHRONOWARD_TEST_DATA must name the folder of the real data sets"
        raise OSError(message)
    return folder


class Sweep:
    """A sweep's folder and its lines.

    Args:
        name: its id in the lines.
        folder: keeps stores and runs.
        lines: file of JSON lines, appended to.
        n_clinic: subjects of the simulated clinic.
        scores: models of the clinic are also asked for risks, zero-shot.
    """

    def __init__(
        self, name: str, folder: Path, lines: Path, n_clinic: int = 6000, *, scores: bool = True
    ) -> None:
        self._name, self._folder, self._lines, self._n_clinic = name, folder, lines, n_clinic
        self._scores = scores
        folder.mkdir(parents=True, exist_ok=True)

    def lines(self) -> list[dict[str, Any]]:
        """What is done."""
        if not self._lines.is_file():
            return []
        return [json.loads(text) for text in self._lines.read_text().splitlines()]

    def run(self, arms: Iterable[Arm], data_sets: Iterable[str], seeds: Iterable[int]) -> None:
        """Trains and judges what has no line yet, seed by seed."""
        done = {(x["data_set"], x["arm"], x["seed"]) for x in self.lines()}
        arms, data_sets = list(arms), list(data_sets)
        for seed in seeds:
            for data_set in data_sets:
                for arm in arms:
                    if (data_set, arm.name, seed) not in done:
                        self._one(arm, data_set, seed)

    def _source(self, data_set: str) -> Path:
        if data_set != CLINIC:
            return data_folder() / data_set
        out = self._folder / CLINIC
        if not (out / DONE).is_file():
            size = ("--n-subjects", str(self._n_clinic), "--seed", str(CLINIC_SEED))
            chronoward("simulate", "--out", out, *size)
            (out / DONE).touch()
        return out

    def _store(self, data_set: str, values: str) -> Path:
        out = self._folder / f"tokens_{data_set}_{values}"
        if not (out / MANIFEST).is_file():
            spec = TokenizerSpec(preset=PRESETS.get(data_set, "compact"), values=values)
            tokenize(self._source(data_set), out, spec=spec, split="hash")
        return out

    def _one(self, arm: Arm, data_set: str, seed: int) -> None:
        tokens = self._store(data_set, arm.values)
        run_dir = self._folder / f"run_{data_set}_{arm.name}_{seed}"
        config = TrainConfig(model=arm.model, seed=seed, **arm.train)
        with Stopwatch() as watch:
            model = train(tokens, run_dir, config, resume=True)
        found = held_out(model, tokens, config)
        if self._scores and data_set == CLINIC:
            found["auroc"] = self._auroc(run_dir, tokens)
        extra = {
            "data_set": data_set,
            "arm": arm.name,
            "factor": arm.factor,
            "seed": seed,
            "n_parameters": sum(p.numel() for p in model.parameters()),
            "cpu_seconds": round(watch.cpu, 1),
            **found,
        }
        measurement = Measurement(
            id=self._name,
            metric="held_out",
            value=found["bits_per_event"],
            unit="bits per recorded event",
            seconds=watch.wall,
            extra=extra,
        )
        with self._lines.open("a") as out:
            out.write(line(measurement) + "\n")

    def _auroc(self, run_dir: Path, tokens: Path) -> dict[str, float | None]:
        """Zero-shot AUROC on the clinic's held-out subjects, by outcome."""
        clinic, cohort = self._source(CLINIC), self._folder / "cohort"
        asked = [str(clinic / "outcomes" / f"{name}.yaml") for name in OUTCOMES]
        named = [part for path in asked for part in ("--outcome", path)]
        horizon = ("--horizon", str(HORIZON_DAYS))
        if not (cohort / DONE).is_file():
            chronoward("cohort", clinic, "--out", cohort, *named, *horizon, "--split", "hash")
            (cohort / DONE).touch()
        out = run_dir / "risks"
        if not (out / DONE).is_file():
            how = ("--estimator", "scope", "--n-rollouts", str(N_ROLLOUTS), "--split", "held_out")
            where = ("--cohort", cohort, "--out", out)
            chronoward("score", run_dir, tokens, *where, *named, *horizon, *how)
            (out / DONE).touch()
        found = {}
        for name in OUTCOMES:
            table = pq.read_table(out / name / str(HORIZON_DAYS) / "predictions.parquet")
            label = table["boolean_value"].to_numpy(zero_copy_only=False)
            risk = table["predicted_boolean_probability"].to_numpy()
            is_known = 0 < label.sum() < len(label)
            found[name] = round(float(roc_auc_score(label, risk)), 4) if is_known else None
        return found


@torch.no_grad()
def held_out(model: Model, tokens: Path, config: TrainConfig) -> dict[str, Any]:
    """Bits of the held-out split, by class of token and for each recorded event.

    An event is a code, with its value where it has one, so tokenizers that hold values in one token
    or in two can be compared.
    """
    store = TokenStore.open(tokens)
    tokenizer, split = Tokenizer.load(store.tokenizer_path), store.split("held_out")
    options = {"row_tokens": config.row_tokens, "rows_per_step": config.n_rows, "seed": 0}
    loader = Loader(split, tokenizer.grammar(), **options)
    judged = replace(
        config, objectives={"next_event": 1.0}, outcomes=(), evaluation_tokens=HELD_OUT_TOKENS
    )
    (objective,) = from_store.Objectives(tokenizer, judged, tokens).build(model, split, first=False)
    sums, nats, n_codes = Sums(), 0.0, 0.0
    for batch in from_store.fixed_batches(loader, judged):
        hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
        head = objective.loss(model, hidden, batch)
        sums.add(objective.name, head)
        nats, n_codes = nats + float(head.parts["all"][0]), n_codes + head.parts["code"][1]
    bits = sums.part_means("next_event")
    return {
        "bits_per_token": {name: round(x / math.log(2), 5) for name, x in bits.items()},
        "bits_per_event": round(nats / max(n_codes, 1.0) / math.log(2), 5),
    }


def said_runs(n_done: int, n_planned: int) -> str:
    """How many runs a page is made of, and how many it waits for."""
    return f"{n_done} runs" if n_done >= n_planned else f"{n_done} of {n_planned} runs so far"


def mean_and_half_width(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval by Student's t; NaN from one value."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    scale = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(np.mean(values)), scale * float(stats.t.ppf(0.975, len(values) - 1))


def against_base(
    lines: list[dict[str, Any]], base: str, value: Any
) -> dict[tuple[str, str], tuple[float, float]]:
    """Difference of each arm to the base on each data set, paired by seed.

    Args:
        lines: of a sweep.
        base: name of the base arm.
        value: takes a line and gives its number, None where it has none.

    Returns:
        (arm, data set) -> mean difference and half width.
    """
    found = {(x["data_set"], x["arm"], x["seed"]): value(x) for x in lines}
    pairs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (data_set, arm, seed), number in found.items():
        other = found.get((data_set, base, seed))
        if arm != base and number is not None and other is not None:
            pairs[arm, data_set].append(number - other)
    return {key: mean_and_half_width(values) for key, values in pairs.items()}


def markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    """A table, its first column to the left."""
    parts = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in parts)


def save_plot(figure: Figure, path: Path) -> None:
    """Writes an SVG whose bytes depend on the figure only."""
    with mpl.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, format="svg", metadata={"Date": None})
