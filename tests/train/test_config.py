from __future__ import annotations

import inspect
import itertools
import math
from dataclasses import fields, replace
from typing import get_type_hints

import pytest

from chronoward.cli.train import run
from chronoward.errors import ConfigError
from chronoward.model import ModelConfig
from chronoward.train.config import TrainConfig
from chronoward.train.schedule import (
    SETTLING_COST,
    learning_rate,
    next_evaluation,
    run_length,
    settling_steps,
)


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "huge"},
        {"objectives": {}},
        {"objectives": {"guessing": 1.0}},
        {"objectives": {"next_event": 0.0}},
        {"objectives": {"hazard": 1.0}},
        {"outcomes": ("x",)},
        {"dtype": "fp8"},
        {"row_tokens": 0},
        {"learning_rate": -1.0},
        {"minutes": math.inf},
        {"max_steps": 0},
        {"warmup_steps": -1},
        {"final_share": 2.0},
    ],
)
def test_impossible_options_are_refused(changes: dict) -> None:
    with pytest.raises(ConfigError):
        TrainConfig(**changes)


def test_learning_rate_warms_up_and_falls_to_its_final_share() -> None:
    config = TrainConfig(learning_rate=1.0, warmup_steps=10, final_share=0.1)
    rates = [learning_rate(s, 200, config) for s in range(201)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert all(b < a for a, b in itertools.pairwise(rates[10:]))
    assert rates[200] == pytest.approx(0.1)


def test_the_tightest_limit_decides_the_length() -> None:
    assert run_length(TrainConfig(epochs=2.5), 10, None) == 25
    assert run_length(TrainConfig(epochs=2.5, max_steps=7), 10, None) == 7
    assert run_length(TrainConfig(epochs=99, max_steps=100, minutes=1.0), 10, 0.5) == 100
    assert run_length(TrainConfig(minutes=0.001), 10, 5.0) == 1


def test_minutes_pay_for_settling_too() -> None:
    config = TrainConfig(epochs=1e6, minutes=10.0)
    for per_epoch in (10, 100_000):
        n_steps = run_length(config, per_epoch, 0.5)
        looks = settling_steps(n_steps, per_epoch, config)
        assert 599 < 0.5 * (n_steps + SETTLING_COST * looks) <= 600


def test_a_run_slower_than_planned_keeps_a_tail_for_the_learning_rate() -> None:
    config = TrainConfig(epochs=1e6, minutes=1.0)
    assert run_length(config, 10, 2.0, done=50) == 55
    assert run_length(replace(config, max_steps=52), 10, 2.0, done=50) == 52


def test_the_last_step_is_always_evaluated() -> None:
    config = TrainConfig(evaluations=4)
    assert [next_evaluation(100, done, config) for done in range(4)] == [25, 50, 75, 100]
    assert [next_evaluation(2, done, config) for done in range(2)] == [1, 2]


def test_the_commands_defaults_are_those_of_the_configs() -> None:
    """The command line loads no torch before it runs, so its defaults are written twice."""
    given = {name: p.default for name, p in inspect.signature(run).parameters.items()}
    given["objectives"] = {given.pop("objective"): 1.0}
    given["outcomes"] = given["outcomes"] or ()
    owners = {f.name: f.default for f in fields(ModelConfig)} | TrainConfig().__dict__
    shared = set(given) & set(owners)
    assert len(shared) >= 15
    options = get_type_hints(run, include_extras=True)
    for name in ("time_bias", "rotary"):  # None is the config's own; the help says which that is
        assert given[name] is None
        assert f"[{owners[name]}]" in options[name].__metadata__[0].help
        shared.remove(name)
    assert {name: given[name] for name in shared} == {name: owners[name] for name in shared}
