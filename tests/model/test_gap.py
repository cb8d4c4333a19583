from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from chronoward.model import Gap, GapHead, Gaps, Model, Subtime, SubtimeHead
from chronoward.model.gap import FACTORS, LogSurvival, factors_of, gamma_nll, gamma_survival_nll
from chronoward.model.open_interval import OpenIntervals

DAY = 1440
END, CLOSE, SHORT, LONG = 1, 6, 8, 9


def gaps() -> Gaps:
    is_gap = torch.zeros(24, dtype=torch.bool)
    is_gap[[SHORT, LONG]] = True
    return Gaps(is_gap)


def open_for(minutes: list[int]) -> OpenIntervals:
    leaves_open = np.zeros(24, np.bool_)
    leaves_open[CLOSE] = True
    grid = np.stack([np.linspace(0, 100, 33), np.linspace(100, 500, 33)])
    return OpenIntervals(
        end_min=np.array(minutes),
        end_id=END,
        leaves_open=leaves_open,
        gap_id=np.array([SHORT, LONG]),
        gap_min=grid,
    )


def a_batch(make_batch):
    """Gaps of 30 days and of 401 days; then 90 days without a visit until observation ends."""
    return make_batch(
        ([4, CLOSE, SHORT, 7, CLOSE, LONG, 7, CLOSE, END], [0, 5, *[5 + 30 * DAY] * 2]
         + [6 + 30 * DAY] + [6 + 431 * DAY] * 4),
        ([4, 7, 5, END], [0, 0, 10, 10]),
    )  # fmt: skip


def test_gamma_likelihoods_are_those_of_scipy() -> None:
    k = torch.tensor([0.3, 1.0, 2.5, 40.0], dtype=torch.float64)
    rate = torch.tensor([0.01, 0.1, 3.0, 1.0], dtype=torch.float64)
    days = torch.tensor([12.0, 700.0, 0.4, 55.0], dtype=torch.float64)
    law = stats.gamma(k.numpy(), scale=1 / rate.numpy())
    np.testing.assert_allclose(gamma_nll(k, rate, days), -law.logpdf(days), rtol=1e-10)
    np.testing.assert_allclose(gamma_survival_nll(k, rate, days), -law.logsf(days), rtol=1e-9)


def test_the_gradient_of_the_survival_is_that_of_small_differences() -> None:
    k = torch.tensor([0.4, 1.0, 3.0, 9.0], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.2, 2.0, 3.0, 25.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LogSurvival.apply, (k, x), eps=1e-6, atol=1e-5)


def test_a_wait_far_longer_than_any_gap_stays_finite() -> None:
    """Where Q(k, x) is 0 in fp64: its logarithm by the asymptote, within 1e-4 of the next one."""
    k, x = torch.tensor([1.0, 5.0]).double(), torch.tensor([2000.0, 1e6]).double()
    found = -gamma_survival_nll(k, torch.ones(2).double(), x)
    expected = [-2000.0, 4 * math.log(1e6) - 1e6 - math.log(24)]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_gap_loss_equals_a_slow_loop(make_batch, toy_config) -> None:
    batch, model = a_batch(make_batch), Model(toy_config, seed=0)
    head = GapHead(toy_config.d_model, 50.0)
    torch.nn.init.normal_(head.parameters_of.weight, std=0.1)
    objective = Gap(head, gaps(), open_for([6 + 521 * DAY, 10**9]))
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
    loss = objective.loss(model, hidden, batch)

    expected = 0.0
    for place, days, is_closed in ((1, 30, True), (4, 401, True), (7, 90, False)):
        k, rate = (float(x.detach()) for x in head(hidden[place : place + 1]))
        law = stats.gamma(k, scale=1 / rate)
        expected -= law.logpdf(days) if is_closed else law.logsf(days)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert loss.weight == objective.n_terms(batch) == 3
    assert (loss.parts["closed"][1], loss.parts["open"][1]) == (2, 1)
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_gap_head_starts_at_an_exponential_with_the_mean() -> None:
    k, rate = GapHead(8, 50.0)(torch.randn(3, 8))
    assert k.tolist() == pytest.approx([1.0] * 3)
    assert rate.tolist() == pytest.approx([0.02] * 3)


def test_days_are_years_months_and_days() -> None:
    days = torch.tensor([0, 29, 30, 364, 365, 401, 365 * 50])
    expected = [[0, 0, 0], [0, 0, 29], [0, 1, 0], [0, 12, 4], [1, 0, 0], [1, 1, 6], [20, 0, 0]]
    assert factors_of(days).tolist() == expected
    assert all((factors_of(torch.arange(9000)).amax(0) < torch.tensor(FACTORS)).tolist())


def test_subtime_loss_equals_a_slow_loop(make_batch, toy_config) -> None:
    batch, model = a_batch(make_batch), Model(toy_config, seed=0)
    head = SubtimeHead(toy_config.d_model)
    torch.nn.init.normal_(head.scores.weight, std=0.1)
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
    loss = Subtime(head, gaps()).loss(model, hidden, batch)
    expected = 0.0
    for place, parts in ((1, (0, 1, 0)), (4, (1, 1, 6))):
        scores = head.scores(hidden[place]).detach().double()
        first = 0
        for size, part in zip(FACTORS, parts, strict=True):
            factor = scores[first : first + size]
            expected += float(torch.logsumexp(factor, 0) - factor[part])
            first += size
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert loss.weight == Subtime(head, gaps()).n_terms(batch) == 2


def test_an_untrained_factor_knows_nothing(make_batch, toy_config) -> None:
    batch, model = a_batch(make_batch), Model(toy_config, seed=0)
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
    loss = Subtime(SubtimeHead(toy_config.d_model), gaps()).loss(model, hidden, batch)
    assert loss.parts["months"][0] / 2 == pytest.approx(math.log(FACTORS[1]))
