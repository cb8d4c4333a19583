"""Folders of an accuracy measurement: clinics, token stores, runs, scores; each made once.

Two simulations of one configuration: subjects of the first train, subjects of the second are
scored. Same rates, same codes, other draws, so every scored subject is new, and the rows need not
be a tenth of what was tokenized. `check_same_clinic` compares what must be equal.

A step leaves `steps/<name>.json` when it is done; a later call in the same folder takes its result
and its seconds from there. Training goes on from its checkpoint; simulations and scores start over.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from benchmarks.gap_shuffle import shuffle_store

from chronoward import outcomes
from chronoward.cohort import CohortConfig, build_cohort
from chronoward.cohort.source import split_function
from chronoward.data import PreparedEvents
from chronoward.data.simulate import draw_config, simulate
from chronoward.errors import StateError
from chronoward.files import atomic_path, make_output_folder, read_json, write_json
from chronoward.score import CalibrationConfig, ScoreConfig, calibrate, score
from chronoward.score.rows import make_prefixes, read_cohort
from chronoward.store import TokenStore
from chronoward.store.codes import code_table
from chronoward.tokenize import tokenize
from chronoward.tokenize.check import verify
from chronoward.tokenizer import Tokenizer
from chronoward.train import TrainConfig, train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from chronoward.data.simulate import SimulationConfig
    from chronoward.data.simulate.config import Censoring

    Variant = Literal["main", "shuffled", "heavy"]
    Estimator = Literal["hazard", "scope"]

HORIZON_DAYS = 365
INFORMATIVE = ("heart_failure", "sim_spontaneous")
INDEPENDENT = "sim_independent"
OUTCOMES = (*INFORMATIVE, INDEPENDENT)
DEATH = "mortality"  # ends the risk of the others
OBJECTIVES = {"next_event": 1.0, "hazard": 0.5}
SAME_FILES = ("concept", "concept_ancestor", "concept_relationship", "vocabulary", "domain")
PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is simulated, trained and scored."""

    n_train: int
    """Subjects of the clinic that trains (all splits; eight in ten are the train split)."""
    n_evaluation: int
    """Subjects of the clinic that is scored."""
    n_rows: int
    """Rows scored, at most; one a subject."""
    n_rollouts: int
    """Rollouts a row, for all outcomes together, where rollouts are what is measured."""
    n_calibration_rows: int
    """Rows of the training clinic by whose risks the level is corrected."""
    train_minutes: float | None
    max_steps: int | None
    n_control_runs: int
    """Runs of each arm of the censoring control."""
    control_steps: int
    """Training steps of each of them."""
    threads: int = 2


class Study:
    """One measurement's folder.

    Args:
        folder: new, empty, or left by a measurement of the same plan.
        seed: of the configuration and of the simulations.
        commit: what is measured; kept with the folder.
        sizes: how much.

    Raises:
        StateError: the folder holds something else.
    """

    def __init__(self, folder: Path, seed: int, commit: str, sizes: Sizes) -> None:
        self.folder = folder
        self.seed = seed
        self.sizes = sizes
        self.reused: list[str] = []
        """Steps that an earlier call had done."""
        self._done: set[str] = set()
        self.interrupted: list[str] = []
        """Steps that were begun more than once: their seconds are of the last time only."""
        plan = {"seed": seed, "commit": commit, **asdict(sizes)}
        if (folder / PLAN).is_file():
            if read_json(folder / PLAN) != plan:
                message = f"{folder} holds a measurement of another commit or size"
                raise StateError(message)
        else:
            make_output_folder(folder)
            write_json(folder / PLAN, plan)
        (folder / "steps").mkdir(mode=0o700, exist_ok=True)

    def step(
        self, name: str, action: Callable[[], object], *, clean: Path | None = None
    ) -> dict[str, Any]:
        """Runs a step unless it is done.

        Args:
            name: of the step.
            action: does it.
            clean: what it makes and cannot resume.

        Returns:
            `seconds` (wall) and `attempts`.
        """
        path = self.folder / "steps" / f"{name}.json"
        state: dict[str, Any] = read_json(path) if path.is_file() else {"attempts": 0}
        if "seconds" in state:
            if name not in self._done:
                self.reused.append(name)
        else:
            state["attempts"] += 1
            write_json(path, state)
            if clean is not None and clean.exists():
                shutil.rmtree(clean)
            began = time.monotonic()
            action()
            state["seconds"] = round(time.monotonic() - began, 1)
            write_json(path, state)
        if state["attempts"] > 1 and name not in self._done:
            self.interrupted.append(name)
        self._done.add(name)
        return state

    def config(self, censoring: Censoring) -> SimulationConfig:
        """The clinic's configuration at a level of censoring (light, heavy)."""
        base = draw_config(self.seed)
        return replace(base, censoring=replace(base.censoring, level=censoring))

    def clinic(self, censoring: Censoring) -> Path:
        """The OMOP folder whose subjects train."""
        return self._simulated(f"clinic_{censoring}", self.sizes.n_train, self.seed, censoring)

    def unseen(self) -> Path:
        """The OMOP folder, with truth, whose subjects are scored: other draws, light censoring."""
        return self._simulated("unseen", self.sizes.n_evaluation, self.seed + 1, "light")

    def _simulated(self, name: str, n: int, seed: int, censoring: Censoring) -> Path:
        out = self.folder / name

        def make() -> None:
            simulate(out, n, seed, self.config(censoring), truth=True, oracle_rows=0)

        self.step(name, make, clean=out)
        return out

    def tokens(self, variant: Variant) -> Path:
        """The token store that a variant trains on: `main`, `shuffled` or `heavy`."""
        out = self.folder / f"tokens_{variant}"
        if variant == "shuffled":
            source = self.tokens("main")

            def shuffle() -> None:
                shuffle_store(source, out, self.seed)
                verify(out)

            self.step(out.name, shuffle, clean=out)
            return out
        clinic = self.clinic("light" if variant == "main" else "heavy")
        events = self._events(variant)
        self.step(
            out.name,
            lambda: tokenize(
                clinic, out, split="hash", threads=self.sizes.threads, events_dir=events
            ),
        )
        return out

    def _events(self, variant: Variant) -> Path:
        """Where a variant's clinic keeps its sorted events."""
        return self.folder / f"events_{variant}"

    def unseen_tokens(self, variant: Variant) -> Path:
        """The scored subjects in a variant's vocabulary (`shuffled` has that of `main`)."""
        owner: Variant = "main" if variant == "shuffled" else variant
        out = self.folder / f"tokens_unseen_{owner}"
        tokenizer = self.tokens(owner) / "tokenizer.json"
        self.step(
            out.name,
            lambda: tokenize(
                self.unseen(), out, tokenizer=tokenizer, split="hash", threads=self.sizes.threads
            ),
        )
        return out

    def cohort(self) -> Path:
        """The scored rows: those with a truth of every outcome, the lowest subject ids first."""
        out = self.folder / "cohort.parquet"
        if not out.is_file():
            rows = self._asked(self.unseen())
            with atomic_path(out) as temporary:
                pq.write_table(rows.slice(0, self.sizes.n_rows), temporary)
        return out

    def _asked(self, clinic: Path) -> pa.Table:
        """Subject and time of a clinic's rows with a truth of every outcome, by subject."""
        keys = ["subject_id", "prediction_time"]
        rows = self.truth(OUTCOMES[0], clinic).select(keys)
        for outcome in OUTCOMES[1:]:
            rows = rows.join(self.truth(outcome, clinic).select(keys), keys=keys, join_type="inner")
        return rows.sort_by([("subject_id", "ascending")])

    def known_rows(self, variant: Variant) -> Path:
        """A cohort of the clinic that a variant trains on, with what its record says came next.

        Chosen as the rows that are scored are, since a level holds for such rows; of the truth only
        their subjects and times are used.
        """
        out = self.folder / f"known_rows_{variant}"
        self.tokens(variant)
        clinic = self.clinic("heavy" if variant == "heavy" else "light")
        asked = self.folder / f"asked_{variant}.parquet"
        config = CohortConfig(index=f"file={asked}", outcomes=self.outcome_files())

        def make() -> None:
            with atomic_path(asked) as temporary:
                pq.write_table(self._asked(clinic), temporary)
            prepared = PreparedEvents.open(self._events(variant))
            build_cohort(prepared, out, config, split_of=split_function(prepared, "hash"))

        self.step(out.name, make, clean=out)
        return out

    def outcome_files(self) -> tuple[str, ...]:
        """Definitions of the outcomes, death last."""
        return (*(str(self.unseen() / "outcomes" / f"{name}.yaml") for name in OUTCOMES), DEATH)

    def truth(self, outcome: str, clinic: Path | None = None) -> pa.Table:
        """truth.parquet of one outcome at the horizon, by subject (of the unseen by default)."""
        table = pq.read_table((clinic or self.unseen()) / "truth.parquet")
        kept = pc.and_(
            pc.equal(table["outcome"], outcome), pc.equal(table["horizon_days"], HORIZON_DAYS)
        )
        return table.filter(kept).sort_by([("subject_id", "ascending")])

    def scored_truth(self, outcome: str) -> pa.Table:
        """The truth of the cohort's rows, in their order."""
        wanted = pq.read_table(self.cohort())["subject_id"]  # one row a subject
        truth = self.truth(outcome)
        return truth.filter(pc.is_in(truth["subject_id"], wanted))

    def training_events(self, variant: Variant, outcome: str) -> int:
        """Subjects of a variant's train split whose record holds the outcome."""
        store = TokenStore.open(self.tokens(variant))
        definition = outcomes.load(self.unseen() / "outcomes" / f"{outcome}.yaml")
        tokenizer = Tokenizer.load(store.tokenizer_path)
        found = outcomes.resolve(definition, code_table(store.path, tokenizer))
        wanted = tokenizer.token_ids_of(found)
        n_subjects = 0
        for shard in store.split("train").shards:
            places = np.flatnonzero(np.isin(shard.token_id, wanted))
            n_subjects += len(np.unique(np.searchsorted(shard.offsets, places, side="right")))
        return n_subjects

    def training(self, **fields: Any) -> TrainConfig:
        """What every model of the study is trained on, but for some fields of its config."""
        return TrainConfig(
            preset="tiny", objectives=OBJECTIVES, outcomes=self.outcome_files(), **fields
        )

    def run(self, variant: Variant) -> tuple[Path, float]:
        """A variant's model and the wall seconds of its training."""
        tokens, out = self.tokens(variant), self.folder / f"run_{variant}"
        sizes = self.sizes
        config = self.training(minutes=sizes.train_minutes, max_steps=sizes.max_steps)

        def make() -> None:
            threads = torch.get_num_threads()
            torch.set_num_threads(self.sizes.threads)
            try:
                train(tokens, out, config, resume=True)
            finally:
                torch.set_num_threads(threads)

        return out, float(self.step(out.name, make)["seconds"])

    def scores(self, variant: Variant, estimator: Estimator = "hazard") -> tuple[Path, float]:
        """Folder of a variant's risks, and the wall seconds of scoring.

        The seconds are of all outcomes, and of the correction of their level. That is for what the
        head says of `main` and `heavy`; of `shuffled` only ranks are compared, and rollouts (one
        pool of them answers for all outcomes) are reported as they come.
        """
        suffix = "" if estimator == "hazard" else f"_{estimator}"
        run, out = self.run(variant)[0], self.folder / f"scores_{variant}{suffix}"
        self.unseen_tokens(variant)  # neither this nor the cohort is part of scoring's seconds
        self.cohort()
        is_corrected = estimator == "hazard" and variant != "shuffled"
        if is_corrected:
            self.known_rows(variant)
        threads = self.sizes.threads

        def make() -> None:
            level = None
            if is_corrected:
                level = self.find_level(run, variant, out, threads=threads)
            config = ScoreConfig(
                estimator=estimator, n_rollouts=self.sizes.n_rollouts, calibration=level
            )
            self.score_cohort(run, variant, out, config, threads=threads)

        seconds = float(self.step(out.name, make, clean=out)["seconds"])
        return out, seconds

    def find_level(self, run: Path, variant: Variant, out: Path, *, threads: int) -> Path:
        """The correction of a run's level by the record that it was trained on, beside `out`."""
        level = out.with_name(f"{out.name}_calibration.json")
        level.unlink(missing_ok=True)
        calibrate(
            run,
            self.tokens(variant),
            self.known_rows(variant),
            out=level,
            config=CalibrationConfig(estimator="hazard", n_rows=self.sizes.n_calibration_rows),
            outcomes=self.outcome_files(),
            horizons=[HORIZON_DAYS],
            threads=threads,
        )
        return level

    def score_cohort(
        self, run: Path, variant: Variant, out: Path, config: ScoreConfig, *, threads: int
    ) -> None:
        """Scores the cohort's rows for all outcomes."""
        score(
            run,
            self.unseen_tokens(variant),
            self.cohort(),
            out=out,
            config=config,
            outcomes=self.outcome_files(),
            horizons=[HORIZON_DAYS],
            threads=threads,
        )

    def exponent(self, scores: Path, outcome: str) -> float:
        """By which a scored folder's risks were corrected; no row had the outcome before."""
        calibration = read_json(scores / "score.json")["calibration"]
        if calibration is None:
            return 1.0
        return float(calibration["levels"][outcome][str(HORIZON_DAYS)]["first"]["exponent"])

    def risks(self, scores: Path, outcome: str) -> pa.Table:
        """An outcome's rows of a scored folder, by subject.

        Raises:
            AssertionError: the scored rows are not the cohort's.
        """
        table = pq.read_table(scores / "predictions_detail.parquet")
        table = table.filter(pc.equal(table["outcome"], outcome))
        table = table.sort_by([("subject_id", "ascending")])
        wanted = pq.read_table(self.cohort())
        for name in ("subject_id", "prediction_time"):
            if not table[name].equals(wanted[name].cast(table[name].type)):
                message = f"{scores}: scored rows are not the cohort's {len(wanted)} rows"
                raise AssertionError(message)
        return table

    def check(self, *, least_train: int, least_rows: int) -> None:
        """Whether what is about to be measured can be: before the minutes are spent.

        Args:
            least_train: subjects of the train split.
            least_rows: rows scored.

        Raises:
            AssertionError: two clinics instead of one, too few subjects or rows, rows that cannot
                be scored, or a truth that drawn outcomes contradict.
        """
        check_same_clinic(self.clinic("light"), self.unseen())
        n_train = len(TokenStore.open(self.tokens("main")).split("train"))
        if n_train < least_train:
            message = f"{n_train} subjects to train on, {least_train} are asked for"
            raise AssertionError(message)
        store = TokenStore.open(self.unseen_tokens("main"))
        grammar = Tokenizer.load(store.tokenizer_path).grammar()
        rows = read_cohort(self.cohort())
        if len(rows) < least_rows:
            message = f"{len(rows)} rows, {least_rows} are asked for"
            raise AssertionError(message)
        counts = make_prefixes(rows, store, grammar, split="all", max_context=2048).counts
        if counts["scored"] != len(rows):
            message = f"some of {len(rows)} rows cannot be scored: {counts}"
            raise AssertionError(message)
        for outcome in OUTCOMES:
            check_truth(outcome, self.truth(outcome))


def check_same_clinic(first: Path, second: Path) -> None:
    """Two simulations are of one clinic: same rates, vocabulary and outcomes, other draws.

    Raises:
        AssertionError: they are not.
    """
    about = [read_json(folder / "simulation.json") for folder in (first, second)]
    names = [f"{name}.csv" for name in SAME_FILES]
    names += sorted(f"outcomes/{path.name}" for path in (first / "outcomes").glob("*.yaml"))
    other = [n for n in names if (first / n).read_bytes() != (second / n).read_bytes()]
    if about[0]["config"] != about[1]["config"] or about[0]["seed"] == about[1]["seed"] or other:
        message = f"not two draws of one clinic: {other or 'simulation.json'}"
        raise AssertionError(message)


def check_truth(outcome: str, truth: pa.Table) -> None:
    """Drawn outcomes agree with the truth's probabilities, within 4 standard errors of their sum.

    Raises:
        AssertionError: they do not.
    """
    p = np.asarray(truth["probability"].to_numpy())
    happened = np.asarray(truth["happened"].to_numpy(zero_copy_only=False))
    error = float(np.sqrt((p * (1 - p)).sum()))
    if abs(float(happened.sum()) - float(p.sum())) > 4 * error:
        message = f"{outcome}: {happened.sum()} of {p.sum():.1f} ± {error:.1f} expected events"
        raise AssertionError(message)
