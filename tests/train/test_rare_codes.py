from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from chronoward.model import Model, ModelConfig, NextEvent
from chronoward.tokenizer import TokenClass
from chronoward.train.data import join_rows
from chronoward.train.rare_codes import N_DRAWN, RARE_SHARE, RareCodes

V = 400
IS_RARE = np.arange(V) >= 60


@pytest.fixture
def batch(toy):
    """Tokens below 24 and the rare tokens 100 and 101."""
    made = join_rows([toy.make_row([0, 5, 9], [13, 9, 15])])
    made.token_id[[4, 5]] = torch.tensor([100, 101])
    return made


def test_a_step_keeps_common_tokens_and_its_own_and_draws_among_the_rest(batch) -> None:
    sample = RareCodes(IS_RARE, seed=0, n_drawn=30)(batch, 0, 0)
    token_id = sample.token_id.tolist()
    assert len(token_id) == len(set(token_id)) == 60 + 2 + 30
    kept = {*range(60), 100, 101}
    assert kept <= set(token_id)
    is_kept = torch.tensor([t in kept for t in token_id])
    assert not sample.log_weight[is_kept].any()
    weights = sample.log_weight[~is_kept].exp()
    torch.testing.assert_close(weights, torch.full((30,), (V - 62) / 30))


def test_every_rare_token_is_drawn_equally_often(batch) -> None:
    choose, n = RareCodes(IS_RARE, seed=0, n_drawn=30), 1200
    drawn = np.zeros(V)
    for step in range(n):
        sample = choose(batch, 0, step)
        drawn[sample.token_id[sample.log_weight > 0].numpy()] += 1
    share = 30 / (V - 62)
    others = np.delete(drawn[60:], [40, 41])
    deviation = (others - n * share) / np.sqrt(n * share * (1 - share))
    assert np.abs(deviation).max() < 4.5
    assert 0.7 < deviation.var() < 1.3
    assert not drawn[[100, 101]].any()


def test_the_loss_is_right_on_average_and_so_is_its_gradient(batch) -> None:
    """The logarithm of an unbiased sum is too low by half the sum's relative variance, so the rare
    tokens are given the small mass that they have."""
    torch.manual_seed(0)
    model = Model(
        ModelConfig(vocab_size=V, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24), seed=0
    )
    with torch.no_grad():
        model.context_bias.unseen[:, IS_RARE] = -4.0
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens).detach()
    objective, inputs = NextEvent(), [model.output_weight, model.context_bias.unseen]

    def loss_and_gradient(output_sample) -> torch.Tensor:
        total = objective.loss(model, hidden, replace(batch, output_sample=output_sample)).total
        gradients = torch.autograd.grad(total, inputs)
        return torch.cat([total.detach()[None], *(g.flatten() for g in gradients)]).double()

    whole = loss_and_gradient(None)
    choose, n = RareCodes(IS_RARE, seed=0, n_drawn=30), 600
    draws = torch.stack([loss_and_gradient(choose(batch, 0, step)) for step in range(n)])
    error = (draws.mean(0) - whole) / (draws.std(0) / n**0.5 + 1e-6)
    assert draws.std(0)[0] > 1e-3  # it is a sample
    assert abs(float(error[0])) < 5
    assert float(error[1:].square().mean()) < 1.5


def test_a_sample_follows_from_seed_epoch_and_step(batch) -> None:
    def sample(seed: int, epoch: int, step: int) -> list[int]:
        return RareCodes(IS_RARE, seed, n_drawn=30)(batch, epoch, step).token_id.tolist()

    first = sample(1, 3, 4)
    assert first == sample(1, 3, 4)
    for other in ((2, 3, 4), (1, 2, 4), (1, 3, 5)):
        assert first != sample(*other)


def fake_store(n_rare: int) -> tuple[SimpleNamespace, SimpleNamespace]:
    """Two structural tokens, one of them never there, two common codes, and codes that occur once
    or twice each."""
    counts = np.array([5000, 0, 40_000, 3000, *([1, 2] * (n_rare // 2))])
    token_class = np.full(len(counts), TokenClass.CODE)
    token_class[:2] = TokenClass.GAP
    token_id = np.repeat(np.arange(len(counts)), counts)
    split = SimpleNamespace(
        shards=[SimpleNamespace(token_id=part) for part in (token_id[::2], token_id[1::2])]
    )
    return split, SimpleNamespace(vocab_size=len(counts), token_class=token_class)


def test_the_rarest_codes_that_make_up_a_small_share_are_sampled() -> None:
    split, tokenizer = fake_store(n_rare=900)
    rare = RareCodes.of(split, tokenizer, seed=0)
    assert rare is not None
    assert np.flatnonzero(rare._is_rare).tolist() == list(range(4, 904))
    assert RARE_SHARE * (48_000 + 1350) > 1350  # so that all of them fit


def test_a_small_vocabulary_is_not_sampled() -> None:
    split, tokenizer = fake_store(n_rare=2 * N_DRAWN - 2)
    assert RareCodes.of(split, tokenizer, seed=0) is None
