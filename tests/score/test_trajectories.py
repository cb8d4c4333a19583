from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.score.made import make_run

from chronoward import cli
from chronoward.errors import ConfigError
from chronoward.trajectories import TRAJECTORY_SCHEMA, GenerateConfig, generate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.score.made import Made

CONFIG = GenerateConfig(n_rollouts=2, days=90, max_new_tokens=150)
DAY_US = 86_400_000_000


def test_trajectories_are_meds_events_after_the_prediction_time(made: Made, tmp_path: Path) -> None:
    report = generate(made.run, made.tokens, made.cohort, tmp_path / "out", CONFIG)
    assert report["rows"]["scored"] > 10
    known = {code.code for code in made.tokenizer.codes}
    n_events = 0
    for index in range(2):
        table = pq.read_table(tmp_path / "out" / f"{index}.parquet")
        assert table.schema.equals(TRAJECTORY_SCHEMA)
        after = pc.subtract(
            table["time"].cast(pa.int64()), table["prediction_time"].cast(pa.int64())
        )
        assert pc.min(after).as_py() > 0
        assert pc.max(after).as_py() <= 90 * DAY_US
        assert set(table["code"].to_pylist()) <= known | {"MEDS_DEATH"}
        n_events += len(table)
    assert n_events == report["events"] > 0
    assert sum(report["statuses"].values()) == 2 * report["rows"]["scored"]


def test_the_folder_says_that_it_is_patient_data(made: Made, tmp_path: Path) -> None:
    generate(made.run, made.tokens, made.cohort, tmp_path / "out", CONFIG)
    manifest = json.loads((tmp_path / "out" / "trajectories.json").read_text())
    assert "never releasable" in manifest["patient_data"]
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0


def test_more_rollouts_begin_with_the_same_ones(made: Made, tmp_path: Path) -> None:
    generate(made.run, made.tokens, made.cohort, tmp_path / "two", CONFIG)
    generate(made.run, made.tokens, made.cohort, tmp_path / "one", replace(CONFIG, n_rollouts=1))
    first = [(tmp_path / name / "0.parquet").read_bytes() for name in ("one", "two")]
    assert first[0] == first[1]
    assert (tmp_path / "two" / "1.parquet").read_bytes() != first[0]


def test_a_run_trained_without_next_event_is_refused(made: Made, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", made.tokenizer, config={"objectives": {"gap": 1.0}})
    with pytest.raises(ConfigError, match="trained for gap without next_event"):
        generate(run, made.tokens, made.cohort, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_no_rollouts_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="n_rollouts must be at least 1, got 0"):
        GenerateConfig(n_rollouts=0)


def test_the_verb_generates(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        cli.main(
            [
                *("generate", str(made.run), str(made.tokens), "--cohort", str(made.cohort)),
                *("--n-rollouts", "1", "--days", "30", "--out", str(out)),
            ]
        )
    assert not caught.value.code
    assert sorted(p.name for p in out.iterdir()) == ["0.parquet", "trajectories.json"]
