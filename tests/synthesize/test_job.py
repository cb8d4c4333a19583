"""A model's subjects come out valid, once each, the same bytes however the job went."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import chronoward
from chronoward.cli import main
from chronoward.data import prepare
from chronoward.errors import ConfigError, DataError, FormatError, StateError
from chronoward.evaluation.omop import evaluate_omop
from chronoward.files import read_json, write_json
from chronoward.model import load
from chronoward.schema import Role
from chronoward.synthesize import SynthesisOptions, job, synthesize
from chronoward.synthesize.timelines import Synthesizer, barred_by_sex
from chronoward.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

SMALL = SynthesisOptions(max_tokens=48, unit_subjects=8)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(random_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "omop"
    synthesize(random_run, 30, out, seed=5, options=SMALL)
    return out


@pytest.mark.parametrize("format", ["omop", "meds"])
def test_synthetic_output_tokenizes_again_and_is_grammatical(
    format: str, random_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / format
    synthesize(random_run, 30, out, format=format, seed=5, options=SMALL)  # type: ignore[arg-type]
    tokenizer = Tokenizer.load(random_run / "tokenizer.json")
    prepared = prepare(out, tmp_path / "work")
    assert prepared.n_subjects == 30
    quarantined = {"before_birth", "after_death", "unparsable_time", "missing_time", "future_date"}
    assert not quarantined & set(prepared.report["rules"])
    for events in prepared.batches():
        batch = tokenizer.encode(events, prepared.observation, codes=prepared.codes)
        assert "unknown_code" not in batch.counts
        for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
            tokenizer.grammar().run(batch.token_id[a:b])


def test_synthetic_omop_has_no_hard_violation(finished: Path) -> None:
    result = evaluate_omop(finished)
    assert [row for row in result["failed"] if row["severity"] == "hard"] == []


def test_every_subject_is_there_once(finished: Path) -> None:
    lines = (finished / "person.csv").read_text().splitlines()[1:]
    assert [int(line.split(",", 1)[0]) for line in lines] == list(range(1, 31))
    manifest = read_json(finished / "manifest.json")
    assert manifest["rows"]["person"] == 30
    assert sum(manifest["timelines_ended"].values()) == 30
    assert not (finished / "units").exists()


def test_a_job_that_failed_midway_goes_on_to_the_same_bytes(
    random_run: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "omop"
    original, calls = job.write_unit, []

    def failing(*arguments: Any) -> None:
        calls.append(arguments[1])
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        original(*arguments)

    monkeypatch.setattr(job, "write_unit", failing)
    with pytest.raises(OSError, match="No space left"):
        synthesize(random_run, 30, out, seed=5, options=SMALL)
    assert not (out / "manifest.json").exists()
    monkeypatch.setattr(job, "write_unit", original)
    synthesize(random_run, 30, out, seed=5, options=SMALL)
    assert contents(out) == contents(finished)


def test_the_same_call_again_changes_nothing(random_run: Path, finished: Path) -> None:
    before = contents(finished)
    manifest = synthesize(random_run, 30, finished, seed=5, options=SMALL)
    assert contents(finished) == before
    assert manifest == read_json(finished / "manifest.json")


def test_subjects_do_not_depend_on_how_many_are_wanted(random_run: Path, tmp_path: Path) -> None:
    few, many = (tmp_path / name for name in ("few", "many"))
    synthesize(random_run, 8, few, seed=5, options=SMALL)
    synthesize(random_run, 24, many, seed=5, options=SMALL)
    for table in ("person", "measurement", "drug_era"):
        assert (many / f"{table}.csv").read_bytes().startswith((few / f"{table}.csv").read_bytes())


def test_another_seed_gives_other_subjects(
    random_run: Path, finished: Path, tmp_path: Path
) -> None:
    synthesize(random_run, 30, tmp_path / "other", seed=6, options=SMALL)
    assert (tmp_path / "other" / "person.csv").read_bytes() != (
        finished / "person.csv"
    ).read_bytes()
    with pytest.raises(StateError, match="another job's plan"):
        synthesize(random_run, 30, tmp_path / "other", seed=5, options=SMALL)


def test_a_code_of_one_sex_is_barred_from_the_other(random_run: Path) -> None:
    tokenizer = Tokenizer.load(random_run / "tokenizer.json")
    codes = list(tokenizer.codes)
    place = next(i for i, entry in enumerate(codes) if entry.kind == "code")
    object.__setattr__(codes[place], "concept_id", 4163261)  # malignant tumor of prostate
    token = int(np.flatnonzero(tokenizer.base_code == place)[0])
    grammar = barred_by_sex(tokenizer)
    state = next(s for s in range(len(grammar.state_names)) if grammar.legal(s)[token])
    assert not grammar.legal(state, 1)[token]
    assert grammar.legal(state, 2)[token]


def test_units_that_are_drawn_together_are_those_drawn_alone(random_run: Path) -> None:
    """Units are whole as their last lives end, which is not the order in which they began."""
    tokenizer = Tokenizer.load(random_run / "tokenizer.json")
    population = read_json(random_run / "population.json")
    drawn = Synthesizer(load(random_run), tokenizer, population, seed=1, max_tokens=64)
    subjects = [range(first, first + 5) for first in range(1, 41, 5)]
    units = dict(drawn.units(iter(subjects)))
    assert list(units) != sorted(units)
    for place, ids in enumerate(subjects):
        alone = drawn.unit(ids)
        assert units[place].events.equals(alone.events)
        assert units[place].observation.equals(alone.observation)
        assert units[place].counts == alone.counts


def test_numbers_are_part_of_the_plan(random_run: Path, finished: Path, tmp_path: Path) -> None:
    rounded = replace(SMALL, dtype="bfloat16")
    manifest = synthesize(random_run, 30, tmp_path / "rounded", seed=5, options=rounded)
    plan = manifest["plan"]
    assert (plan["device"], plan["dtype"], plan["kv_dtype"]) == ("cpu", "bfloat16", None)
    with pytest.raises(StateError, match="another job's plan"):
        synthesize(random_run, 30, finished, seed=5, options=rounded)


def test_nothing_is_generated_past_the_end_of_observation(random_run: Path) -> None:
    tokenizer = Tokenizer.load(random_run / "tokenizer.json")
    population = read_json(random_run / "population.json")
    drawn = Synthesizer(load(random_run), tokenizer, population, seed=1, max_tokens=64)
    unit = drawn.unit(range(1, 41))
    ends = dict(
        zip(
            unit.observation["subject_id"].to_pylist(),
            unit.observation["end_time"].to_pylist(),
            strict=True,
        )
    )
    for row in unit.events.to_pylist():
        for name in ("time", "end_time"):
            if row[name] is not None and row["role"] != Role.BIRTH:
                assert row[name] <= ends[row["subject_id"]]


def test_a_population_too_small_to_publish_is_refused(random_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(random_run, run)
    population = read_json(run / "population.json")
    write_json(run / "population.json", {**population, "cells": []})
    with pytest.raises(DataError, match="fewer than 11"):
        synthesize(run, 8, tmp_path / "out", options=SMALL)


def test_a_model_trained_with_repeat_weights_is_refused(random_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(random_run, run)
    config = read_json(run / "config.json")
    write_json(run / "config.json", {**config, "training": {"repeat_weight": "raven"}})
    with pytest.raises(ConfigError, match="repeat_weight raven"):
        synthesize(run, 8, tmp_path / "out", options=SMALL)


def test_a_model_trained_without_next_event_is_refused(random_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(random_run, run)
    config = read_json(run / "config.json")
    trained = {"config": {"objectives": {"next_visit": 1.0, "gap": 0.1}}}
    write_json(run / "config.json", {**config, "training": trained})
    with pytest.raises(ConfigError, match="trained for gap, next_visit without next_event"):
        synthesize(run, 8, tmp_path / "out", options=SMALL)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no model\.safetensors"):
        synthesize(tmp_path, 8, tmp_path / "out")


@pytest.mark.parametrize("options", [{"workers": 0}, {"max_tokens": 0}])
def test_options_with_nonsense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        SynthesisOptions(**options)  # type: ignore[arg-type]


def test_the_package_is_the_verb() -> None:
    assert callable(chronoward.synthesize)
    with pytest.raises(FormatError, match="not a finished RUN folder"):
        chronoward.synthesize("/nowhere", 8, "/nowhere/out")


def test_the_command_says_that_privacy_is_not_evaluated(
    random_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--n-subjects", "4", "--out", str(out), "--max-tokens", "16", "--files", "parquet"]
    with pytest.raises(SystemExit) as ended:
        main(["synthesize", str(random_run), *arguments])
    assert ended.value.code in (0, None)
    printed = capsys.readouterr().out
    assert "person: 4" in printed
    assert "PRIVACY: not evaluated" in printed
    assert (out / "person.parquet").is_file()
    assert out.stat().st_mode & 0o777 == 0o700


def _command(run: Path, out: Path, workers: int) -> list[str]:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from chronoward.synthesize import SynthesisOptions, synthesize\n"
        "if __name__ == '__main__':\n"
        "    options = SynthesisOptions(max_tokens=48, unit_subjects=8, workers=int(sys.argv[3]))\n"
        "    synthesize(sys.argv[1], 160, sys.argv[2], seed=5, options=options)\n"
    )
    script = out.parent / "job.py"
    script.write_text(code)
    return [sys.executable, str(script), str(run), str(out), str(workers)]


@pytest.mark.slow
def test_killed_jobs_and_any_number_of_workers_give_the_same_bytes(
    random_run: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    subprocess.run(_command(random_run, whole, 1), check=True)
    expected = contents(whole)
    two = tmp_path / "two"
    subprocess.run(_command(random_run, two, 2), check=True)
    assert contents(two) == expected
    killed = tmp_path / "killed"
    for n_units in (1, 4, 9, 14, 19):
        process = subprocess.Popen(_command(random_run, killed, 1))
        while process.poll() is None and len(list(killed.glob("units/*/unit.json"))) < n_units:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(_command(random_run, killed, 1), check=True)
    assert contents(killed) == expected
