from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.score.made import Made, copied

import chronoward
from chronoward import cli, outcomes
from chronoward.errors import ConfigError, DataError, FormatError, StateError
from chronoward.score import Calibration, CalibrationConfig, ScoreConfig, calibrate, score
from chronoward.score.calibration import PRIOR_EVENTS, corrected, find_exponent
from chronoward.store import TokenStore
from chronoward.store.codes import code_table

if TYPE_CHECKING:
    from pathlib import Path

HORIZONS = [25, 365]
FEW = CalibrationConfig(n_rows=40, n_rollouts=4, split="all")


@pytest.fixture(scope="module")
def cohort(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort, with who had the outcome before as the store knows it."""
    folder = copied(made, tmp_path_factory.mktemp("calibration") / "cohort")
    codes = code_table(made.tokens, made.tokenizer)
    ids = made.tokenizer.token_ids_of(outcomes.resolve(outcomes.load(str(made.outcome)), codes))
    store = TokenStore.open(made.tokens)
    had = {}
    for name in ("train", "tuning", "held_out"):
        split = store.split(name)
        for i in range(len(split)):
            timeline = split.timeline(i)
            middle = timeline.time_min[len(timeline.time_min) // 2] + 1440
            seen = timeline.token_id[timeline.time_min <= middle]
            had[timeline.subject_id] = bool(np.isin(seen, ids).any())
    table = pq.read_table(folder / "outcomes.parquet")
    prior = [had[subject] for subject in table["subject_id"].to_pylist()]
    assert 5 < sum(prior) < len(prior) - 5
    table = table.set_column(table.column_names.index("prior_outcome"), "prior_outcome", [prior])
    table = table.append_column("at_risk", pa.array([not p for p in prior]))
    pq.write_table(table, folder / "outcomes.parquet")
    return folder


@pytest.fixture(scope="module")
def found(made: Made, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("found") / "calibration.json"
    run(made, cohort, path)
    return path


def run(made: Made, cohort: Path, out: Path, **options: object) -> Calibration:
    arguments = {"outcomes": [str(made.outcome)], "horizons": HORIZONS, "config": FEW}
    arguments |= options
    return calibrate(made.run, made.tokens, cohort, out=out, **arguments)


def risks(made: Made, cohort: Path, out: Path, **options: object) -> pa.Table:
    config = ScoreConfig(n_rollouts=4, max_new_tokens=200)
    files = [str(made.outcome)]
    score(made.run, made.tokens, cohort, files, HORIZONS, out, config, **options)
    return pq.read_table(out / "predictions_detail.parquet")


def test_a_correction_keeps_0_and_1_and_the_order() -> None:
    risk = np.array([0.0, 1e-12, 0.01, 0.3, 0.9, 1.0])
    for exponent in (0.2, 1.0, 3.0):
        image = corrected(risk, exponent)
        assert image[0] == 0.0
        assert image[-1] == 1.0
        assert (np.diff(image) > 0).all()
        np.testing.assert_allclose(image, 1 - (1 - risk) ** exponent, rtol=1e-3, atol=1e-15)
    np.testing.assert_allclose(corrected(risk, 1.0), risk, rtol=1e-12)


def test_the_exponent_reaches_what_was_observed_as_far_as_events_say_it() -> None:
    risk = np.random.default_rng(0).beta(1, 9, 4000)
    expected = risk.mean()
    for ratio in (0.5, 0.9, 1.0, 1.4):
        many = find_exponent(risk, expected * ratio, 10**9)
        assert corrected(risk, many).mean() == pytest.approx(expected * ratio, rel=1e-6)
    # 100 events where 50 were due: (100 + 100) / (100 + 50)
    few = find_exponent(risk, 2 * expected, int(PRIOR_EVENTS))
    assert corrected(risk, few).mean() == pytest.approx(expected * 4 / 3, rel=1e-9)
    assert find_exponent(risk, 0.0, 0) == pytest.approx(1.0, abs=1e-9)
    assert find_exponent(np.zeros(5), 0.1, 50) == 1.0
    assert find_exponent(np.ones(5), 0.1, 50) == 1.0


def test_levels_are_those_of_the_cohort(made: Made, cohort: Path, found: Path) -> None:
    table = pq.read_table(cohort / "outcomes.parquet")
    levels = Calibration.read(found).levels["failure"]
    assert set(levels) == set(HORIZONS)
    for group, prior in (("first", False), ("again", True)):
        mine = table.filter(pc.equal(table["prior_outcome"], prior))
        n_events = mine["event"].to_pylist().count("outcome")
        for days in HORIZONS:
            level = levels[days][group]
            assert (level.n_rows, level.n_events) == (len(mine), n_events)
            assert 0 < level.n_scored < len(mine)
            # outcomes come on day 10, before any other end
            assert level.observed == pytest.approx(n_events / len(mine))
    scored = Calibration.read(found).facts["rows"]["scored"]
    assert sum(level.n_scored for level in levels[25].values()) == scored


def test_scores_are_corrected_by_group_and_horizon(
    made: Made, cohort: Path, found: Path, tmp_path: Path
) -> None:
    plain = risks(made, cohort, tmp_path / "plain")
    after = risks(made, cohort, tmp_path / "after", calibration=found)
    levels = Calibration.read(found).levels["failure"]
    table = pq.read_table(cohort / "outcomes.parquet")
    columns = (table[name].to_pylist() for name in ("subject_id", "prior_outcome"))
    prior = dict(zip(*columns, strict=True))
    seen = set()
    for row, new in zip(plain.to_pylist(), after.to_pylist(), strict=True):
        group = "again" if prior[row["subject_id"]] else "first"
        exponent = levels[row["horizon_days"]][group].exponent
        seen.add(exponent)
        for name in ("risk", "lower", "upper", "cif"):
            image = 1 - (1 - np.array(row[name])) ** exponent
            np.testing.assert_allclose(new[name], image, rtol=1e-9, atol=1e-12)
        if 0.05 < row["risk"] < 0.5 and 0 < row["mc_se"] < 0.01:
            slope = exponent * (1 - row["risk"]) ** (exponent - 1)
            assert new["mc_se"] == pytest.approx(slope * row["mc_se"], rel=0.01)
        assert new["mc_se"] >= 0
    assert len(seen) == 4
    report = json.loads((tmp_path / "after" / "score.json").read_text())
    assert report["calibration"] == json.loads(found.read_text())
    assert json.loads((tmp_path / "plain" / "score.json").read_text())["calibration"] is None


def test_threads_do_not_change_it(made: Made, cohort: Path, found: Path, tmp_path: Path) -> None:
    again = run(made, cohort, tmp_path / "again.json", threads=2)
    first = Calibration.read(found)
    assert again.levels == first.levels
    assert {**again.facts, "seconds": 0} == {**first.facts, "seconds": 0}


def test_only_rows_of_the_split_count(made: Made, cohort: Path, tmp_path: Path) -> None:
    held = len(TokenStore.open(made.tokens).split("tuning"))
    config = CalibrationConfig(n_rollouts=1, split="tuning")
    made_now = run(made, cohort, tmp_path / "c.json", config=config)
    levels = made_now.levels["failure"][25].values()
    assert sum(level.n_rows for level in levels) == held
    rows = made_now.facts["rows"]
    assert sum(level.n_scored for level in levels) == rows["scored"] > held / 2
    assert rows["scored"] + rows["after_death"] + rows["before_first_event"] == held


def test_the_numbers_that_it_decodes_in_are_named(
    made: Made, cohort: Path, found: Path, tmp_path: Path
) -> None:
    assert Calibration.read(found).facts["dtype"] == "float32"
    config = replace(FEW, dtype="bfloat16", device="cpu")
    rounded = run(made, cohort, tmp_path / "c.json", config=config)
    assert (rounded.facts["device"], rounded.facts["dtype"]) == ("cpu", "bfloat16")
    assert rounded.levels["failure"][25]["first"].expected == pytest.approx(
        Calibration.read(found).levels["failure"][25]["first"].expected, abs=0.1
    )
    with pytest.raises(ConfigError, match="int4"):
        replace(FEW, dtype="int4")


def test_what_does_not_fit_is_refused(
    made: Made, cohort: Path, found: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="does not hold failure 30 days"):
        score(made.run, made.tokens, cohort, [str(made.outcome)], [30], out, calibration=found)
    good = json.loads(found.read_text())
    for text, error, message in (
        (json.dumps(good | {"model": "0"}), FormatError, "of another model"),
        (json.dumps(good | {"estimator": "hazard"}), ConfigError, "of risks by hazard"),
        (json.dumps(good | {"schema": 2}), FormatError, "schema 2"),
        ("{}", FormatError, "is not a calibration"),
        ('{"schema": 1, "levels": {"failure": {"25": {}}}}', FormatError, "is not a calibration"),
        ("[]", FormatError, "is not a calibration"),
        ("{", FormatError, "bad.json"),
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(error, match=message):
            risks(made, cohort, out, calibration=tmp_path / "bad.json")
    assert not out.exists()


def test_bad_cohorts_are_refused_before_anything_is_written(
    made: Made, cohort: Path, found: Path, tmp_path: Path
) -> None:
    out = tmp_path / "calibration.json"
    with pytest.raises(DataError, match="no column at_risk"):
        run(made, made.cohort, out)
    table = pq.read_table(cohort / "outcomes.parquet")
    spoilt = copied(made, tmp_path / "cohort")
    pq.write_table(table.slice(3), spoilt / "outcomes.parquet")
    with pytest.raises(DataError, match="lacks outcome 'failure' of 3 rows"):
        run(made, spoilt, out)
    (spoilt / "outcomes.parquet").unlink()
    with pytest.raises(DataError, match="has no outcomes"):
        run(made, spoilt, out)
    assert not out.exists()
    with pytest.raises(StateError, match="exists"):
        run(made, cohort, found)
    with pytest.raises(ConfigError, match="n_rows must be at least 1"):
        CalibrationConfig(n_rows=0)


def test_the_verb_writes_what_score_reads(
    made: Made, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibration.json"
    common = [str(made.run), str(made.tokens), "--cohort", str(cohort)]
    common += ["--outcome", str(made.outcome), "--horizon", "30", "--threads", "1"]
    for verb, extra in (
        ("calibrate", ["--out", str(out), "--n-rows", "10", "--n-rollouts", "2"]),
        ("score", ["--out", str(tmp_path / "o"), "--n-rollouts", "2", "--calibration", str(out)]),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main([verb, *common, *extra])
        assert not caught.value.code
    assert "failure, 30 days, first: observed" in capsys.readouterr().out
    assert chronoward.calibrate is calibrate
