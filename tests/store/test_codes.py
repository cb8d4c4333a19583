from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from chronoward import outcomes
from chronoward.schema import code_schema
from chronoward.store.codes import code_table, write_codes

if TYPE_CHECKING:
    from pathlib import Path

PARENT = "SNOMED/84114007"


def _table(*codes: str) -> pa.Table:
    rows = [
        {
            "table": "condition_occurrence",
            "code": code,
            "concept_id": 0,
            "parent_codes": [PARENT],
            "is_inpatient": False,
        }
        for code in codes
    ]
    return pa.Table.from_pylist(rows, schema=code_schema())


def _tokenizer() -> Any:
    return SimpleNamespace(codes=[SimpleNamespace(table="condition_occurrence", code="SNOMED/1")])


def test_descendants_of_an_outcome_are_found_among_the_tokens(tmp_path: Path) -> None:
    write_codes(tmp_path, _table("SNOMED/1"), _tokenizer())
    found = outcomes.resolve(outcomes.load("heart_failure"), code_table(tmp_path, _tokenizer()))
    assert found == [("condition_occurrence", "SNOMED/1")]


def test_codes_without_a_token_are_not_published(tmp_path: Path) -> None:
    write_codes(tmp_path, _table("SNOMED/1", "SNOMED/rare"), _tokenizer())
    assert code_table(tmp_path, _tokenizer())["code"].to_pylist() == ["SNOMED/1"]
