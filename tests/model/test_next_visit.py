from __future__ import annotations

import math

import pytest
import torch

from chronoward.errors import ConfigError
from chronoward.model import Model, NextVisit, NextVisitConfig, NextVisitHead
from chronoward.model import next_visit as next_visit_module
from chronoward.model.next_visit import kv_end_of_visits

START, STOP = 5, 6
CODES = (7, 8, 9, 10, 11)
# two visits (the second with a code twice), then one that the window cuts
TOKENS = [2, START, 8, 9, STOP, 4, START, 9, 11, 9, STOP, 4, START, 7]
MINUTES = [0, 60, 60, 90, 90, 900, 900, 900, 950, 950, 960, 2000, 2000, 2000]
N_PRIOR = [0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]


def make_head(config, **changes) -> NextVisitHead:
    fields = {"token_ids": CODES, "start_ids": (START,), "end_ids": (STOP,), **changes}
    head = NextVisitHead(config.d_model, NextVisitConfig(**fields), seed=3)
    torch.nn.init.normal_(head.bias)
    return head


def slow_loss(head, model, hidden, weights: dict[tuple[int, int], float], kind: str) -> float:
    """One visit and token after the other; `weights` of (visit, token) that are held."""
    total = 0.0
    for visit, (place, held) in enumerate([(1, {8, 9}), (6, {9, 11})]):
        for column, token in enumerate(CODES):
            row = model.embedding.weight[token] if head.weight is None else head.weight[column]
            z = float((hidden[place] @ row + head.bias[column]).detach())
            p = 1 / (1 + math.exp(-z))
            likely = p if token in held else 1 - p
            focus = (1 - likely) ** 2 if kind == "focal" else 1.0
            total -= weights.get((visit, token), 1.0) * focus * math.log(likely)
    return total


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["bce", "focal"])
@pytest.mark.parametrize("weight", ["none", "raven", "exp"])
def test_loss_equals_a_slow_loop(tied, kind, weight, make_batch, toy_config) -> None:
    model, head = Model(toy_config, seed=1), make_head(toy_config, tied=tied)
    batch = make_batch((TOKENS, MINUTES), n_prior=N_PRIOR)
    objective = NextVisit(head, 24, loss_kind=kind, repeat_weight=weight)
    with torch.no_grad():
        hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
        loss = objective.loss(model, hidden, batch)
    repeated = {"none": 1.0, "raven": 0.5, "exp": math.exp(-0.5)}[weight]
    expected = slow_loss(head, model, hidden, {(1, 9): repeated}, kind)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert loss.weight == objective.n_terms(batch) == 2


def test_chunks_change_neither_the_loss_nor_its_gradients(
    make_batch, toy_config, monkeypatch
) -> None:
    model, head = Model(toy_config, seed=1), make_head(toy_config)
    batch = make_batch((TOKENS, MINUTES), (TOKENS, MINUTES))
    found = []
    for chunk in (512, 1):
        monkeypatch.setattr(next_visit_module, "CHUNK_VISITS", chunk)
        hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
        model.zero_grad()
        head.zero_grad()
        NextVisit(head, 24).loss(model, hidden, batch).total.backward()
        parts = [*model.embedding.parameters(), *head.parameters()]
        found.append(torch.cat([p.grad.flatten() for p in parts]))
    torch.testing.assert_close(found[0], found[1])


def test_a_start_does_not_see_its_visit_and_the_others_see_all_of_it(
    make_batch, toy_config
) -> None:
    batch = make_batch((TOKENS, MINUTES))
    objective = NextVisit(make_head(toy_config), 24)
    kv_end = kv_end_of_visits(batch, objective.start, objective.end)
    assert kv_end.tolist() == [1, 2, 5, 5, 5, 6, 7, 11, 11, 11, 11, 12, 13, 14]
    model = Model(toy_config, seed=1)
    embedded = model.embedding.weight
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens, kv_end)
    (gradient,) = torch.autograd.grad(hidden[6].square().sum(), embedded, retain_graph=True)
    assert not gradient[11].any()  # in the visit that it asks for
    assert gradient[8].any()
    (gradient,) = torch.autograd.grad(hidden[7].square().sum(), embedded)
    assert gradient[11].any()


def test_the_head_starts_at_the_tokens_rates(toy_config) -> None:
    head = make_head(toy_config)
    head.start_at_rates(torch.tensor([0, 10, 50, 99, 1]), 100)
    assert torch.sigmoid(head.bias).tolist() == pytest.approx(
        [(n + 0.5) / 101 for n in (0, 10, 50, 99, 1)], rel=1e-5
    )


def test_config_round_trip_and_refusals(toy_config) -> None:
    config = make_head(toy_config).config
    assert NextVisitConfig.from_json(config.to_json(), "x") == config
    with pytest.raises(ConfigError, match="needs visits"):
        make_head(toy_config, start_ids=())
    with pytest.raises(ConfigError, match="the loss of a set"):
        NextVisit(make_head(toy_config), 24, loss_kind="hinge")
