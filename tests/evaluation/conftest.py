from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit, logit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HORIZON = 365


def _detail(columns: dict[str, Any], outcome: str, generator: np.random.Generator) -> pa.Table:
    noisy = expit(logit(columns["truth"]) + generator.normal(0, 0.3, len(columns["truth"])))
    n = len(noisy)
    return pa.table(
        {
            "subject_id": columns["subject"],
            "prediction_time": pa.array(columns["time"], pa.timestamp("us")),
            "outcome": [outcome] * n,
            "horizon_days": pa.array([HORIZON] * n, pa.int32()),
            "estimator": ["reach"] * n,
            "risk": noisy,
            "mc_se": 0.1 * noisy,
            "n_rollouts": pa.array([32] * n, pa.int32()),
            "undetermined": np.zeros(n),
            "lower": noisy,
            "upper": noisy,
            "cif": [[float(r)] for r in noisy],
        }
    )


def write_made_up(folder: Path, n_subjects: int, *, base: float = -2.0, seed: int = 0) -> None:
    """Writes folder/score, folder/cohort and folder/truth.parquet: three codes, age, censoring."""
    generator = np.random.default_rng(seed)
    visits = generator.integers(1, 4, n_subjects)
    subject = np.repeat(np.arange(n_subjects, dtype=np.int64) - 5, visits)
    n = len(subject)
    person = generator.normal(0, 0.5, n_subjects)[subject + 5]
    age = generator.uniform(20, 90, n_subjects)[subject + 5]
    female = (generator.random(n_subjects) < 0.5)[subject + 5]
    prior = generator.random(n) < 0.15
    codes = generator.random((n, 40)) < 0.1
    score = base + 0.03 * (age - 55) + 1.0 * codes[:, 0] - 0.8 * codes[:, 1] + person + 1.5 * prior
    truth = expit(score)
    event = generator.random(n) < truth
    time = np.where(event, generator.uniform(1, 365, n), 500.0)
    died = ~event & (generator.random(n) < 0.05)
    time = np.where(died, generator.uniform(1, 365, n), time)
    censor = np.where(generator.random(n) < 0.3, generator.uniform(1, 500, n), 500.0)
    kind = np.where(censor < time, "censored", np.where(event, "outcome", "death"))
    kind = np.where((time >= 500) | (censor < time), "censored", kind)
    columns = {
        "subject": subject,
        "truth": truth,
        "time": np.arange(n, dtype=np.int64) * 86_400_000_000,
    }
    held_out = subject % 2 == 0
    (folder / "score").mkdir(parents=True)
    (folder / "cohort").mkdir()
    table = _detail(columns, "heart_failure", generator)
    pq.write_table(table.filter(held_out), folder / "score" / "predictions_detail.parquet")
    keys = table.select(["subject_id", "prediction_time"])
    outcomes = keys.append_column("outcome", table["outcome"])
    outcomes = outcomes.append_column("days_to_event", pa.array(np.minimum(time, censor)))
    outcomes = outcomes.append_column("event", pa.array(kind.tolist()))
    outcomes = outcomes.append_column("prior_outcome", pa.array(prior))
    outcomes = outcomes.append_column("at_risk", pa.array(~prior))
    pq.write_table(outcomes, folder / "cohort" / "outcomes.parquet")
    bags = [np.flatnonzero(row).astype(np.int32) for row in codes]
    covariates = keys.append_column(
        "split", pa.array(np.where(held_out, "held_out", "train").tolist())
    )
    extra = {
        "age_years": pa.array(age),
        "sex": pa.array(np.where(female, "F", "M").tolist()),
        "race": pa.array(["unknown"] * n),
        "calendar_year": pa.array(2010 + generator.integers(0, 4, n), pa.int32()),
        "n_prior_events": pa.array([len(b) for b in bags], pa.int32()),
        "silence_days": pa.array(generator.choice([0.0, 10.0, 60.0, 400.0], n)),
        "code_index": pa.array(bags, pa.list_(pa.int32())),
        "code_count": pa.array([np.ones(len(b), np.int32) for b in bags], pa.list_(pa.int32())),
    }
    for name, column in extra.items():
        covariates = covariates.append_column(name, column)
    pq.write_table(covariates, folder / "cohort" / "covariates.parquet")
    about = {"schema": 1, "titles": {"heart_failure": "Heart failure"}, "index": "random_visit"}
    (folder / "cohort" / "cohort.json").write_text(json.dumps(about))
    truth_table = keys.append_column("outcome", table["outcome"])
    truth_table = truth_table.append_column("horizon_days", table["horizon_days"])
    truth_table = truth_table.append_column("probability", pa.array(truth))
    pq.write_table(truth_table, folder / "truth.parquet")


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with score/, cohort/ and truth.parquet of 1,500 subjects."""
    folder = tmp_path_factory.mktemp("made_up")
    write_made_up(folder, 1500)
    return folder


@pytest.fixture
def make_up() -> Callable[..., None]:
    """Writes such a folder of another size."""
    return write_made_up
