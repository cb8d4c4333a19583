"""The device's step, on a CPU with its reference kernels, against the engine token for token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from chronoward.kernels.sample import Column, Fault, Rule, Status, make_tables
from tests.engine.test_engine import PARAMS, prompts
from tests.engine.toy import DAY, DEATH, V, toy_grammar

from chronoward import philox
from chronoward.engine import STATUSES, Engine, EngineConfig, Prompt, Rollout
from chronoward.engine.device import DeviceRollouts, DeviceRoom, Job
from chronoward.engine.randomness import stream_key
from chronoward.model import Model, ModelConfig

PLAIN = replace(PARAMS, mask_outcomes=False)
ROOM = DeviceRoom(
    n_rows=3, n_prefixes=4, prefix_tokens=200, own_tokens=60, page_tokens=16, n_steps=8,
    n_queued=16, dtype=torch.float32,
)  # fmt: skip


def made(bias: str, rotary: str) -> Model:
    config = ModelConfig(
        vocab_size=V, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, n_visit_kinds=2,
        time_bias=bias, rotary=rotary,
    )  # fmt: skip
    model = Model(config, seed=1)
    kind, companion = np.full(V, -1, np.int8), np.arange(-1, V - 1, dtype=np.int32)
    kind[[8, 9]] = 1, 0
    rates = np.random.default_rng(1).uniform(0.05, 1.0, (3, 2, V))
    model.context_bias.start(kind, companion, rates)
    with torch.no_grad():
        for block in model.blocks:
            if block.time_bias is not None:
                block.time_bias.strength += 0.5
        model.embedding.weight *= 60
        model.context_bias.unseen[:, DEATH] = -40
    return model


def job(prompt: Prompt, number: int, rollout: int) -> Job:
    grammar, state, sex = toy_grammar(), 0, 0
    for token in prompt.token_id:
        state = int(grammar.next_state[state, grammar.token_class[token]])
        sex = int(grammar.token_sex[token]) or sex
    last = int(prompt.token_id[-1])
    line = {
        Column.STATE: state, Column.SEX: sex,
        Column.PREVIOUS_CLASS: int(grammar.token_class[last]), Column.PREVIOUS_TOKEN: last,
        Column.CLOCK: int(prompt.time_min[-1]), Column.STEP: 0,
        Column.PREDICTION: prompt.prediction_min, Column.DEADLINE: prompt.deadline_min,
        Column.MASKED: -1, Column.ROLLOUT: rollout, Column.STATUS: Status.RUNNING,
        Column.FAULT: Fault.NONE,
    }  # fmt: skip
    subject = philox.hash64(prompt.subject_id, prompt.prediction_time_us)
    key, who = np.array([stream_key(0, "main"), subject], np.uint64).view(np.int64).tolist()
    return Job(
        slot=[line[column] for column in Column], key=(key, who), prefix=number, token=last,
        start_min=int(prompt.time_min[0]),
    )  # fmt: skip


def drawn(rollouts: DeviceRollouts, n_jobs: int) -> list[list[tuple[float, ...]]]:
    """Every step of each job, read eight steps at a time."""
    found: list[list[tuple[float, ...]]] = [[] for _ in range(n_jobs)]
    names = ("token", "time_min", "status", "step_min", "log_p", "value_u")
    ended = 0
    while ended < n_jobs:
        for _ in range(rollouts.room.n_steps):
            rollouts.step()
        told = rollouts.read()
        for step, row in (told["job"] >= 0).nonzero().tolist():
            values = tuple(told[name][step, row].item() for name in names)
            found[int(told["job"][step, row])].append((*values, *told["outcome_p"][step, row]))
            ended += values[2] != Status.RUNNING
    return found


def assert_same(steps: list[tuple[float, ...]], rollout: Rollout) -> None:
    assert STATUSES[int(steps[-1][2])] == rollout.status
    token, time_min, _, step_min, log_p, value_u, outcome_p = (
        np.array(x) for x in zip(*steps, strict=True)
    )
    assert token.tolist() == rollout.token_id.tolist()
    assert time_min.tolist() == rollout.time_min.tolist()
    assert step_min.tolist() == rollout.step_min.tolist()
    assert value_u.tolist() == rollout.value_u.tolist()
    np.testing.assert_allclose(log_p, rollout.log_p, atol=1e-4)
    np.testing.assert_allclose(outcome_p, rollout.outcome_p[:, 0], atol=1e-4)


@pytest.mark.parametrize("shape", ["log-half", "linear-none", "none-time"])
def test_a_devices_rollouts_are_those_of_the_engine(shape: str) -> None:
    """Twelve jobs in three rows that are refilled from the queue, three a prefix."""
    model, grammar, params = made(*shape.split("-")), toy_grammar(), PLAIN
    rule = Rule(1.0, 0, 1.0, 0.0, params.max_new_tokens, grammar.max_clock_min, False)
    tables = make_tables(grammar, outcome_sets=params.outcome_sets)
    rollouts = DeviceRollouts(model, tables, rule, ROOM)
    asked = [replace(p, deadline_min=(101 + 4 * i) * DAY) for i, p in enumerate(prompts(4, 3))]
    jobs = []
    for number, prompt in enumerate(asked):
        rollouts.prefill(
            number,
            torch.from_numpy(prompt.token_id[:-1]).long(),
            torch.from_numpy(prompt.time_min[:-1]),
        )
        jobs += [(prompt, number, rollout) for rollout in prompt.rollouts]
    mixed = [jobs[i] for i in np.random.default_rng(0).permutation(len(jobs))]
    rollouts.push([job(*x) for x in mixed])
    found = drawn(rollouts, len(mixed))
    engine = Engine(model, grammar, EngineConfig(n_slots=4))
    expected = {(r.subject_id, r.rollout): r for r in engine.generate(asked, params)}
    assert sum(len(r.token_id) for r in expected.values()) > 100
    for (prompt, _, rollout), steps in zip(mixed, found, strict=True):
        assert_same(steps, expected[prompt.subject_id, rollout])


def test_a_row_that_cannot_go_on_says_so_in_the_ring() -> None:
    model, grammar = made("log", "half"), toy_grammar()
    with torch.no_grad():
        model.final_norm.weight.fill_(float("nan"))
    rule = Rule(1.0, 0, 1.0, 0.0, 60, grammar.max_clock_min, False)
    rollouts = DeviceRollouts(model, make_tables(grammar), rule, ROOM)
    prompt = prompts(1, 1)[0]
    rollouts.prefill(0, torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int32))
    rollouts.push([job(prompt, 0, 0)])
    rollouts.step()
    told = rollouts.read()
    assert told["job"][-1].tolist() == [0, -1, -1]
    assert told["fault"][-1, 0] == Fault.NAN
    assert told["status"][-1, 0] == Status.FAULT
