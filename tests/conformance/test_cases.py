"""Preset cehr gives CEHR-GPT's tokens: what its own code made of the cases is in expected.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from tests.tokenizer.clinic import EPOCH_2010, MIN_US, row, table

from chronoward.schema import Role, code_schema, observation_schema
from chronoward.tokenizer import TokenClass, TokenizerSpec, fit
from chronoward.tokenizer.values import fit_value_bins

from .cases import CASES
from .differences import OURS, REASONS
from .gaps import GAPS_MIN, VALUES
from .ours import Sequences, tokenize_cases
from .regenerate import EXPECTED

if TYPE_CHECKING:
    from pathlib import Path

    from .cases import Case

PROMPT = ["year:2010", "age:60", "8532", "8527"]


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(EXPECTED.read_text())
    return content


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sequences]:
    return tokenize_cases(tmp_path_factory.mktemp("conformance"))


@pytest.mark.parametrize(
    ("person", "case"), list(enumerate(CASES, 1)), ids=[f"{c.run}: {c.name}" for c in CASES]
)
def test_the_tokens_of_a_case(
    person: int, case: Case, expected: dict[str, Any], ours: dict[str, Sequences]
) -> None:
    theirs = expected["runs"][case.run][case.name].split()
    mine = ours[case.run][str(person)]
    if (case.run, case.name) in OURS:
        stated, reason = OURS[case.run, case.name]
        assert reason in REASONS
        assert mine == stated.split()
        assert mine != theirs
    else:
        assert mine == theirs


def test_there_are_cases_enough_and_each_difference_has_one(expected: dict[str, Any]) -> None:
    assert len(CASES) == sum(len(cases) for cases in expected["runs"].values()) >= 60
    assert set(OURS) <= {(c.run, c.name) for c in CASES}
    assert len(CASES) - len(OURS) >= 60
    assert {reason for _, reason in OURS.values()} | {"short_gap", "bin_edge"} == set(REASONS)


def test_every_reason_is_in_the_docs(repository: Path) -> None:
    page = (repository / "docs" / "cehrgpt.md").read_text()
    for key, reason in REASONS.items():
        assert f"| `{key}` | {reason} |" in page


def ethos_gaps() -> list[list[str]]:
    """Our gap tokens between two visits that lie each of `GAPS_MIN` apart."""
    rows = []
    for subject, gap in enumerate(GAPS_MIN):
        for visit, at in enumerate((EPOCH_2010, EPOCH_2010 + gap * MIN_US)):
            rows.append(row(subject, Role.VISIT, "Visit/OP", at, visit_id=visit, end_time=at))
            more = {"table": "condition_occurrence", "visit_id": visit}
            rows.append(row(subject, Role.CODE, "SNOMED/hf", at, **more))
    events, observation = table(rows), observation_schema().empty_table()
    spec = TokenizerSpec(preset="cehr", time_scheme="ethos", min_subjects=1)
    tokenizer = fit([events], code_schema().empty_table(), spec)
    batch = tokenizer.encode(events, observation)
    is_gap = np.isin(tokenizer.token_class[batch.token_id], [TokenClass.GAP, TokenClass.GAP_REPEAT])
    found = []
    for begin, end in zip(batch.offsets, batch.offsets[1:], strict=False):
        tokens = batch.token_id[begin:end][is_gap[begin:end]]
        found.append([tokenizer.labels[t] for t in tokens.tolist()])
    return found


def test_ethos_gaps_are_theirs_from_five_minutes_on(expected: dict[str, Any]) -> None:
    for gap, tokens in zip(GAPS_MIN, ethos_gaps(), strict=True):
        wanted = expected["ethos"][str(gap)]
        assert tokens == (wanted if gap >= 5 else ["0m-5m"]), gap
        assert (gap >= 5) == bool(wanted)


def test_value_bins_are_theirs_but_on_the_edges(expected: dict[str, Any]) -> None:
    values = np.array(VALUES, np.float32)
    n = len(values)
    ((edges, quantiles),) = fit_value_bins(
        values, np.arange(n, dtype=np.uint64), np.array([0, n], np.int64), n_bins=10, min_subjects=1
    )
    assert len(quantiles) == 10
    mine = np.searchsorted(np.array(edges, np.float32), values, side="right")
    theirs = np.array(expected["value_bins"])
    first_of_bin = np.diff(theirs, prepend=0, append=theirs[-1])[1:] > 0  # the next one opens a bin
    assert (np.flatnonzero(mine != theirs) == np.flatnonzero(first_of_bin)).all()
    assert first_of_bin.sum() == 9
    assert pa.array(mine).to_pylist()[0] == 0
