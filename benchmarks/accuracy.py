"""R5: are risks right on a clinic nobody tuned to? Judged against the truth's own probabilities, so
few events make no noise; drawn outcomes stand beside.

The clinic: `draw_config(seed)` redraws every rate and half-life, seed = the first 8 hex digits of
the measured commit. A model trains on one simulation of it and scores the subjects of another
(other draws, same rates and codes, which is checked): all of those are unseen, and 2,000 rows need
8,000 subjects where a held-out tenth of one clinic would need 60,000. The first 2,200 subjects with
a truth of every outcome are scored, one row each: everyone at risk of all of them, as
`truth_cohort.parquet` has it.

What is judged are the risks of the hazard head, trained along with `next_event` on the outcomes
asked for and on death, corrected in level by the record of the train split (`calibrate`). Rollouts
of the same model, which needs no list of outcomes for them, stand beside, uncorrected
(`rollouts_*`; one pool of rollouts a row for all outcomes, `scope`): a run of minutes ranks worse
by them than by its head, see CONTRIBUTING.

Judged: AUROC, O/E = ΣP / Σpredicted, and gain_share = (AUROC − age×sex) / (oracle − age×sex), where
the oracle is the AUROC of P itself and age×sex is `evaluation.baselines` fitted on the *training*
clinic's train split, to P instead of drawn outcomes: without their noise it is harder to beat.
Intervals are from bootstrap draws of subjects.

Controls: `shuffled` trains on histories whose gaps changed places (`gap_shuffle`) and scores the
same rows; AUROC must fall. `censoring` trains on the same clinic, same lives, with records that end
much earlier (and their own vocabulary) and on the light ones, several runs of each (see
`benchmarks.censoring`), and scores the same rows; mean risks must agree. The history-independent
outcome has no gain to find: its AUROC must be that of its oracle within what a study of this size
can tell: its interval is that of outcomes redrawn from P, subjects redrawn too. (Against P itself
nothing ranks better than P, so that AUROC is below the oracle's in every draw of subjects, however
little, and the outcomes that the simulation happened to draw may be eight; the line has both
intervals beside.)

R5 measures everything and takes about 90 minutes on two cores; R5.main, R5.shuffled, R5.censoring
and R5.rollouts are its parts. `run.py --quick` without ids leaves it out; `run.py R5 --quick` takes
minutes on a clinic of 3,000 and shows that it goes through, no more. With `--work-dir DIR` folders
stay, and an interrupted measurement of the same commit goes on there (finished steps are taken
over; `reused` and `interrupted` in the lines name them).
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.censoring import control_scores, mean_risk_line
from benchmarks.clinic_study import INDEPENDENT, INFORMATIVE, OUTCOMES, Sizes, Study
from benchmarks.judged import N_REPLICATES, Judged, bounds, rows_line
from benchmarks.record import commit
from scipy import sparse

from chronoward.errors import StateError
from chronoward.evaluation import calibration as cal
from chronoward.evaluation import discrimination as disc
from chronoward.evaluation.baselines import Covariates, TrainLabels, fit_and_score
from chronoward.evaluation.intervals import (
    Estimate,
    bootstrap_counts,
    cluster_index,
    percentile_interval,
)
from chronoward.evaluation.threads import single_threaded
from chronoward.files import read_json
from chronoward.store import TokenStore
from chronoward.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from benchmarks.clinic_study import Estimator, Variant
    from benchmarks.record import Measurement
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FULL = Sizes(
    n_train=60_000,
    n_evaluation=8000,
    n_rows=2200,
    n_rollouts=16,
    n_calibration_rows=4000,
    train_minutes=8.5,
    max_steps=None,
    n_control_runs=3,
    control_steps=1500,
)
QUICK = Sizes(
    n_train=3000,  # the rarest outcome happens in heavily censored records too
    n_evaluation=200,
    n_rows=50,
    n_rollouts=2,
    n_calibration_rows=20,
    train_minutes=None,
    max_steps=30,
    n_control_runs=2,
    control_steps=20,
)
LEAST_TRAIN, LEAST_ROWS = 5000, 2000
BUDGET_SECONDS = 900.0  # training and scoring together
OE_ASKED = (0.8, 1.25)
GAIN_ASKED = 0.4
US_PER_DAY = 86_400_000_000
SEX = np.array(["U", "F", "M"])  # GrammarTables.sex_of


def gain_share(rows: Judged, weight: Floats | None = None) -> float:
    """(AUROC − age×sex) / (oracle − age×sex); NaN where age and sex say as much as the truth."""
    own, trivial, oracle = (rows.auroc(s, weight) for s in (rows.risk, rows.age_sex, rows.truth))
    return (own - trivial) / (oracle - trivial) if oracle > trivial else float("nan")


def observed_expected(rows: Judged, weight: Floats) -> float:
    """ΣP / Σpredicted."""
    return float((weight * rows.truth).sum() / (weight * rows.risk).sum())


def redrawn_auroc(rows: Judged) -> Estimate:
    """AUROC against the truth, with the interval that studies of this size have: subjects drawn
    again, and each row's outcome from its P."""
    cluster, n_clusters = cluster_index(rows.subject)
    generator = np.random.default_rng(0)
    draws = [
        disc.auroc(generator.random(len(rows.truth)) < rows.truth, rows.risk, counts[cluster])
        for counts in bootstrap_counts(n_clusters, N_REPLICATES, 0)
    ]
    return percentile_interval(rows.auroc(rows.risk), np.array(draws))


def auroc_line(rows: Judged) -> Measurement:
    """AUROC beside its oracle's, and both from drawn outcomes."""
    found = rows.interval(lambda weight: rows.auroc(rows.risk, weight), "logit")
    difference = rows.interval(
        lambda weight: rows.auroc(rows.risk, weight) - rows.auroc(rows.truth, weight)
    )
    oracle = rows.auroc(rows.truth)
    cluster, n_clusters = cluster_index(rows.subject)
    drawn = disc.clustered_delong(rows.happened, rows.risk, cluster, n_clusters)
    more = {
        **bounds(found),
        "minus_oracle": difference.to_json(),
        "drawn_auroc": drawn.to_json(),
        "drawn_oracle": Estimate(disc.auroc(rows.happened, rows.truth)).to_json()["value"],
    }
    if rows.outcome == INDEPENDENT:
        redrawn = redrawn_auroc(rows)
        more |= {
            "redrawn_auroc": redrawn.to_json(),
            "asked": "interval of redrawn outcomes holds the oracle",
            "met": redrawn.lower <= oracle <= redrawn.upper,
        }
    return rows_line(
        rows,
        f"auroc_{rows.outcome}",
        found.value,
        "AUROC against the truth",
        against="oracle",
        baseline=oracle,
        more=more,
    )


def gain_line(rows: Judged) -> Measurement:
    """The share of what could be gained over age and sex."""
    found = rows.interval(lambda weight: gain_share(rows, weight))
    more = {**bounds(found), "asked": f">= {GAIN_ASKED}", "met": found.value >= GAIN_ASKED}
    return rows_line(
        rows,
        f"gain_share_{rows.outcome}",
        found.value,
        "(AUROC - age×sex) / (oracle - age×sex)",
        more=more,
    )


def oe_line(rows: Judged) -> Measurement:
    """O/E; the truth's own is 1, that of age and sex stands beside."""
    found = rows.interval(lambda weight: observed_expected(rows, weight), "log")
    low, high = OE_ASKED
    ones = np.ones(len(rows.risk))
    cluster, n_clusters = cluster_index(rows.subject)
    judged = cal.Rows(rows.happened, rows.risk, ones, cluster, n_clusters)
    drawn = cal.observed_expected(rows.happened.astype(np.float64), judged)
    more = {
        **bounds(found),
        "trivial_oe": float(rows.truth.sum() / rows.age_sex.sum()),
        "uncorrected_oe": float(rows.truth.sum() / rows.uncorrected.sum()),
        "drawn_oe": drawn.to_json(),
        "asked": f"{low} to {high}",
        "met": low <= found.value <= high,
    }
    return rows_line(rows, f"oe_{rows.outcome}", found.value, "ΣP / Σpredicted", more=more)


def paired_auroc_line(rows: Judged, other: Judged) -> Measurement:
    """How far the AUROC falls when the model has learned from shuffled gaps; same rows."""
    fall = rows.interval(
        lambda weight: rows.auroc(rows.risk, weight) - rows.auroc(other.risk, weight)
    )
    more = {
        **bounds(fall),
        "auroc_shuffled": other.auroc(other.risk),
        "asked": "interval above 0",
        "met": fall.lower > 0,
        "control": _control_facts(other),
    }
    return rows_line(
        rows,
        f"shuffled_fall_{rows.outcome}",
        fall.value,
        "AUROC, times as they were minus gaps shuffled before training",
        against="gaps shuffled before training",
        baseline=rows.auroc(rows.risk),
        seconds=other.seconds,
        more=more,
    )


def _control_facts(rows: Judged) -> dict[str, Any]:
    return {key: rows.facts[key] for key in ("model", "seconds_train", "seconds_score")}


def _covariates(age_years: Floats, sex: NDArray[Any]) -> Covariates:
    n = len(sex)
    none = sparse.csr_array((n, 1), dtype=np.float64)  # age and sex only
    return Covariates(age_years, sex, np.zeros(n, np.bool_), none)


def _age_and_sex(store: TokenStore, truth: pa.Table) -> tuple[Floats, NDArray[Any]]:
    """Age at the prediction time and sex of rows, as the token store knows them."""
    grammar = Tokenizer.load(store.tokenizer_path).grammar()
    n_prompt = len(grammar.prompt_classes)
    found = {}
    for name in ("train", "tuning", "held_out"):
        split = store.split(name)
        for i in np.flatnonzero(np.isin(split.subject_id, truth["subject_id"].to_numpy())):
            timeline = split.timeline(int(i))
            head = timeline.token_id[:n_prompt]
            birth = np.nan if grammar.age_unknown_id in head else float(timeline.origin_us)
            found[timeline.subject_id] = (birth, grammar.sex_of(head))
    rows = [found[subject] for subject in truth["subject_id"].to_pylist()]
    birth_us = np.array([birth for birth, _ in rows])
    time_us = np.asarray(truth["prediction_time"].cast("timestamp[us]").cast("int64").to_numpy())
    return (time_us - birth_us) / (365.25 * US_PER_DAY), SEX[[sex for _, sex in rows]]


@single_threaded
def age_sex_risk(study: Study, outcome: str, rows: pa.Table) -> Floats:
    """Risks by age and sex: fitted to P on train subjects, each an event with weight P and none
    with weight 1 − P.

    Args:
        study: the measurement.
        outcome: its name.
        rows: truth of the rows to score, subjects of the unseen clinic.
    """
    store = TokenStore.open(study.tokens("main"))
    train = study.truth(outcome, study.clinic("light"))
    train = train.filter(np.isin(train["subject_id"].to_numpy(), store.split("train").subject_id))
    age, sex = _age_and_sex(store, train)
    p = np.asarray(train["probability"].to_numpy())
    twice = np.tile(np.asarray(train["subject_id"].to_numpy()), 2)
    labels = TrainLabels(np.repeat([True, False], len(p)), np.concatenate([p, 1 - p]), twice)
    scored = _age_and_sex(TokenStore.open(study.unseen_tokens("main")), rows)
    both = _covariates(np.tile(age, 2), np.tile(sex, 2))
    return fit_and_score(both, labels, _covariates(*scored))["age_sex"]


def beside_truth(
    study: Study, variant: Variant, outcome: str, scores: Path, age_sex: Floats
) -> Judged:
    """A variant's scored rows of an outcome, joined with the truth and the risk by age and sex."""
    table = study.risks(scores, outcome)
    truth = study.scored_truth(outcome)
    rows = Judged(
        outcome,
        np.asarray(table["subject_id"].to_numpy()),
        np.asarray(table["risk"].to_numpy()),
        np.asarray(truth["probability"].to_numpy()),
        age_sex,
        np.asarray(truth["happened"].to_numpy(zero_copy_only=False)),
        exponent=study.exponent(scores, outcome),
    )
    rows.facts.update(
        oracle=rows.auroc(rows.truth),
        trivial=rows.auroc(rows.age_sex),
        quick=study.sizes == QUICK,
        n_clinic=study.sizes.n_train,
        horizon_days=int(table["horizon_days"][0].as_py()),
        n_rows=len(table),
        n_subjects=len(np.unique(rows.subject)),
        n_events=int(rows.happened.sum()),
        n_training_events=study.training_events(variant, outcome),
        mean_risk=float(rows.risk.mean()),
        exponent=rows.exponent,
        mean_truth=float(rows.truth.mean()),
        mean_mc_se=float(np.nanmean(table["mc_se"].to_numpy())),
        undetermined=float(np.mean(table["undetermined"].to_numpy())),
        config=f"draw_config({study.seed})",
    )
    return rows


def judge(study: Study, variant: Variant, outcome: str, estimator: Estimator = "hazard") -> Judged:
    """Trains and scores a variant, unless that is done, and joins its rows with the truth."""
    scores, seconds_score = study.scores(variant, estimator)
    run, seconds_train = study.run(variant)
    age_sex = age_sex_risk(study, outcome, study.scored_truth(outcome))
    rows = beside_truth(study, variant, outcome, scores, age_sex)
    if estimator != "hazard":
        rows.facts["n_rollouts"] = study.sizes.n_rollouts
    rows.facts.update(
        estimator=estimator,
        model=read_json(run / "config.json")["weights"],
        seconds_train=seconds_train,
        seconds_score=seconds_score,
        threads=study.sizes.threads,
    )
    return replace(rows, seconds=seconds_train + seconds_score)


def _with_budget(study: Study, judged: list[Judged]) -> list[Judged]:
    """Adds what training and scoring took together (null where a step was not done in one go)."""
    facts = judged[0].facts  # all outcomes are scored together
    total = facts["seconds_train"] + facts["seconds_score"]
    for rows in judged:
        rows.facts.update(
            seconds_train_and_score=round(total, 1),
            budget_seconds=BUDGET_SECONDS,
            within_budget=None if study.interrupted else total <= BUDGET_SECONDS,
            reused=list(study.reused),
            interrupted=list(study.interrupted),
        )
    return [replace(rows, seconds=total) for rows in judged]


def _main(study: Study) -> list[Judged]:
    """The main model's scores of every outcome."""
    return _with_budget(study, [judge(study, "main", outcome) for outcome in OUTCOMES])


def _main_lines(judged: list[Judged]) -> Iterator[Measurement]:
    for rows in judged:
        yield auroc_line(rows)
        if rows.outcome in INFORMATIVE:
            yield gain_line(rows)


def _shuffled_lines(study: Study, spontaneous: Judged) -> Iterator[Measurement]:
    yield paired_auroc_line(spontaneous, judge(study, "shuffled", spontaneous.outcome))


def _rollout_lines(study: Study) -> Iterator[Measurement]:
    """What rollouts of the main model say; nothing is asked of them."""
    for outcome in OUTCOMES:
        rows = judge(study, "main", outcome, "scope")
        lines = [auroc_line(rows), oe_line(rows)]
        if outcome in INFORMATIVE:
            lines.append(gain_line(rows))
        for line in lines:
            told = {key: value for key, value in line.extra.items() if key not in ("asked", "met")}
            yield replace(line, metric=f"rollouts_{line.metric}", extra=told)


def _censoring_lines(study: Study) -> Iterator[Measurement]:
    sizes = study.sizes
    facts = {"n_runs": sizes.n_control_runs, "n_steps": sizes.control_steps, "threads": 1}
    scores, seconds = control_scores(study)
    for outcome in OUTCOMES:
        age_sex = age_sex_risk(study, outcome, study.scored_truth(outcome))
        runs = {
            arm: [beside_truth(study, arm, outcome, path, age_sex) for path in paths]
            for arm, paths in scores.items()
        }
        runs["main"][0].facts.update(facts, estimator="hazard")
        yield replace(mean_risk_line(runs["main"], runs["heavy"]), seconds=seconds)


@contextmanager
def _opened(quick: bool, work_dir: Path | None) -> Iterator[Study]:
    """The measurement's folder, checked: a temporary one unless a folder is named.

    Raises:
        StateError: not a git checkout, so there is no commit to draw a clinic from, or `work_dir`
            holds something else.
        AssertionError: what is to be measured is not sound, see `Study.check`.
    """
    measured = commit()
    if measured.startswith("unknown"):
        message = "R5 draws its clinic from the commit: run it in a git checkout"
        raise StateError(message)
    seed = int(measured[:8], 16)
    with tempfile.TemporaryDirectory(prefix="chronoward-r5-") as temporary:
        folder = work_dir or Path(temporary) / "study"
        study = Study(folder, seed, measured, QUICK if quick else FULL)
        least = (0, 1) if quick else (LEAST_TRAIN, LEAST_ROWS)
        study.check(least_train=least[0], least_rows=least[1])
        yield study


def measure(quick: bool, work_dir: Path | None = None) -> Iterator[Measurement]:
    """All lines of R5: ranking, the controls, and last O/E an outcome."""
    with _opened(quick, work_dir) as study:
        judged = _main(study)
        yield from _main_lines(judged)
        yield from _rollout_lines(study)
        yield from _shuffled_lines(study, judged[OUTCOMES.index("sim_spontaneous")])
        yield from _censoring_lines(study)
        yield from map(oe_line, judged)


def measure_main(quick: bool, work_dir: Path | None = None) -> Iterator[Measurement]:
    """The lines of R5 without its controls."""
    with _opened(quick, work_dir) as study:
        judged = _main(study)
        yield from _main_lines(judged)
        yield from map(oe_line, judged)


def measure_shuffled(quick: bool, work_dir: Path | None = None) -> Iterator[Measurement]:
    """What shuffled gaps cost (trains the main model too, unless the folder has it)."""
    with _opened(quick, work_dir) as study:
        yield from _shuffled_lines(study, judge(study, "main", "sim_spontaneous"))


def measure_censoring(quick: bool, work_dir: Path | None = None) -> Iterator[Measurement]:
    """Mean risks under heavy censoring over those under light, by runs of its own."""
    with _opened(quick, work_dir) as study:
        yield from _censoring_lines(study)


def measure_rollouts(quick: bool, work_dir: Path | None = None) -> Iterator[Measurement]:
    """What rollouts say (trains the main model too, unless the folder has it)."""
    with _opened(quick, work_dir) as study:
        yield from _rollout_lines(study)


MEASURES = {
    "R5": measure,
    "R5.main": measure_main,
    "R5.shuffled": measure_shuffled,
    "R5.censoring": measure_censoring,
    "R5.rollouts": measure_rollouts,
}
