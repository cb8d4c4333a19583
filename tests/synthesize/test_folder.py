"""Units become a folder that passes every check, whose manifest tells the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow.parquet as pq
import pytest
from meds import CodeMetadataSchema, DataSchema, SubjectSplitSchema
from tests.synthesize.event_tables import code_map, codes, lives

from chronoward.cli import main
from chronoward.data import cdm
from chronoward.errors import FormatError, StateError
from chronoward.evaluation.omop import evaluate_omop
from chronoward.files import read_json, sha256_file, write_json
from chronoward.synthesize.folder import unit_tables, write_manifest, write_meds, write_omop
from chronoward.synthesize.plan import SynthesisPlan
from chronoward.synthesize.release import check_release
from chronoward.synthesize.units import is_done, job_folder, read_unit, remove_units, write_unit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def plan(**changes: Any) -> SynthesisPlan:
    values: dict[str, Any] = {
        "n_subjects": 2,
        "seed": 7,
        "format": "omop",
        "files": "csv",
        "max_tokens": 64,
        "max_context": 64,
        "model_hash": "0" * 64,
        "tokenizer_hash": "1" * 64,
        "population_hash": "2" * 64,
        "version": "0.1.0",
        "stride": 1000,
    }
    return SynthesisPlan(**{**values, **changes})


def make(out: Path, job: SynthesisPlan) -> dict[str, Any]:
    with job_folder(out, job) as folder:
        for unit in range(job.n_units):
            if not is_done(folder, unit):
                tables = unit_tables(job, unit, *lives(), code_map())
                write_unit(folder, unit, tables, {"deadline": 1, "death": 1})
        written = (
            write_omop(folder, job, code_map())
            if job.format == "omop"
            else write_meds(folder, job, codes())
        )
        manifest = write_manifest(folder, job, written)
        remove_units(folder)
    return manifest


@pytest.mark.parametrize("files", ["csv", "parquet", "duckdb"])
def test_every_form_of_omop_passes_every_hard_check(files: str, tmp_path: Path) -> None:
    make(tmp_path / "out", plan(files=files))
    source = tmp_path / "out" / "omop.duckdb" if files == "duckdb" else tmp_path / "out"
    result = evaluate_omop(source)
    assert [row for row in result["failed"] if row["severity"] == "hard"] == []
    assert {row["name"] for row in result["failed"]} == {"unmapped"}


def test_all_tables_are_there_with_all_columns(tmp_path: Path) -> None:
    make(tmp_path / "out", plan())
    for table in cdm.WRITTEN_TABLES:
        header = (tmp_path / "out" / f"{table}.csv").read_text().splitlines()[0]
        assert header.split(",") == [f.column for f in cdm.fields(table)]


def test_the_source_says_synthetic_and_privacy_not_evaluated(tmp_path: Path) -> None:
    manifest = make(tmp_path / "out", plan())
    assert manifest["privacy"] == "PRIVACY: not evaluated"
    [source] = duckdb.sql(f"SELECT * FROM '{tmp_path / 'out' / 'cdm_source.csv'}'").fetchall()
    assert source[2] == "synthetic"
    assert "No row is about a person" in source[3]
    assert manifest["timelines_ended"] == {"deadline": 1, "death": 1}
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == sha256_file(tmp_path / "out" / name)


def test_the_same_plan_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (make(tmp_path / name, plan()) for name in ("a", "b"))
    assert first == second


def test_meds_output_is_strict_meds(tmp_path: Path) -> None:
    make(tmp_path / "out", plan(format="meds", files="parquet"))
    shard = pq.read_table(tmp_path / "out" / "data" / "train" / "0000000.parquet")
    DataSchema.validate(shard)
    metadata = tmp_path / "out" / "metadata"
    CodeMetadataSchema.validate(pq.read_table(metadata / "codes.parquet"))
    SubjectSplitSchema.validate(pq.read_table(metadata / "subject_splits.parquet"))
    assert read_json(metadata / "dataset.json")["dataset_name"] == "synthetic"
    assert shard["time"][0].as_py() is None  # static facts come first
    visits = shard.filter([code == "Visit/IP" for code in shard["code"].to_pylist()])
    assert visits["end_time"][0].as_py() is not None


def test_another_plan_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "out", plan())
    with (
        pytest.raises(StateError, match="another job's plan"),
        job_folder(tmp_path / "out", plan(seed=8)),
    ):
        pass


def test_a_folder_with_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("x")
    with pytest.raises(StateError, match="not empty"), job_folder(tmp_path / "out", plan()):
        pass


def test_two_jobs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        job_folder(tmp_path / "out", plan()),
        pytest.raises(StateError, match="in use by another job"),
        job_folder(tmp_path / "out", plan()),
    ):
        pass


def test_a_changed_unit_is_noticed(tmp_path: Path) -> None:
    job = plan()
    with job_folder(tmp_path / "out", job) as folder:
        write_unit(folder, 0, unit_tables(job, 0, *lives(), code_map()), {})
        path = folder / "units" / "0000000" / "person.parquet"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(FormatError, match=r"person\.parquet does not match"):
            read_unit(folder, 0)


def _report(folder: Path, **changes: Any) -> None:
    manifest = read_json(folder / "manifest.json")
    report = {name: manifest[name] for name in ("model_hash", "output_hash")}
    write_json(folder / "privacy.json", {**report, "verdict": "pass", **changes})


REFUSALS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no report": (lambda _folder: None, "there is no privacy report"),
    "another model": (lambda folder: _report(folder, model_hash="f" * 64), "another model_hash"),
    "another output": (lambda folder: _report(folder, output_hash="f" * 64), "another output_hash"),
    "a failing verdict": (lambda folder: _report(folder, verdict="fail"), "is not 'pass'"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
}


@pytest.mark.parametrize("case", sorted(REFUSALS))
def test_a_folder_is_not_released_with(case: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, plan())
    prepare, message = REFUSALS[case]
    prepare(out)
    with pytest.raises(StateError, match=message):
        check_release(out)


def test_a_changed_or_added_file_is_not_released(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, plan())
    _report(out)
    assert check_release(out)["verdict"] == "pass"
    (out / "note.csv").write_text("real notes")
    with pytest.raises(FormatError, match="1 files more or less"):
        check_release(out)
    (out / "note.csv").unlink()
    with (out / "person.csv").open("a") as handle:
        handle.write("\n")
    with pytest.raises(FormatError, match="it was changed"):
        check_release(out)


def test_the_release_verb_refuses_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "out", plan())
    with pytest.raises(SystemExit) as ended:
        main(["release", str(tmp_path / "out")])
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert "may not be released: there is no privacy report" in message
    assert "PRIVACY: not evaluated" in message
