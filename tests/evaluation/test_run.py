from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from chronoward.cli.evaluate import app
from chronoward.data.simulate import simulate
from chronoward.evaluation.run import cohort_section
from chronoward.evaluation.sections import read_metrics

if TYPE_CHECKING:
    from pathlib import Path


def test_the_verb_fills_the_folder(made_up: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(made_up / "cohort", cohort)
    flow = {"candidates": 4000, "outside_observation": 0, "washout": 995, "not_alive": 5}
    outcomes = {"heart_failure": {"at_risk": 3, "365": {"events": 200, "deaths": 4}}}
    (cohort / "flow.json").write_text(json.dumps({**flow, "rows": 3000, "outcomes": outcomes}))
    call = ["predictions", str(made_up / "score"), "--cohort", str(cohort), "--n-replicates", "20"]
    result = CliRunner().invoke(app, [*call, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "heart_failure, 365 days: AUROC" in result.output
    metrics = read_metrics(tmp_path / "out")
    assert set(metrics) == {"schema", "predictions", "cohort", "provenance"}
    assert (tmp_path / "out" / "meds_dev_result.json").exists()
    shown = [step["n_rows"] for step in metrics["cohort"]["flow"]]
    assert shown == [4000, 4000, 3005, "withheld"]
    assert metrics["cohort"]["outcomes"]["heart_failure"]["at_risk"] == "<11"


def test_a_cohort_without_a_flow_is_fine(tmp_path: Path) -> None:
    assert cohort_section(tmp_path, {}) == {"definition": {}, "flow": [], "outcomes": {}}


def test_synthetic_folders_are_prepared_and_compared(tmp_path: Path) -> None:
    simulate(tmp_path / "real", n_subjects=500, seed=1)
    simulate(tmp_path / "synthetic", n_subjects=60, seed=2)
    real = str(tmp_path / "real")
    call = ["synthetic", "--synthetic", str(tmp_path / "synthetic"), "--train", real]
    call += ["--held-out", real, "--out", str(tmp_path / "out"), "--n-replicates", "5"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    assert "Code prevalence, R²" in result.output
    section = read_metrics(tmp_path / "out")["synthetic"]
    assert 20 <= section["n_subjects_each"] <= 60
    assert section["metrics"][0]["synthetic"]["value"] > 0.7
    assert section["metrics"][0]["floor"]["value"] < section["metrics"][0]["ceiling"]["value"]
