"""The commands of docs/cehrgpt.md run and give what the page says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from tests.tokenize.conftest import write_meds

from chronoward.cli import main
from chronoward.data import CEHRGPT_DIALS
from chronoward.store import TokenStore
from chronoward.tokenizer import Tokenizer

from .omop_tables import write_cases

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "cehrgpt.md").read_text()


def _commands(page: str) -> list[str]:
    blocks = re.findall(r"```\n(.*?)```", page, re.S)
    return [
        line for block in blocks for line in block.splitlines() if line.startswith("chronoward")
    ]


def _run(command: str, **folders: Path) -> None:
    words = [str(folders.get(word, word)) for word in command.split()[1:]]
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert not exit_.value.code, command


def test_the_commands_for_cehrgpt(page: str, tmp_path: Path) -> None:
    write_cases(tmp_path / "omop")
    places = {"OMOP": tmp_path / "omop", "TOKENS": tmp_path / "tokens", "DATA": tmp_path / "data"}
    tokenize, export, _ = _commands(page)
    _run(tokenize, **places)
    _run(export, **places)
    train = pq.read_table(tmp_path / "data" / "patient_sequence" / "train")
    assert {"[VS]", "9201", "9202", "316139", "D1"} <= {
        x for row in train["concept_ids"].to_pylist() for x in row
    }
    for name in train.column_names:
        assert f"`{name}`" in page


def test_the_command_for_ethos_style_tokens(page: str, tmp_path: Path) -> None:
    source = write_meds(tmp_path / "meds")
    _run(_commands(page)[2], SRC=source, ETHOS=tmp_path / "tokens")
    tokenizer = Tokenizer.load(TokenStore.open(tmp_path / "tokens").tokenizer_path)
    labels = set(tokenizer.labels)
    gaps = {x for x in labels if x.startswith("gap:")}
    assert len(gaps) == 20
    assert {"gap:0m-5m", "gap:5m-15m", "gap:2mt-6mt", "gap:=6mt"} <= gaps
    assert "VALUE//q0" in labels
    assert not any(x.startswith(("[VS]", "year:")) for x in labels)
    assert not any(re.search("//q[0-9]$", x) for x in labels if not x.startswith("VALUE"))


def test_the_dials_in_the_page_are_those_of_the_preset(page: str) -> None:
    assert CEHRGPT_DIALS.concept_policy == "standard"
    assert ", ".join(str(c) for c in sorted(CEHRGPT_DIALS.inpatient_concepts, reverse=True)) in page
    assert not CEHRGPT_DIALS.merge_visits
    assert not CEHRGPT_DIALS.emergency_concepts
    assert not CEHRGPT_DIALS.billing_types
    for name in ("concept_policy", "inpatient_concepts", "merge_visits", "billing_types"):
        assert f"`{name}`" in page
