from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from chronoward import outcomes
from chronoward.errors import ConfigError
from chronoward.schema import code_schema

if TYPE_CHECKING:
    from pathlib import Path


def _codes() -> pa.Table:
    rows = [
        ("condition_occurrence", "SNOMED/84114007", 316139, [], False),
        ("condition_occurrence", "SNOMED/42343007", 319835, ["SNOMED/84114007"], False),
        ("condition_occurrence", "OMOP/444031", 444031, ["OMOP/316139"], False),
        ("", "DIAGNOSIS//ICD//10//I5021", 0, [], False),
        ("", "DIAGNOSIS//ICD//10//E119", 0, [], False),
        ("visit_occurrence", "Visit/IP", 9201, [], True),
        ("visit_occurrence", "Visit/OP", 9202, [], False),
        ("death", "MEDS_DEATH", 0, [], False),
    ]
    columns = dict(
        zip(
            ("table", "code", "concept_id", "parent_codes", "is_inpatient"),
            map(list, zip(*rows, strict=True)),
            strict=True,
        )
    )
    empty = dict.fromkeys(set(code_schema().names) - set(columns), [None] * len(rows))
    return pa.table({**columns, **empty}).select(code_schema().names).cast(code_schema())


def test_every_shipped_outcome_loads_under_its_own_name() -> None:
    assert len(outcomes.shipped()) >= 10
    for name in outcomes.shipped():
        assert outcomes.load(name).name == name


def test_codes_concepts_descendants_and_prefixes_are_found() -> None:
    found = {code for _, code in outcomes.resolve(outcomes.load("heart_failure"), _codes())}
    assert found == {
        "SNOMED/84114007",
        "SNOMED/42343007",
        "OMOP/444031",
        "DIAGNOSIS//ICD//10//I5021",
    }


def test_death_and_inpatient_visits_are_outcomes_too() -> None:
    assert outcomes.resolve(outcomes.load("mortality"), _codes()) == [("death", "MEDS_DEATH")]
    assert outcomes.resolve(outcomes.load("readmission"), _codes()) == [
        ("visit_occurrence", "Visit/IP")
    ]


def test_an_outcome_without_a_code_in_the_source_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'dementia' has no code"):
        outcomes.resolve(outcomes.load("dementia"), _codes())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ntitle: A\nfoo: 1\n", "unknown keys"),
        ("name: a\n", "needs at least"),
        ("- a\n", "must hold a mapping"),
        ("name: [\n", "not valid YAML"),
        ("name: a\ntitle: A\n", "names no code"),
        ("name: a\ntitle: A\nkind: wish\n", "kind must be"),
        ("name: a\ntitle: A\nkind: death\nsex: X\n", "sex must be"),
    ],
)
def test_a_faulty_definition_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        outcomes.load(path)


def test_an_unknown_name_lists_what_is_shipped() -> None:
    with pytest.raises(ConfigError, match="heart_failure"):
        outcomes.load("hart_failure")
