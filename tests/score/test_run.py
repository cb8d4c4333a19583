from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.score.made import Made, copied, make_run
from tests.tokenizer.clinic import make_world

import chronoward
from chronoward import cli
from chronoward.errors import ConfigError, DataError, FormatError, StateError
from chronoward.score import ScoreConfig, score
from chronoward.score.estimators import N_CURVE
from chronoward.tokenizer import TokenizerSpec, fit

if TYPE_CHECKING:
    from pathlib import Path

FEW = ScoreConfig(n_rollouts=4, max_new_tokens=200)


def content(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*.parquet"))
    }


def run(made: Made, out: Path, config: ScoreConfig = FEW, **options: object):
    arguments = {"cohort": made.cohort, "outcomes": [str(made.outcome)], "horizons": [25, 365]}
    arguments |= options
    return score(made.run, made.tokens, out=out, config=config, **arguments)


@pytest.mark.parametrize("estimator", ["reach", "count", "scope"])
def test_files_have_the_stated_columns_and_rows(made: Made, tmp_path: Path, estimator: str) -> None:
    config = ScoreConfig(n_rollouts=4, max_new_tokens=200, estimator=estimator)
    report = run(made, tmp_path / "out", config)
    detail = pq.read_table(tmp_path / "out" / "predictions_detail.parquet")
    assert detail.column_names == [
        *("subject_id", "prediction_time", "outcome", "horizon_days", "estimator", "risk"),
        *("mc_se", "n_rollouts", "undetermined", "lower", "upper", "cif"),
    ]
    assert len(detail) == 2 * report["rows"]["scored"]
    assert set(detail["estimator"].to_pylist()) == {estimator}
    for name in ("risk", "lower", "upper", "undetermined"):
        values = detail[name].to_numpy()
        assert ((values >= 0) & (values <= 1)).all()
    assert (detail["lower"].to_numpy() <= detail["upper"].to_numpy()).all()
    assert (detail["mc_se"].to_numpy() >= 0).all()
    assert {len(curve) for curve in detail["cif"].to_pylist()} == {N_CURVE}
    short, long = (
        detail.filter(pc.equal(detail["horizon_days"], h))["risk"].to_numpy() for h in (25, 365)
    )
    assert (short <= long + 1e-12).all()
    assert long.max() > 0


def test_predictions_hold_the_rows_whose_label_is_known(made: Made, tmp_path: Path) -> None:
    report = run(made, tmp_path / "out")
    labels = pq.read_table(made.cohort / "outcomes.parquet").to_pylist()
    by_subject = {row["subject_id"]: row for row in labels}
    for days, known, true in ((25, {10.0, 20.0, 30.0, 400.0}, {10.0}), (365, {10, 20, 400}, {10})):
        table = pq.read_table(tmp_path / "out" / "failure" / str(days) / "predictions.parquet")
        assert table.schema.names == [
            *("subject_id", "prediction_time", "boolean_value"),
            *("predicted_boolean_value", "predicted_boolean_probability"),
        ]
        assert table.schema.field("predicted_boolean_probability").type == pa.float64()
        for row in table.to_pylist():
            ended = by_subject[row["subject_id"]]["days_to_event"]
            assert ended in known
            assert row["boolean_value"] == (ended in true)
            assert row["predicted_boolean_value"] == (row["predicted_boolean_probability"] >= 0.5)
        counts = report["labels"]["failure"][str(days)]
        assert counts["known"] == len(table)
        assert counts["known"] + counts["unknown"] == report["rows"]["scored"]


def test_bytes_do_not_depend_on_slots_workers_or_row_order(made: Made, tmp_path: Path) -> None:
    run(made, tmp_path / "one")
    expected = content(tmp_path / "one")
    run(made, tmp_path / "slots", ScoreConfig(n_rollouts=4, max_new_tokens=200, n_slots=3))
    run(made, tmp_path / "workers", threads=2)
    assert content(tmp_path / "slots") == expected
    assert content(tmp_path / "workers") == expected
    cohort = copied(made, tmp_path / "cohort")
    table = pq.read_table(cohort / "cohort.parquet")
    pq.write_table(table.take(np.arange(len(table))[::-1]), cohort / "cohort.parquet")
    run(made, tmp_path / "order", cohort=cohort)
    by = [("horizon_days", "ascending"), ("subject_id", "ascending")]
    first, second = (
        pq.read_table(tmp_path / name / "predictions_detail.parquet").sort_by(by)
        for name in ("one", "order")
    )
    assert first.equals(second)


def test_a_split_scores_its_subjects_only(made: Made, tmp_path: Path) -> None:
    whole = run(made, tmp_path / "all")
    parts = [
        run(made, tmp_path / name, ScoreConfig(n_rollouts=4, max_new_tokens=200, split=name))
        for name in ("train", "tuning", "held_out")
    ]
    assert sum(part["rows"]["scored"] for part in parts) == whole["rows"]["scored"]
    tables = [
        pq.read_table(tmp_path / name / "predictions_detail.parquet")
        for name in ("train", "tuning", "held_out")
    ]
    by = [("horizon_days", "ascending"), ("subject_id", "ascending")]
    together = pa.concat_tables(tables).sort_by(by)
    assert together.equals(pq.read_table(tmp_path / "all" / "predictions_detail.parquet"))


def test_a_pilot_chooses_the_number_of_rollouts(made: Made, tmp_path: Path) -> None:
    config = ScoreConfig(target_se=0.05, max_rollouts=40, max_new_tokens=100, split="held_out")
    run(made, tmp_path / "out", config)
    counts = pq.read_table(tmp_path / "out" / "predictions_detail.parquet")["n_rollouts"]
    assert min(counts.to_pylist()) >= 8
    assert max(counts.to_pylist()) <= 40


def test_meds_labels_serve_one_outcome_and_horizon(made: Made, tmp_path: Path) -> None:
    table = pq.read_table(made.cohort / "cohort.parquet")
    labels = pa.array([i % 2 == 0 for i in range(len(table))])
    path = tmp_path / "labels.parquet"
    pq.write_table(table.set_column(2, "boolean_value", labels), path)
    report = run(made, tmp_path / "out", cohort=path, horizons=[90])
    assert report["labels"]["failure"]["90"]["unknown"] == 0


def spoil(cohort: Path, change: str) -> Path:
    """A cohort with one fault."""
    path = cohort / "cohort.parquet"
    table = pq.read_table(path)
    if change == "unknown":
        ids = table["subject_id"].to_numpy().copy()
        ids[3] = 987_654_321
        table = table.set_column(0, "subject_id", pa.array(ids))
    elif change == "repeated":
        table = pa.concat_tables([table, table.slice(2, 1)])
    elif change == "no_time":
        table = table.drop_columns(["prediction_time"])
    elif change == "text_time":
        table = table.set_column(1, "prediction_time", pa.array(["x"] * len(table)))
    elif change == "null":
        table = table.set_column(0, "subject_id", pa.nulls(len(table), pa.int64()))
    elif change == "empty":
        table = table.slice(0, 0)
    pq.write_table(table, path)
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    return cohort


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("unknown", r"1 rows name subjects that the token store does not have \(first: row 3\)"),
        ("repeated", r"rows 2 and \d+ are of one subject and prediction time"),
        ("no_time", "has no column prediction_time"),
        ("text_time", "prediction_time a timestamp"),
        ("null", "column subject_id has .* nulls"),
        ("empty", "has no rows"),
        ("truncated", "truncated or not Parquet"),
    ],
)
def test_a_faulty_cohort_is_a_data_error_and_writes_nothing(
    made: Made, tmp_path: Path, change: str, message: str
) -> None:
    cohort = spoil(copied(made, tmp_path / "cohort"), change)
    with pytest.raises(DataError, match=message) as caught:
        run(made, tmp_path / "out", cohort=cohort)
    assert "987" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_config_errors(made: Made, tmp_path: Path) -> None:
    absent = tmp_path / "absent.yaml"
    absent.write_text("name: absent\ntitle: Absent\ncodes: {SNOMED: [rare]}\n")
    nowhere = tmp_path / "nowhere.yaml"
    nowhere.write_text("name: nowhere\ntitle: Nowhere\ncodes: {SNOMED: [none]}\n")
    cases = [
        ({"outcomes": [str(absent)]}, "'absent' has no token in the vocabulary"),
        ({"outcomes": [str(nowhere)]}, "'nowhere' has no code"),
        ({"outcomes": ["no_such"]}, "no outcome 'no_such'"),
        ({"outcomes": []}, "outcomes must be given"),
        ({"horizons": []}, "horizons must be"),
        ({"horizons": [0]}, "horizons must be"),
        ({"config": ScoreConfig(n_rollouts=4, split="x")}, "split must be one of"),
        ({"config": ScoreConfig(estimator="hazard")}, "needs a run trained with"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError, match=message):
            run(made, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
    for options, message in [
        ({"n_rollouts": 0}, "n_rollouts must be at least 1, got 0"),
        ({"estimator": "guess"}, "estimator must be one of"),
        ({"target_se": 0.0}, "target_se must be positive"),
    ]:
        with pytest.raises(ConfigError, match=message):
            ScoreConfig(**options)


def test_a_run_trained_with_repeat_weights_is_refused(made: Made, tmp_path: Path) -> None:
    weighted = make_run(tmp_path / "run", made.tokenizer, repeat_weight="raven")
    with pytest.raises(ConfigError, match="trained with repeat_weight raven"):
        score(weighted, made.tokens, made.cohort, [str(made.outcome)], [30], tmp_path / "out", FEW)


def test_a_run_with_another_tokenizer_is_refused(made: Made, tmp_path: Path) -> None:
    events, _, codes = make_world(60, seed=1)
    other = fit([events], codes, TokenizerSpec(min_subjects=3, n_value_bins=2))
    run_dir = make_run(tmp_path / "run", other)
    with pytest.raises(FormatError, match="have different tokenizers"):
        score(run_dir, made.tokens, made.cohort, [str(made.outcome)], [30], tmp_path / "out", FEW)


def test_the_package_itself_scores(made: Made, tmp_path: Path) -> None:
    for name in ("first", "second"):  # the first import puts the package under its name
        report = chronoward.score(
            made.run, made.tokens, made.cohort, [str(made.outcome)], [30], tmp_path / name,
            n_rollouts=1, max_new_tokens=50, split="held_out",
        )  # fmt: skip
        assert report["n_rollouts"] == 1
    assert callable(chronoward.embed)
    assert callable(chronoward.generate)


def test_an_output_folder_with_content_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("kept")
    with pytest.raises(StateError, match="not empty"):
        run(made, tmp_path)


def test_rows_before_the_first_event_are_counted_and_strict_refuses_them(
    made: Made, tmp_path: Path
) -> None:
    cohort = copied(made, tmp_path / "cohort")
    table = pq.read_table(cohort / "cohort.parquet")
    times = table["prediction_time"].cast(pa.int64()).to_numpy().copy()
    times[0] = -(10**17)
    column = pa.array(times).cast(pa.timestamp("us"))
    pq.write_table(table.set_column(1, "prediction_time", column), cohort / "cohort.parquet")
    report = run(made, tmp_path / "out", cohort=cohort)
    assert report["rows"]["before_first_event"] >= 1
    strict = ScoreConfig(n_rollouts=4, max_new_tokens=200, strict=True)
    with pytest.raises(DataError, match="rows cannot be scored"):
        run(made, tmp_path / "strict", strict, cohort=cohort)


def test_the_verb_scores_and_says_usage_errors(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["score", str(made.run), str(made.tokens), "--cohort", str(made.cohort)]
    arguments += ["--outcome", str(made.outcome), "--horizon", "30", "--threads", "1"]
    for extra, code in ((["--n-rollouts", "2"], 0), (["--n-rollouts", "0"], 2)):
        with pytest.raises(SystemExit) as caught:
            cli.main([*arguments, "--out", str(tmp_path / f"out{code}"), *extra])
        assert (caught.value.code or 0) == code
    assert "n_rollouts must be at least 1, got 0" in capsys.readouterr().err


def test_a_run_trained_without_next_event_draws_no_risks(made: Made, tmp_path: Path) -> None:
    trained = {"objectives": {"hazard": 1.0}}
    run_ = make_run(tmp_path / "run", made.tokenizer, config=trained)
    given = (made.tokens, made.cohort, [str(made.outcome)], [30], tmp_path / "out")
    with pytest.raises(ConfigError, match="trained for hazard without next_event"):
        score(run_, *given, FEW)
    with pytest.raises(ConfigError, match="needs a run trained with"):  # which may be without it
        score(run_, *given, ScoreConfig(estimator="hazard"))
    assert not (tmp_path / "out").exists()
