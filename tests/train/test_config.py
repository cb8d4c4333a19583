from __future__ import annotations

import itertools
import math

import pytest

from chronoward.errors import ConfigError
from chronoward.train.config import TrainConfig
from chronoward.train.schedule import evaluation_steps, learning_rate, run_length


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
    assert run_length(TrainConfig(epochs=99, minutes=1.0), 10, 0.5) == 120
    assert run_length(TrainConfig(minutes=0.001), 10, 5.0) == 1


def test_the_last_step_is_always_evaluated() -> None:
    config = TrainConfig(evaluations=4)
    assert evaluation_steps(100, config) == [25, 50, 75, 100]
    assert evaluation_steps(2, config) == [1, 2]
