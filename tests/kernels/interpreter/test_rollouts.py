"""An engine's rollouts through the Triton kernels, interpreted, against the CPU's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from tests.engine.test_device import PLAIN, assert_same, made, of_the_cpu
from tests.engine.test_engine import prompts
from tests.engine.toy import toy_grammar

from chronoward.engine import Engine, EngineConfig, device
from chronoward.engine import engine as choice


@pytest.mark.slow
def test_rollouts_of_the_interpreted_kernels_are_those_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More rollouts than rows, and a context that is cut."""
    model, params = made(d_model=128), replace(PLAIN, max_new_tokens=12)
    asked = [replace(p, deadline_min=None) for p in prompts(2, 2)]
    asked[1] = replace(asked[1], rollouts=range(1))
    expected = of_the_cpu(model, asked, params, max_context=56)
    monkeypatch.setattr(choice, "decodes_on_device", lambda _: True)
    monkeypatch.setattr(choice, "STEPS_A_LOOK", 2)
    for name in ("paged_attention", "write_pages", "sample"):
        monkeypatch.setattr(device, name, partial(getattr(device, name), backend="triton"))
    config = EngineConfig(n_slots=2, max_context=56, dtype="float32")
    engine = Engine(model, toy_grammar(), config)
    assert_same(engine.generate(asked, params), expected)
    assert engine.statistics.cut_contexts == 1
