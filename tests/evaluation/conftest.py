from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit, logit

from chronoward.evaluation.predictions import EvaluationConfig, evaluate_predictions
from chronoward.evaluation.run import write_predictions
from chronoward.evaluation.samples import SyntheticConfig, read_samples
from chronoward.evaluation.sections import write_section
from chronoward.evaluation.synthetic import compare
from chronoward.schema import Role, event_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HORIZON = 365
DAY = 86_400_000_000


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


def _row(subject: int, day: float, role: Role, code: str, **more: Any) -> dict[str, Any]:
    time = int(day * DAY)
    base = dict.fromkeys(event_schema().names)
    table = {Role.CODE: "condition_occurrence"}.get(role, "person")
    return base | {
        "subject_id": subject,
        "time": time,
        "available_time": time,
        "role": int(role),
        "table": table,
        "code": code,
        **more,
    }


def _subject_rows(
    subject: int, generator: np.random.Generator, *, gap: float
) -> list[dict[str, Any]]:
    """A chain of visits; code A brings B in the same visit and C in the next."""
    rows = [_row(subject, 0, Role.BIRTH, "MEDS_BIRTH")]
    sex = "Gender/F" if generator.random() < 0.5 else "Gender/M"
    rows.append({**_row(subject, 0, Role.SEX, sex), "time": None, "available_time": None})
    day = 365.25 * generator.uniform(20, 60)
    ill = False
    for visit in range(int(generator.integers(4, 9))):
        start = _row(subject, day, Role.VISIT, "Visit/OP", visit_id=visit)
        rows.append({**start, "end_time": start["time"] + DAY // 24})
        codes = [f"N{c}" for c in np.flatnonzero(generator.random(8) < 0.15)]
        codes += ["C"] if ill else []
        ill = bool(generator.random() < 0.25)
        codes += ["A", "B"] if ill else []
        rows += [_row(subject, day, Role.CODE, code, visit_id=visit) for code in codes]
        lab = _row(subject, day, Role.CODE, "L", visit_id=visit)
        value = float(generator.normal(140 if "A" in codes else 100, 10))
        rows.append({**lab, "table": "measurement", "numeric_value": value, "unit": "mg/dL"})
        day += generator.exponential(gap)
    return rows


@dataclass
class MadeUpEvents:
    table: pa.Table
    has_visits: bool = True
    splits: pa.Table | None = None

    @classmethod
    def of(cls, n: int, seed: int, *, gap: float = 90.0) -> MadeUpEvents:
        generator = np.random.default_rng(seed)
        rows = [r for s in range(n) for r in _subject_rows(s, generator, gap=gap)]
        return cls(pa.Table.from_pylist(rows, schema=event_schema()))

    @property
    def codes(self) -> pa.Table:
        pairs = self.table.group_by(["table", "code"]).aggregate([])
        n = len(pairs)
        pairs = pairs.append_column("description", pa.array([None] * n, pa.string()))
        return pairs.append_column("domain_id", pa.array(["Condition"] * n))

    def batches(self) -> Iterator[pa.Table]:
        yield self.table


@pytest.fixture(scope="session")
def made_up_events() -> Callable[..., MadeUpEvents]:
    """Events of (n subjects, seed, gap=days between visits), without files."""
    return MadeUpEvents.of


def made_up_timelines() -> dict[str, Any]:
    """Three synthetic subjects, and one prefix with twelve rollouts."""
    generator = np.random.default_rng(5)
    labels = {
        "condition": ["Essential hypertension", "Type 2 diabetes mellitus", "Heart failure"],
        "drug": ["lisinopril", "metformin", "furosemide"],
        "measurement": ["Hemoglobin A1c", "Creatinine"],
        "procedure": ["Echocardiography"],
    }

    def life(first: float, last: float, n: int, **more: Any) -> dict[str, Any]:
        days = np.sort(generator.uniform(first, last, n))
        events, visits = [], []
        for day in days.tolist():
            stay = float(generator.exponential(4)) if generator.random() < 0.2 else 0.05
            visits.append({"start": day, "end": day + stay, "type": "IP" if stay > 1 else "OP"})
            for _ in range(int(generator.integers(1, 6))):
                domain = str(generator.choice(list(labels), p=[0.3, 0.3, 0.3, 0.1]))
                value = float(generator.normal(7, 1)) if domain == "measurement" else None
                label = str(generator.choice(labels[domain]))
                unit = "%" if value is not None else None
                event = {"day": day, "domain": domain, "label": label, "value": value}
                events.append({**event, "unit": unit})
        return {"visits": visits, "events": events, "end_day": last, **more}

    subjects = [
        life(0, 4000, 30, title="Synthetic subject 1", age_years=51.2, sex="F", end="observation"),
        life(0, 1500, 14, title="Synthetic subject 2", age_years=74.0, sex="M", end="death"),
        life(0, 6500, 55, title="Synthetic subject 3", age_years=34.9, sex="F", end="observation"),
    ]
    paths = []
    for place in range(12):
        end = 365.0 if place != 7 else 210.0
        outcome = float(generator.uniform(30, 350)) if place in (2, 5, 9) else None
        status = "death" if place == 7 else "deadline"
        paths.append(life(1, end, 5, end=status, outcome_day=outcome))
    days = np.linspace(0, 365, 13)
    rollouts = {
        "title": "A synthetic subject, seen by the model",
        "outcome": "Heart failure",
        "horizon_days": 365,
        "prefix": life(-900, -1, 14),
        "paths": paths,
        "risk": {
            "days": days.tolist(),
            "mean": (0.2 * days / 365).tolist(),
            "lower": (0.15 * days / 365).tolist(),
            "upper": (0.26 * days / 365).tolist(),
        },
    }
    return {"subjects": subjects, "rollouts": rollouts}


@pytest.fixture(scope="session")
def made_up_evaluation(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation folder with every section, all of it made up."""
    out = tmp_path_factory.mktemp("evaluation")
    flow = {"candidates": 4100, "outside_observation": 0, "washout": 900, "not_alive": 100}
    counts = {"prior_outcome": 420, "at_risk": 2600}
    counts["365"] = {"events": 380, "deaths": 110, "censored": 520}
    flow["outcomes"] = {"heart_failure": counts}
    (made_up / "cohort" / "flow.json").write_text(json.dumps(flow))
    config = EvaluationConfig(n_replicates=40)
    section = evaluate_predictions(
        made_up / "score", made_up / "cohort", made_up / "truth.parquet", config=config
    )
    few = {
        **section["tasks"][0],
        "title": "Dementia",
        "outcome": "dementia",
        "curves": None,
        "status": "insufficient follow-up",
        "reason": "fewer than 20 events by the horizon; nothing is estimated",
        "verdict": {"level": "none", "headline": "Insufficient follow-up.", "not_when": []},
    }
    section["tasks"].append(few)
    write_predictions(out, section, made_up / "cohort")
    quick = SyntheticConfig(n_replicates=10)
    opened = {
        name: MadeUpEvents.of(150, seed)
        for seed, name in enumerate(("synthetic", "train", "held_out"))
    }
    write_section(out, "synthetic", compare(read_samples(opened, quick, by_split=False), quick))
    failed = {"name": "inside_visit", "severity": "soft", "table": "measurement"}
    failed |= {"column": "measurement_date", "violations": 12, "example_row": 4}
    omop = {"n_checks": 812, "hard_violations": 0, "soft_violations": 12, "failed": [failed]}
    write_section(out, "omop", {**omop, "rows": {"person": 1000, "death": "<11"}, "by_name": {}})
    write_section(out, "timelines", made_up_timelines())
    return out
