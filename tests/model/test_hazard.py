from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from chronoward.errors import ConfigError
from chronoward.model import Hazard, HazardConfig, HazardHead, Model, OutcomeTable
from chronoward.model.hazard import (
    MINUTES_PER_YEAR,
    hazard_places,
    piecewise_nll,
    start_at_rates,
)

EDGES = (0.0, 100.0, 400.0)
DAY = 1440


def config(**changes) -> HazardConfig:
    base = {
        "outcomes": ("a", "b"),
        "token_ids": ((5,), (6, 7)),
        "first_only": (True, False),
        "edges_days": EDGES,
    }
    return HazardConfig(**{**base, **changes})


def table() -> OutcomeTable:
    """Subject 0: outcome a on day 50, b on days 10 and 700, observed days 0..300 and 600..900.
    Subject 1: nothing, observed days 0..1000, dies on day 400. Subject 2: never observed."""

    def at(subjects: list[int], days: list[int]) -> tuple[np.ndarray, np.ndarray]:
        return np.array(subjects, np.int64), np.array(days, np.int64) * DAY

    subjects, starts = at([0, 0, 1], [0, 600, 0])
    ends = np.array([300, 900, 1000], np.int64) * DAY
    occurrences = [at([0], [50]), at([0, 0], [700, 10])]
    return OutcomeTable(occurrences, at([1], [400]), (subjects, starts, ends))


def test_targets_know_censoring_death_and_earlier_occurrences() -> None:
    points = [(0, 0), (0, 10), (0, 60), (0, 400), (0, 650), (1, 100), (1, 450), (2, 5)]
    subject = np.array([s for s, _ in points], np.int64)
    minute = np.array([d * DAY for _, d in points], np.int64)
    years, event, at_risk = table().targets(subject, minute, (True, False))
    days = years * 365.25
    # outcome a: once only; day 60 is after it
    assert at_risk[:, 0].tolist() == [True, True, False, False, False, True, False, False]
    assert event[:, 0].tolist() == [True, True, False, False, False, False, False, False]
    assert days[[0, 1, 5], 0] == pytest.approx([50, 40, 300])  # the last one ends by death
    # outcome b: again and again; at day 10 itself it is not ahead any more; day 400 is unobserved
    assert at_risk[:, 1].tolist() == [True, True, True, False, True, True, False, False]
    assert event[:, 1].tolist() == [True, False, False, False, True, False, False, False]
    assert days[[0, 1, 2, 4, 5], 1] == pytest.approx([10, 290, 240, 50, 300])


def test_nll_equals_a_slow_loop() -> None:
    head = HazardHead(8, config(), seed=1)
    hidden = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    years = torch.tensor([[0.1, 0.2], [0.3, 1.0], [2.0, 5.0], [0.0, 0.5], [1.2, 0.7], [9, 0.27]])
    event = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0], [0, 1]], dtype=torch.bool)
    log_hazard = head(hidden).detach()
    exposure = head.exposure(torch.zeros_like(years), years)
    mine = piecewise_nll(log_hazard, exposure, event)
    edges = [*(e / 365.25 for e in EDGES), math.inf]
    for n in range(6):
        for k in range(2):
            t, expected = float(years[n, k]), 0.0
            for b in range(3):
                rate = math.exp(float(log_hazard[n, k, b]))
                expected += rate * max(0.0, min(t, edges[b + 1]) - edges[b])
                if event[n, k] and edges[b] < t <= edges[b + 1]:
                    expected -= math.log(rate)
            assert float(mine[n, k]) == pytest.approx(expected, rel=1e-5)


def test_constant_hazard_has_its_minimum_at_events_over_years() -> None:
    """Closed form: Σ(λ t − d log λ) is least at λ = Σd / Σt, where it is Σd (1 − log(Σd / Σt))."""
    years = torch.tensor([0.5, 2.0, 1.5, 3.0, 0.25])
    event = torch.tensor([True, False, True, False, True])
    rate = float(event.sum() / years.sum())

    def nll(log_rate: float) -> float:
        log_hazard = torch.full((5, 1), log_rate)
        return float(piecewise_nll(log_hazard, years[:, None], event).sum())

    assert nll(math.log(rate)) == pytest.approx(3 * (1 - math.log(rate)), rel=1e-6)
    assert nll(math.log(rate)) < min(nll(math.log(rate) - 0.1), nll(math.log(rate) + 0.1))


def test_cumulative_hazard_integrates_from_the_silence_on() -> None:
    head = HazardHead(8, config(), seed=1)
    hidden = torch.randn(3, 8)
    start, end = torch.tensor([0.0, 0.2, 1.0]), torch.tensor([0.1, 1.5, 4.0])
    rates = head(hidden).exp().detach()
    years = [e / 365.25 for e in EDGES]
    cumulative = head.cumulative(hidden, start, end)
    first = rates[0, 0, 0] * 0.1
    second = (
        rates[1, 0, 0] * (years[1] - 0.2)
        + rates[1, 0, 1] * (years[2] - years[1])
        + rates[1, 0, 2] * (1.5 - years[2])
    )
    third = rates[2, 0, 1] * (years[2] - 1.0) + rates[2, 0, 2] * (4 - years[2])
    assert cumulative[:, 0].tolist() == pytest.approx([float(first), float(second), float(third)])


def test_only_the_last_predicted_token_of_a_moment_answers(make_batch) -> None:
    batch = make_batch(([4, 5, 6, 7, 1], [0, 0, 9, 9, 9]), ([4, 8, 9], [0, 3, 3]))
    batch.loss_mask[4] = False  # the end token
    assert hazard_places(batch).tolist() == [1, 3, 7]


def test_hazard_loss_counts_points_at_risk_only(make_batch, toy_config) -> None:
    model = Model(toy_config, seed=0)
    head = HazardHead(toy_config.d_model, config(), seed=0)
    batch = make_batch(
        ([4, 8, 9, 10], [0, 0, 60 * DAY, 400 * DAY]), ([4, 8], [0, 100 * DAY]), ([4, 8], [0, 5])
    )
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
    loss = Hazard(head, table()).loss(model, hidden, batch)
    # points: subject 0 on days 0, 60 (only b), 400 (unobserved); subject 1 on day 100; 2 never
    assert loss.weight == 3
    assert {name: count for name, (_, count) in loss.parts.items()} == {"a": 2, "b": 3}
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_start_at_rates_sets_the_first_hazard() -> None:
    head = HazardHead(8, config(), seed=0)
    start_at_rates(head, [20, 0], [100.0, 0.0])
    assert head.log_rate.exp().tolist() == pytest.approx([0.2, 1e-6])


def test_config_round_trip_and_refusals() -> None:
    assert HazardConfig.from_json(config().to_json(), "x") == config()
    for changes in ({"edges_days": (1.0, 2.0)}, {"edges_days": (0.0, 5.0, 5.0)}, {"outcomes": ()}):
        with pytest.raises(ConfigError):
            config(**changes)
    assert pytest.approx(365.25 * 24 * 60) == MINUTES_PER_YEAR
