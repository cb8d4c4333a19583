"""Keys stay inside int32 up to two million subjects; units do not depend on the size of a job."""

from __future__ import annotations

import pytest
from tests.synthesize.test_folder import plan

from chronoward.errors import ConfigError, FormatError
from chronoward.synthesize.plan import INT32_MAX, SynthesisPlan, key_space


@pytest.mark.parametrize(
    ("n_subjects", "keys"),
    [(1, "int32"), (1000, "int32"), (2_000_000, "int32"), (2_200_000, "int64")],
)
def test_keys_are_int32_up_to_two_million_subjects(n_subjects: int, keys: str) -> None:
    kind, stride = key_space(n_subjects, unit_subjects=128, max_tokens=4096)
    assert kind == keys
    n_units = -(-n_subjects // 128)
    if kind == "int32":
        assert n_units * stride <= INT32_MAX
    assert stride >= 128 * 1024


def test_keys_can_be_chosen_but_not_too_small() -> None:
    assert key_space(10, unit_subjects=128, max_tokens=64, keys="int64")[0] == "int64"
    with pytest.raises(ConfigError, match="do not fit into int32"):
        key_space(5_000_000, unit_subjects=128, max_tokens=4096, keys="int32")


def test_units_hold_each_subject_once() -> None:
    job = plan(n_subjects=300, unit_subjects=128)
    ids = [subject for unit in range(job.n_units) for subject in job.subjects(unit)]
    assert ids == list(range(1, 301))


def test_a_larger_job_has_the_same_first_units() -> None:
    small, large = plan(n_subjects=1200), plan(n_subjects=3000)
    assert small.subjects(0) == large.subjects(0)
    assert small.subjects(1) == large.subjects(1)


@pytest.mark.parametrize("change", [{"n_subjects": 0}, {"format": "fhir"}, {"files": "xlsx"}])
def test_a_plan_with_nonsense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        plan(**change)


def test_a_plan_comes_back_from_json_and_others_do_not() -> None:
    job = plan()
    assert SynthesisPlan.from_json(job.to_json(), "plan.json") == job
    with pytest.raises(FormatError, match="missing or unknown"):
        SynthesisPlan.from_json({**job.to_json(), "color": 1}, "plan.json")
    with pytest.raises(FormatError, match="not a synthesis plan"):
        SynthesisPlan.from_json({"schema": 1}, "plan.json")
