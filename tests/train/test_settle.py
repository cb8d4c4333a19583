from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tests.slow_context import slow_context

from chronoward.model import Model, NextEvent
from chronoward.model.objectives import next_event_places
from chronoward.model.open_interval import OpenIntervals
from chronoward.train import TrainConfig
from chronoward.train.data import join_rows
from chronoward.train.schedule import settling_steps
from chronoward.train.settle import Counts, bias_shift, count_targets, look, settle

if TYPE_CHECKING:
    from types import SimpleNamespace

    from chronoward.model import Batch

OBJECTIVE = NextEvent()
V, K = 24, 3


def batches(toy: SimpleNamespace, n: int) -> list[Batch]:
    return [join_rows(toy.rows.step(k // 4, k % 4)) for k in range(n)]


def clocked(some: list[Batch]) -> list[tuple[Batch, torch.Tensor]]:
    return [(batch, batch.time_min) for batch in some]


def with_lookups(model: Model) -> Model:
    """Tokens 6 and 9 begin visits, 13 ends them; the prompt announces the even tokens."""
    kind = np.full(V, -1, np.int8)
    kind[[13, 6, 9]] = (0, 1, 2)
    companion = np.where(np.arange(V) % 2 == 0, 3, -1).astype(np.int32)
    model.context_bias.start(kind, companion, np.full((3, K, V), 1 / V))
    return model


@pytest.fixture
def model(toy: SimpleNamespace) -> Model:
    return with_lookups(Model(replace(toy.config, n_visit_kinds=K), seed=3))


def by_hand(model: Model, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Expected and counted, place by place."""
    expected, counted = np.zeros((2, 3, K, V))
    bias = model.context_bias
    states, kinds = np.zeros((len(batch.token_id), V), np.int64), np.zeros(len(batch.token_id), int)
    for first, last in itertools.pairwise(batch.cu_seqlens.tolist()):
        tokens = batch.token_id[first:last].tolist()
        states[first:last], kinds[first:last] = slow_context(
            tokens, bias.visit_kind.tolist(), bias.companion.tolist()
        )
    places, targets = next_event_places(batch)
    with torch.no_grad():
        hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
        context = bias.context(batch.token_id, batch.cu_seqlens, places)
        p = torch.softmax(model.logits(hidden[places], context), dim=-1).numpy()
    for place, target, at in zip(places.tolist(), targets.tolist(), p, strict=True):
        for token in range(V):
            expected[states[place, token], kinds[place], token] += at[token]
        counted[states[place, target], kinds[place], target] += 1
    return expected, counted


def test_what_the_model_expects_is_the_sum_of_its_probabilities(
    toy: SimpleNamespace, model: Model
) -> None:
    some = batches(toy, 2)
    for parameter in model.context_bias.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    found = look(model, OBJECTIVE, clocked(some))
    parts = [by_hand(model, batch) for batch in some]
    np.testing.assert_allclose(found.expected, sum(e for e, _ in parts), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found.counted, sum(c for _, c in parts))
    assert found.counted.sum((0, 2)).all()  # of all kinds, unseen and announced
    assert found.counted.sum((1, 2))[:2].all()
    spread = parts[0][0] - parts[1][0]
    np.testing.assert_allclose(found.variance, spread**2, rtol=1e-2, atol=1e-3)


def test_repeat_weights_weigh_the_counts(toy: SimpleNamespace, model: Model) -> None:
    batch = batches(toy, 1)[0]
    batch = replace(batch, n_prior=torch.ones_like(batch.n_prior))
    halved = count_targets(model, NextEvent(repeat_weight="raven"), batch)
    np.testing.assert_allclose(halved, 0.5 * count_targets(model, OBJECTIVE, batch))


def test_settling_makes_tokens_come_as_often_as_in_the_data(
    toy: SimpleNamespace, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chronoward.train.settle.PRIOR_COUNT", 0.0)
    some = batches(toy, 12)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def gap() -> float:
        found = look(model, OBJECTIVE, clocked(some))
        frequent = found.counted > 20
        assert frequent.any(axis=(0, 2)).all()
        return float(np.abs(np.log(found.counted[frequent] / found.expected[frequent])).max())

    for _ in range(60):  # start near the rates, then off by e^±0.3
        settle(model, OBJECTIVE, clocked(some), [])
    with torch.no_grad():
        model.context_bias.unseen.add_(0.3 * torch.sin(torch.arange(K * V).view(K, V)))
    off = gap()
    settle(model, OBJECTIVE, clocked(some), [])
    assert off > 0.2
    assert gap() < 0.2 * off
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"context_bias.unseen", "context_bias.known"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def counts(counted: float, expected: float, **fields: object) -> Counts:
    cell = {"counted": counted, "expected": expected, "variance": 0.0, "still_open": 0.0} | fields
    n_open = int(cell.pop("n_open", 0))
    return Counts(*(np.full((2, 1), float(x)) for x in cell.values()), n_open=n_open)


def test_a_rare_token_follows_the_many_places_and_a_frequent_one_its_own() -> None:
    seen = Counts(
        counted=np.array([[1.0, 9000, 989_999]]),
        expected=np.array([[3.0, 10_000, 988_998]]),
        variance=np.array([[0.01, 4e6, 4e6]]),
        still_open=np.zeros((1, 3)),
        n_open=0,
    )
    everywhere = 100 * np.array([[2.0, 12_000, 986_998]])
    rare, frequent, _ = bias_shift(seen, everywhere, 0)[0]
    assert -0.35 < rare < -0.25  # 2 are expected where 3 are; 200 counts against the prior's 20
    assert frequent == pytest.approx(np.log(0.9), abs=0.01)
    assert np.abs(bias_shift(counts(0.0, 0.1), np.full((2, 1), 1e-3), 0)).max() < 0.01


def test_open_intervals_count_as_the_tokens_they_make_likely() -> None:
    seen = counts(80, 100, still_open=20, n_open=10)
    np.testing.assert_allclose(bias_shift(seen, np.full((2, 1), 800.0), 100), 0.0, atol=1e-3)
    too_few = bias_shift(counts(80, 100, n_open=0), np.full((2, 1), 800.0), 0)
    assert too_few[0, 0] < -0.1


def test_long_waits_at_the_end_make_long_gaps_likelier(toy: SimpleNamespace) -> None:
    model = Model(toy.config, seed=3)
    some = batches(toy, 8)
    short, long = 4, 5
    closing = np.zeros(V, np.bool_)
    closing[6:] = True
    day = 1440.0
    waits = OpenIntervals(
        end_min=np.full(40, 10_000_000),
        end_id=1,
        leaves_open=closing,
        gap_id=np.array([short, long]),
        gap_min=np.stack([np.linspace(0, day, 33), np.linspace(1e4 * day, 2e4 * day, 33)]),
    )
    found = look(model, replace(OBJECTIVE, open_intervals=waits), clocked(some))
    assert found.n_open > 0
    assert found.still_open[..., long].sum() > 0 > found.still_open[..., short].sum()
    assert found.counted.sum() == look(model, OBJECTIVE, clocked(some)).counted.sum()


def test_a_share_of_the_run_is_looked_at() -> None:
    config = TrainConfig(rows_per_step=4)
    assert settling_steps(3, 50, config) == 1
    assert settling_steps(300, 50, config) == 30
    assert settling_steps(3000, 50, config) == 50
    assert settling_steps(30_000, 5000, config) == 250
