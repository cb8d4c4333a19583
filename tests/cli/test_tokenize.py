"""The verbs tokenize, fit, merge and verify, as they are typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.tokenize.conftest import write_meds

from chronoward.cli import main
from chronoward.files import sha256_file, write_json
from chronoward.model import Model, ModelConfig, save_model
from chronoward.synthesize.folder import KIND, output_hash
from chronoward.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments])
    return int(exit_.value.code or 0)


@pytest.fixture(scope="module")
def meds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_meds(tmp_path_factory.mktemp("cli") / "meds")


@pytest.fixture(scope="module")
def tokens(meds: Path) -> Path:
    out = meds.parent / "tokens"
    assert run("tokenize", meds, "--out", out, "--preset", "events", "--values", "none") == 0
    return out


def test_tokenize_says_what_it_made_and_shows_stages_in_plain_lines(
    meds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tokenize", meds, "--out", tmp_path / "tokens") == 0
    said = capsys.readouterr()
    assert "60 subjects" in said.out
    assert "held_out" in said.out
    assert "encode: " in said.err
    assert "\x1b" not in said.err  # no terminal, no escape codes


def test_options_reach_the_tokenizer(tokens: Path) -> None:
    spec = Tokenizer.load(tokens / "tokenizer.json").spec
    assert (spec.preset, spec.values) == ("events", "none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--values", "none"], "need --preset"),
        (["--preset", "events", "--prompt-fields", "age,year"], "in this order"),
        (["--memory-limit", "much"], "a size such as 2GB"),
        (["--split", "site"], "split must be one of source, hash, temporal"),
    ],
)
def test_wrong_options_are_usage_errors_and_leave_nothing(
    meds: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert run("tokenize", meds, "--out", tmp_path / "tokens", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "tokens").exists()


def test_a_folder_in_use_is_a_fault_with_exit_code_1(
    meds: Path, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tokenize", meds, "--out", tokens) == 1
    assert "not empty" in capsys.readouterr().err


def test_dials_of_ingestion_come_from_a_file(
    meds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dials = tmp_path / "dials.yaml"
    dials.write_text("calendar: shifted\n")
    assert run("tokenize", meds, "--out", tmp_path / "tokens", "--ingest", dials) == 0
    assert Tokenizer.load(tmp_path / "tokens" / "tokenizer.json").spec.calendar == "shifted"
    for wrong in ("colour: red\n", "- a\n", "a: [\n"):
        dials.write_text(wrong)
        assert run("tokenize", meds, "--out", tmp_path / "x", "--ingest", dials) == 2
    assert "dials.yaml" in capsys.readouterr().err


def test_fit_and_merge_make_the_tokenizer_of_tokenize(
    meds: Path, tokens: Path, tmp_path: Path
) -> None:
    options = ["--preset", "events", "--values", "none"]
    counts = [tmp_path / "c0", tmp_path / "c1"]
    for index, path in enumerate(counts):
        shard = ["--shard-index", str(index), "--num-shards", "2"]
        assert run("fit", meds, "--out", path, *options, *shard) == 0
    assert run("merge", *counts, "--out", tmp_path / "merged.json") == 0
    assert (tmp_path / "merged.json").read_bytes() == (tokens / "tokenizer.json").read_bytes()
    assert run("fit", meds, "--out", tmp_path / "x", "--shard-index", "0") == 2


def test_verify_passes_a_store_and_names_a_flipped_bit(
    meds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokens"
    assert run("tokenize", meds, "--out", out) == 0
    assert run("verify", out) == 0
    assert "all is well" in capsys.readouterr().out
    path = out / "train" / "0.arrow"
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 4
    path.write_bytes(broken)
    assert run("verify", out) == 1
    assert "0.arrow does not match its SHA-256" in capsys.readouterr().err
    assert run("verify", tmp_path) == 1
    assert "not a token store" in capsys.readouterr().err


def test_verify_checks_a_run_against_its_tokenizer(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer.load(tokens / "tokenizer.json")
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=32
    )
    tokenizer.save(tmp_path / "tokenizer.json")
    save_model(tmp_path, Model(config), tokenizer_hash=tokenizer.hash, training={})
    assert run("verify", tmp_path) == 0
    assert "parameters" in capsys.readouterr().out
    save_model(tmp_path, Model(config), tokenizer_hash="0" * 64, training={})
    assert run("verify", tmp_path) == 1
    assert "another vocabulary" in capsys.readouterr().err


def test_verify_checks_synthetic_files_against_their_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "person.csv"
    path.write_text("person_id\n1\n")
    listed = {"person.csv": {"bytes": 12, "sha256": sha256_file(path)}}
    manifest = {"kind": KIND, "files": listed, "output_hash": output_hash(listed)}
    write_json(tmp_path / "manifest.json", manifest)
    assert run("verify", tmp_path) == 0
    assert "1 synthetic files" in capsys.readouterr().out
    path.write_text("person_id\n2\n")
    assert run("verify", tmp_path) == 1
    assert "does not match its manifest" in capsys.readouterr().err
