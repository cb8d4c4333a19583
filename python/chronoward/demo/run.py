"""`chronoward demo`: strings the verbs together. Nothing here does what a verb could not do.

Without a source it simulates a clinic and brings its truth along; with one, outcomes, washout and
horizons follow from what the source holds, by the rules in `chronoward.demo.question`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronoward.cohort import CohortConfig, build_cohort
from chronoward.cohort.source import split_function
from chronoward.data import PreparedEvents, prepare, recognize
from chronoward.data.origin import as_source
from chronoward.data.simulate import simulate
from chronoward.demo.question import Question, ask
from chronoward.demo.steps import Steps
from chronoward.demo.summary import summarize
from chronoward.demo.timelines import draw_timelines
from chronoward.errors import require_at_least
from chronoward.evaluation.omop import evaluate_omop
from chronoward.evaluation.predictions import evaluate_predictions
from chronoward.evaluation.report import write_report
from chronoward.evaluation.run import write_predictions
from chronoward.evaluation.samples import SyntheticConfig, TooFewSubjectsError
from chronoward.evaluation.sections import write_section
from chronoward.evaluation.synthetic import evaluate_synthetic, too_few_section
from chronoward.files import write_json
from chronoward.schema import SPLITS
from chronoward.score import ScoreConfig, score
from chronoward.synthesize import SynthesisOptions, synthesize
from chronoward.tokenize import tokenize
from chronoward.train import Callbacks, TrainConfig, train

if TYPE_CHECKING:
    from collections.abc import Callable

    from chronoward.data.origin import Source, SourceLike

WORK = "work"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Sizes of the demo; the defaults fit ten minutes on two cores.

    Raises:
        ConfigError: a size out of range.
    """

    seed: int = 0
    n_subjects: int = 5000
    """Subjects of the simulated clinic."""
    train_minutes: float = 2.25
    n_rollouts: int = 8
    """Rollouts a row and outcome."""
    n_synthetic: int = 400
    """Synthetic subjects."""
    threads: int = 2

    def __post_init__(self) -> None:
        require_at_least(1, self, "n_subjects", "n_rollouts", "n_synthetic", "threads")


class _Demo:
    """The steps of one demo; each is a method that returns a few facts."""

    def __init__(
        self, source: Source | None, out: Path, config: DemoConfig, say: Callable[[str], None]
    ) -> None:
        self.out = out
        self.config = config
        self.say = say
        self.given = source
        self.folder = source if isinstance(source, Path) else out / "omop"
        """Where a simulation's truth lies; there is no such folder for a database or tables."""
        self.source: Source = self.folder if source is None else source
        self.truth = self.folder / "truth.parquet"

    def simulate(self) -> dict[str, Any]:
        simulate(
            self.folder,
            self.config.n_subjects,
            self.config.seed,
            truth=True,
            oracle_rows=0,
        )
        return {"subjects": self.config.n_subjects}

    def prepare(self) -> dict[str, Any]:
        events = prepare(self.source, self.events_dir, threads=self.config.threads)
        return {"events": events.n_events}

    @property
    def events_dir(self) -> Path:
        return self.out / WORK / "events"

    def tokenize(self) -> dict[str, Any]:
        store = tokenize(
            self.source,
            self.out / "tokens",
            threads=self.config.threads,
            events_dir=self.events_dir,
        )
        splits = [store.split(name) for name in SPLITS]
        return {
            "subjects": sum(len(split.subject_id) for split in splits),
            "tokens": sum(int(split.offsets[-1]) for split in splits),
        }

    def train(self) -> dict[str, Any]:
        config = TrainConfig(
            preset="tiny",
            minutes=self.config.train_minutes,
            seed=self.config.seed,
            evaluations=5,
            evaluation_tokens=16_384,
        )
        callbacks = Callbacks(say=lambda line: self.say(f"  {line}"))
        model = train(
            self.out / "tokens", self.out / "run", config, resume=True, callbacks=callbacks
        )
        return {"parameters": sum(p.numel() for p in model.parameters())}

    def cohort(self) -> dict[str, Any]:
        prepared = PreparedEvents.open(self.events_dir)
        question = ask(prepared, self.folder, self.out / "tokens")
        config = CohortConfig(
            index=question.index,
            index_title=question.index_title,
            outcomes=question.outcomes,
            horizon_days=question.horizon_days,
            washout_days=question.washout_days,
            seed=self.config.seed,
        )
        folder = self.out / WORK / "cohort"
        flow = build_cohort(prepared, folder, config, split_of=split_function(prepared, "source"))
        return {"rows": flow["rows"], "question": asdict(question)}

    def score(self, question: Question) -> dict[str, Any]:
        config = ScoreConfig(
            n_rollouts=self.config.n_rollouts, split=question.split, seed=self.config.seed
        )
        result = score(
            self.out / "run",
            self.out / "tokens",
            self.out / WORK / "cohort",
            question.outcomes,
            question.horizon_days,
            self.out / "risks",
            config,
            threads=self.config.threads,
        )
        return {"rollouts": int(result["n_rollouts_total"])}

    def synthesize(self) -> dict[str, Any]:
        options = SynthesisOptions(workers=self.config.threads)
        synthesize(
            self.out / "run",
            self.config.n_synthetic,
            self.out / "synthetic",
            seed=self.config.seed,
            options=options,
        )
        return {"subjects": self.config.n_synthetic}

    def evaluate(self) -> dict[str, Any]:
        folder = self.out / "evaluation"
        cohort = self.out / WORK / "cohort"
        truth = self.truth if self.given is None else None
        predictions = evaluate_predictions(self.out / "risks", cohort, truth)
        write_predictions(folder, predictions, cohort)
        write_section(folder, "omop", evaluate_omop(self.out / "synthetic"))
        try:
            synthetic = evaluate_synthetic(
                self.out / "synthetic",
                self.events_dir,
                self.events_dir,
                work_dir=self.out / WORK / "synthetic_events",
                config=SyntheticConfig(max_subjects=1000, n_replicates=50, seed=self.config.seed),
            )
        except TooFewSubjectsError:  # of a small source: the page says so
            synthetic = too_few_section()
        write_section(folder, "synthetic", synthetic)
        return {}

    def report(self, question: Question) -> dict[str, Any]:
        folder = self.out / "evaluation"
        timelines = draw_timelines(
            self.out, question.outcomes[0], max(question.horizon_days), seed=self.config.seed
        )
        write_section(folder, "timelines", timelines)
        write_report(folder, self.out / "report.html")
        return {}


def demo(
    source: SourceLike | None,
    out: Path | str,
    config: DemoConfig | None = None,
    *,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs the whole way and writes the demo folder.

    Args:
        source: OMOP or MEDS, as of `tokenize`; None: a simulated clinic.
        out: folder to make; one that an interrupted demo left is finished.
        config: sizes.
        say: takes a line now and then.

    Returns:
        What `summary.json` holds.

    Raises:
        DataError: the source is neither OMOP nor MEDS, or too small to train on.
        StateError: `out` holds something else.
    """
    config = config or DemoConfig()
    out = Path(out)
    given = None if source is None else as_source(source)
    if given is not None:
        recognize(given)
    name = str(given.resolve()) if isinstance(given, Path) else given and given.key
    plan = {"source": name, **asdict(config)}
    steps = Steps(out, plan, say)
    run = _Demo(given, out, config, say)
    if given is None:
        steps.run("simulate", run.simulate, clean=("omop",))
    steps.run("prepare", run.prepare)
    steps.run("tokenize", run.tokenize)
    steps.run("train", run.train)
    facts = steps.run("cohort", run.cohort, clean=(f"{WORK}/cohort",))
    question = Question.from_json(facts["question"])
    steps.run("score", lambda: run.score(question), clean=("risks",))
    steps.run("synthesize", run.synthesize)
    steps.run("evaluate", run.evaluate, clean=("evaluation",))
    steps.run("report", lambda: run.report(question), clean=("report.html",))
    summary = summarize(out, steps.seconds)
    write_json(out / "summary.json", summary)
    return summary
