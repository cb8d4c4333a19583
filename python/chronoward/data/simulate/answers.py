"""Writes what is known beside the data: truth.parquet, truth_cohort.parquet, oracle.json, outcomes.

truth.parquet: subject_id, prediction_time, outcome, horizon_days, probability, mc_se (0: exact),
latent_probability (given the hidden states), happened (in the whole life, censored or not).
truth_cohort.parquet: subject_id, prediction_time.
subtypes.parquet: subject_id, subtype (the planted kinds of heart failure).
oracle.json: AUROCs by outcome and horizon: time_aware, age_sex, order_only, value_blind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chronoward.data.simulate.chains import N_CLASSES
from chronoward.data.simulate.clinic import run_clinic
from chronoward.data.simulate.cohorts import IndexRows, choose_index_rows, happened
from chronoward.data.simulate.diseases import HEART_STATES
from chronoward.data.simulate.events import EVENT_ID, OUTCOMES
from chronoward.data.simulate.oracle import (
    demographics,
    learned_auroc,
    order_features,
    probability_auroc,
)
from chronoward.data.simulate.panel import CHAIN_INDEX
from chronoward.data.simulate.truth import Beliefs, Filter, probabilities
from chronoward.files import atomic_path, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.data.simulate.clinic import Clinic

    Risks = dict[tuple[str, int], NDArray[np.float64]]

HORIZONS_DAYS: Final = (365, 730)
ORACLE_OUTCOMES: Final = ("heart_failure", "sim_spontaneous", "sim_independent")
ROWS_PER_SUBJECT: Final = 4
"""Prediction times a subject in the clinic that the order-only oracle learns from."""
ORACLE_CHUNK_SUBJECTS: Final = 8192


def latent_beliefs(filter_: Filter, rows: NDArray[np.int64]) -> Beliefs:
    """Beliefs of one who sees the hidden states: all mass on what is."""
    clinic = filter_.clinic
    state = clinic.course.routine_state[filter_.visit_of[rows]]
    classes = clinic.population.latent_class[clinic.course.subject[rows]]
    states = tuple(
        np.repeat(np.eye(filter_.kernels[m].n_states)[:, state[:, m]][:, None], N_CLASSES, axis=1)
        for m in filter_.used
    )
    return Beliefs(np.eye(N_CLASSES)[:, classes], states)


def prediction_times(clinic: Clinic, rows: NDArray[np.int64]) -> pa.Array:
    """The ends of the rows' visits as timestamps."""
    return pa.array(clinic.visits.end[rows] * 60_000_000, pa.int64()).cast(pa.timestamp("us"))


def truth_table(clinic: Clinic, index: IndexRows, exact: Risks, latent: Risks) -> pa.Table:
    """truth.parquet: one row a subject, prediction time, outcome and horizon, at-risk only."""
    parts = []
    for (outcome, horizon), p in exact.items():
        keep = index.at_risk[outcome]
        rows = index.rows[keep]
        n = len(rows)
        parts.append(
            pa.table(
                {
                    "subject_id": pa.array(clinic.course.subject[rows] + 1, pa.int64()),
                    "prediction_time": prediction_times(clinic, rows),
                    "outcome": pa.array([outcome] * n, pa.string()),
                    "horizon_days": pa.array(np.full(n, horizon), pa.int32()),
                    "probability": pa.array(p[keep], pa.float64()),
                    "mc_se": pa.array(np.zeros(n), pa.float64()),
                    "latent_probability": pa.array(latent[outcome, horizon][keep], pa.float64()),
                    "happened": pa.array(happened(clinic, rows, outcome, horizon)),
                }
            )
        )
    return pa.concat_tables(parts)


def _write_parquet(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def write_truth(clinic: Clinic, folder: Path, rows_per_subject: int) -> int:
    """Writes the truth of a clinic; returns its number of prediction times."""
    index = choose_index_rows(clinic, rows_per_subject, OUTCOMES)
    filter_ = Filter(clinic)
    exact = probabilities(filter_, index.rows, filter_.beliefs(index.rows), OUTCOMES, HORIZONS_DAYS)
    hidden = latent_beliefs(filter_, index.rows)
    latent = probabilities(filter_, index.rows, hidden, OUTCOMES, HORIZONS_DAYS)
    _write_parquet(folder / "truth.parquet", truth_table(clinic, index, exact, latent))
    cohort = pa.table(
        {
            "subject_id": pa.array(clinic.course.subject[index.rows] + 1, pa.int64()),
            "prediction_time": prediction_times(clinic, index.rows),
        }
    )
    _write_parquet(folder / "truth_cohort.parquet", cohort)
    _write_parquet(folder / "subtypes.parquet", _subtypes(clinic))
    return len(index.rows)


def _subtypes(clinic: Clinic) -> pa.Table:
    """The planted kind of each subject's heart failure, where the record shows the diagnosis."""
    course = clinic.course
    shown = clinic.shown[course.event[clinic.shown] == EVENT_ID["heart_diagnosis"]]
    subject = course.subject[shown]
    state = course.final_state[subject, CHAIN_INDEX["heart"]].astype(np.int64)
    kinds = np.array([name.split(",")[0] for name in HEART_STATES], dtype=object)[state]
    return pa.table({"subject_id": pa.array(subject + 1), "subtype": pa.array(kinds, pa.string())})


def _oracle_rows(clinic: Clinic) -> dict[str, Any]:
    index = choose_index_rows(clinic, ROWS_PER_SUBJECT, ORACLE_OUTCOMES)
    out: dict[str, Any] = {
        "features": order_features(clinic, index.rows),
        "demographics": demographics(clinic, index.rows),
        "subject": clinic.course.subject[index.rows],
        "at_risk": index.at_risk,
    }
    for name, use_values in (("truth", True), ("blind", False)):
        filter_ = Filter(clinic, use_values=use_values)
        beliefs = filter_.beliefs(index.rows)
        out[name] = probabilities(filter_, index.rows, beliefs, ORACLE_OUTCOMES, HORIZONS_DAYS)
    return out


def oracle_scores(clinic: Clinic, n_rows: int) -> dict[str, Any]:
    """oracle.json, from about `n_rows` prediction times in other subjects of the same clinic.

    Args:
        clinic: gives configuration and seed; its own subjects are not used.
        n_rows: prediction times to simulate (200,000 for figures that are quoted).
    """
    parts: list[dict[str, Any]] = []
    found = 0
    while found < n_rows:
        n_subjects = min(ORACLE_CHUNK_SUBJECTS, max(2 * (n_rows - found) // ROWS_PER_SUBJECT, 256))
        other = run_clinic(
            clinic.config, n_subjects, clinic.seed + 1_000_003 * (len(parts) + 1), write=False
        )
        parts.append(_oracle_rows(other))
        parts[-1]["subject"] = parts[-1]["subject"] + len(parts) * ORACLE_CHUNK_SUBJECTS * 4
        found += len(parts[-1]["subject"])
    features = np.concatenate([p["features"] for p in parts])
    people = np.concatenate([p["demographics"] for p in parts])
    subject = np.concatenate([p["subject"] for p in parts])
    scores: dict[str, Any] = {"schema": 1, "n_rows": int(found)}
    for outcome in ORACLE_OUTCOMES:
        at_risk = np.concatenate([p["at_risk"][outcome] for p in parts])
        scores[outcome] = {}
        for horizon in HORIZONS_DAYS:
            key = (outcome, horizon)
            p = np.concatenate([part["truth"][key] for part in parts])[at_risk]
            blind = np.concatenate([part["blind"][key] for part in parts])[at_risk]
            who = subject[at_risk]
            scores[outcome][str(horizon)] = {
                "time_aware": round(probability_auroc(p, p), 4),
                "value_blind": round(probability_auroc(p, blind), 4),
                "order_only": round(learned_auroc(features[at_risk], p, who, n_iterations=120), 4),
                "age_sex": round(learned_auroc(people[at_risk], p, who, n_iterations=40), 4),
                "mean_probability": round(float(p.mean()), 6),
            }
    return scores


def write_oracle(clinic: Clinic, folder: Path, n_rows: int) -> None:
    """Writes oracle.json."""
    write_json(folder / "oracle.json", oracle_scores(clinic, n_rows))
