"""`chronoward score`: zero-shot risks of a cohort's rows, with standard errors and bounds."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronoward.errors import DataError
from chronoward.files import make_output_folder, sha256_file, write_json
from chronoward.score.calibration import Calibration
from chronoward.score.estimators import mean_undetermined
from chronoward.score.job import ScoreConfig, ScoreJob
from chronoward.score.output import Scores, detail_table, write_predictions, write_table
from chronoward.score.rows import read_cohort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chronoward.score.estimators import RowEstimate
    from chronoward.score.job import Progress


def _check_determined(estimates: list[list[RowEstimate]]) -> None:
    if any((e.undetermined > 0).any() for row in estimates for e in row):
        message = "some rollouts are undetermined (raise max_new_tokens)"
        raise DataError(message)


def score(
    run: Path | str,
    tokens: Path | str,
    cohort: Path | str,
    outcomes: Sequence[str],
    horizons: Sequence[int],
    out: Path | str,
    config: ScoreConfig | None = None,
    *,
    threads: int = 1,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Estimates each row's risk of each outcome by each horizon.

    Args:
        run: RUN folder.
        tokens: token store that holds the cohort's subjects.
        cohort: cohort folder or MEDS label file.
        outcomes: names or YAML files of outcome definitions.
        horizons: days.
        out: a new or empty folder.
        config: estimator, rollouts, split, calibration.
        threads: worker processes; the result does not depend on it.
        progress: called with (rows done, rows in all, the engines' counts so far or None).
        options: fields of `ScoreConfig` that differ from `config`.

    Returns:
        The content of `score.json`.

    Raises:
        ConfigError: an outcome without a token, no rollouts, a run trained with repeat weights, a
            calibration of other outcomes, horizons or estimators.
        DataError: unknown subjects or repeated rows in the cohort.
        FormatError: run and store have different tokenizers, or the calibration is of another run.
        StateError: `out` has content.
    """
    began = time.monotonic()
    config = replace(config or ScoreConfig(), **options)
    rows = read_cohort(cohort)
    job = ScoreJob.open(run, tokens, rows, outcomes, horizons, config)
    correction = Calibration.read(config.calibration).check(job) if config.calibration else None
    out = make_output_folder(Path(out))
    estimates = job.estimate(threads=threads, progress=progress)
    if config.strict:
        _check_determined(estimates)
    if correction is not None:
        estimates = correction.apply(job, estimates)
    found = job.outcomes
    scores = Scores(job.prefixes, found.names, job.horizons_days, config.estimator, estimates)
    write_table(out / "predictions_detail.parquet", detail_table(scores))
    labels = write_predictions(out, scores, rows, threshold=config.threshold)
    report = {
        "schema": 1,
        "model": job.weights,
        "tokenizer": job.tokenizer.hash,
        "cohort": sha256_file(rows.path),
        "estimator": config.estimator,
        "n_rollouts": config.n_rollouts,
        "target_se": None if config.n_rollouts else config.target_se,
        "n_rollouts_total": sum(e.n_rollouts for row in estimates for e in row),
        "calibration": None if correction is None else correction.to_json(),
        "seed": config.seed,
        **config.decoding._asdict(),
        "split": config.split,
        "threshold": config.threshold,
        "horizons_days": job.horizons_days,
        "outcomes": {n: len(s) for n, s in zip(found.names, found.sets, strict=True)},
        "competing_death": job.competing_death,
        "max_context": job.max_context,
        "rows": job.prefixes.counts,
        "labels": labels,
        "undetermined": mean_undetermined(estimates),
        "seconds": round(time.monotonic() - began, 3),
    }
    write_json(out / "score.json", report)
    return report
