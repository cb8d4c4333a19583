from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronoward.errors import DataError
from chronoward.evaluation.predictions import (
    EvaluationConfig,
    evaluate_predictions,
    meds_dev_results,
)
from chronoward.evaluation.sections import plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUICK = EvaluationConfig(n_replicates=50)


@pytest.fixture(scope="module")
def section(made_up: Path) -> dict[str, Any]:
    found = evaluate_predictions(
        made_up / "score", made_up / "cohort", made_up / "truth.parquet", config=QUICK
    )
    return plain(found)


def test_a_good_model_beats_what_is_trivial_and_is_calibrated(section: dict[str, Any]) -> None:
    task = section["tasks"][0]
    group = task["groups"]["incident"]
    assert task["status"] == "ok"
    assert group["differences"]["age_sex"]["lower"] > 0
    assert group["differences"]["had_it_before"]["lower"] > 0
    assert 0.8 < group["model"]["observed_expected"]["value"] < 1.25
    assert task["verdict"]["beats"]["age_sex"] == "yes"


def test_incident_rows_hide_the_help_of_having_had_it(section: dict[str, Any]) -> None:
    groups = section["tasks"][0]["groups"]
    assert groups["incident"]["baselines"]["had_it_before"]["auroc"]["value"] == 0.5
    assert groups["all"]["baselines"]["had_it_before"]["auroc"]["value"] > 0.55


def test_truth_metrics_stand_beside(section: dict[str, Any]) -> None:
    truth = section["tasks"][0]["truth"]
    assert truth["oracle_auroc"] > truth["scores"]["model"]["auroc"]["value"]
    assert truth["gain_share"] > 0.4
    assert truth["scores"]["model"]["observed_expected"]["value"] == pytest.approx(1, abs=0.1)


def test_oracles_beside_the_truth_are_reported(made_up: Path, tmp_path: Path) -> None:
    (tmp_path / "truth.parquet").write_bytes((made_up / "truth.parquet").read_bytes())
    oracle = {"schema": 1, "heart_failure": {"365": {"time_aware": 0.74, "age_sex": 0.64}}}
    (tmp_path / "oracle.json").write_text(json.dumps(oracle))
    found = evaluate_predictions(
        made_up / "score", made_up / "cohort", tmp_path / "truth.parquet", config=QUICK
    )
    truth = found["tasks"][0]["truth"]
    assert truth["oracles"]["age_sex"] == 0.64
    own = truth["scores"]["model"]["auroc"]["value"]
    assert truth["gain_share_of_oracle"] == pytest.approx((own - 0.64) / 0.1)


def test_subgroups_and_silence_bands_are_reported(section: dict[str, Any]) -> None:
    kinds = section["tasks"][0]["subgroups"]
    assert {"sex", "age", "age and sex", "time since the last event"} <= set(kinds)
    assert [row["label"] for row in kinds["time since the last event"]] == [
        "0 days",
        "1–29 days",
        "30–179 days",
        "365+ days",
    ]


def test_death_and_undetermined_are_stated(section: dict[str, Any]) -> None:
    assert section["cohort"]["death_ascertainment"] == "not recorded"
    assert section["tasks"][0]["monte_carlo"]["mean_undetermined"] == 0.0
    assert section["tasks"][0]["survival"]["death_incidence"] > 0


def test_no_small_cell_is_in_the_section(section: dict[str, Any]) -> None:
    def counts(value: Any, name: str) -> list[Any]:
        if isinstance(value, dict):
            return [c for key, item in value.items() for c in counts(item, key)]
        if isinstance(value, list):
            return [c for item in value for c in counts(item, name)]
        return [value] if name.startswith("n_") or name in ("n", "event", "no_event") else []

    numbers = [c for c in counts(section["tasks"], "") if not isinstance(c, str)]
    assert numbers
    assert not [c for c in numbers if 0 < c < 11]


def test_the_same_input_gives_the_same_section(made_up: Path, section: dict[str, Any]) -> None:
    again = evaluate_predictions(
        made_up / "score", made_up / "cohort", made_up / "truth.parquet", config=QUICK
    )
    assert json.dumps(plain(again), allow_nan=False) == json.dumps(section)


def test_too_few_events_print_no_auroc(tmp_path: Path, make_up: Callable[..., None]) -> None:
    make_up(tmp_path, 60, base=-4.0)
    found = plain(evaluate_predictions(tmp_path / "score", tmp_path / "cohort", config=QUICK))
    task = found["tasks"][0]
    assert task["status"] == "insufficient follow-up"
    assert "auroc" not in json.dumps(found)
    assert task["verdict"]["headline"].startswith("Insufficient follow-up")


def test_shuffled_risks_do_not_beat_anything(made_up: Path, tmp_path: Path) -> None:
    path = made_up / "score" / "predictions_detail.parquet"
    table = pq.read_table(path)
    risk = np.random.default_rng(0).permutation(table["risk"].to_numpy())
    place = table.column_names.index("risk")
    (tmp_path / "score").mkdir()
    pq.write_table(
        table.set_column(place, "risk", pa.array(risk)),
        tmp_path / "score" / "predictions_detail.parquet",
    )
    found = evaluate_predictions(tmp_path / "score", made_up / "cohort", config=QUICK)
    task = found["tasks"][0]
    area = task["groups"]["incident"]["model"]["auroc"]
    assert area["lower"] < 0.5 < area["upper"]
    assert task["verdict"]["level"] == "bad"


def test_predictions_of_any_model_are_read(made_up: Path, tmp_path: Path) -> None:
    table = pq.read_table(made_up / "score" / "predictions_detail.parquet")
    folder = tmp_path / "heart_failure" / "365"
    folder.mkdir(parents=True)
    columns = {
        "subject_id": table["subject_id"],
        "prediction_time": table["prediction_time"],
        "boolean_value": pa.array(np.random.default_rng(0).random(len(table)) < 0.2),
        "predicted_boolean_probability": table["risk"],
    }
    pq.write_table(pa.table(columns), folder / "predictions.parquet")
    empty = tmp_path / "cohort"
    empty.mkdir()
    found = evaluate_predictions(tmp_path, empty, config=QUICK)
    task = found["tasks"][0]
    assert task["primary_group"] == "incident"
    assert task["survival"] is None
    assert task["verdict"]["headline"].endswith("the cohort has no train rows.")


def test_a_correction_is_told_without_its_counts(made_up: Path, tmp_path: Path) -> None:
    level = {"exponent": 0.7, "observed": 0.031, "n_rows": 97, "n_events": 3, "n_scored": 97}
    groups = {"first": level, "again": {**level, "exponent": 1.2}}
    levels = {"heart_failure": {"365": groups}}
    score = tmp_path / "score"
    shutil.copytree(made_up / "score", score)
    report = {"schema": 1, "calibration": {"split": "train", "levels": levels}}
    (score / "score.json").write_text(json.dumps(report))
    found = plain(evaluate_predictions(score, made_up / "cohort", config=QUICK))
    exponents = {"first": 0.7, "again": 1.2}
    assert found["tasks"][0]["calibration"] == exponents
    assert found["run"]["calibration"] == {
        "split": "train",
        "exponents": {"heart_failure": {"365": exponents}},
    }


def test_meds_dev_records_name_task_and_model(section: dict[str, Any]) -> None:
    records = meds_dev_results(section, "clinic", "chronoward")
    assert records[0]["task"] == "heart_failure/365d"
    assert set(records[0]) == {"dataset", "task", "model", "result", "version"}


def test_scored_rows_unknown_to_the_cohort_are_refused(made_up: Path, tmp_path: Path) -> None:
    table = pq.read_table(made_up / "score" / "predictions_detail.parquet")
    place = table.column_names.index("subject_id")
    ids = pa.array(table["subject_id"].to_numpy() + 1_000_000)
    pq.write_table(
        table.set_column(place, "subject_id", ids), tmp_path / "predictions_detail.parquet"
    )
    with pytest.raises(DataError, match="scored rows are not in the cohort"):
        evaluate_predictions(tmp_path, made_up / "cohort")


def test_repeated_rows_are_refused(made_up: Path, tmp_path: Path) -> None:
    table = pq.read_table(made_up / "score" / "predictions_detail.parquet")
    pq.write_table(
        pa.concat_tables([table, table.slice(0, 3)]), tmp_path / "predictions_detail.parquet"
    )
    with pytest.raises(DataError, match=r"3 repeated \(subject_id, prediction_time\)"):
        evaluate_predictions(tmp_path, made_up / "cohort")


def test_a_folder_without_predictions_is_refused(tmp_path: Path, made_up: Path) -> None:
    with pytest.raises(DataError, match="holds neither"):
        evaluate_predictions(tmp_path, made_up / "cohort")
