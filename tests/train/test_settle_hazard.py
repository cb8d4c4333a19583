from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from chronoward.model import Hazard, HazardConfig, HazardHead, Model
from chronoward.model.hazard import OutcomeTable, hazard_places
from chronoward.train import settle_hazard
from chronoward.train.data import join_rows
from chronoward.train.settle_hazard import FollowUp, level_shift, settle_hazards

if TYPE_CHECKING:
    from types import SimpleNamespace

    from chronoward.model import Batch

DAY = 1440
EDGES_DAYS = (0.0, 2.0, 5.0)


def batches(toy: SimpleNamespace, n: int) -> list[Batch]:
    return [join_rows(toy.rows.step(k // 4, k % 4)) for k in range(n)]


@pytest.fixture
def objective(toy: SimpleNamespace) -> Hazard:
    """Outcome a comes to every third subject, b to two of them, c to nobody; all are watched."""
    rng = np.random.default_rng(2)
    who = np.arange(0, 24, 3)
    minute = rng.integers(1 * DAY, 9 * DAY, len(who))
    none = np.zeros(0, np.int64)
    everyone = np.arange(24)
    table = OutcomeTable(
        [(who, minute), (who[2:4], minute[2:4] + DAY), (none, none)],
        (none, none),
        (everyone, np.zeros(24, np.int64), np.full(24, 12 * DAY)),
    )
    config = HazardConfig(
        outcomes=("a", "b", "c"),
        token_ids=((4,), (5,), (6,)),
        first_only=(True, False, True),
        edges_days=EDGES_DAYS,
    )
    head = HazardHead(toy.config.d_model, config, seed=1)
    torch.nn.init.normal_(head.weight, std=0.5)
    torch.nn.init.normal_(head.piece, std=1.0)
    return Hazard(head, table)


def by_hand(
    model: Model, objective: Hazard, some: list[Batch]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events, years at risk and what the head expects, point by point."""
    edges = [*np.array(EDGES_DAYS) / 365.25, np.inf]
    events, years, expected = np.zeros((3, 3, 3))
    for batch in some:
        place = hazard_places(batch)
        subject = batch.segment_subject[batch.segments()[place]].numpy()
        minute = batch.time_min[place].numpy().astype(np.int64)
        first_only = objective.head.config.first_only
        until, event, at_risk = objective.table.targets(subject, minute, first_only)
        with torch.no_grad():
            hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
            hazard = objective.head(hidden[place]).exp().numpy()
        for i, k in np.argwhere(at_risk):
            for b in range(3):
                inside = max(0.0, min(until[i, k], edges[b + 1]) - edges[b])
                years[k, b] += inside
                expected[k, b] += hazard[i, k, b] * inside
                events[k, b] += event[i, k] and edges[b] < until[i, k] <= edges[b + 1]
    return events, years, expected


def test_follow_up_is_counted_as_point_by_point(toy: SimpleNamespace, objective: Hazard) -> None:
    model = Model(toy.config, seed=3)
    some = batches(toy, 3)
    found = FollowUp.nothing(objective)
    for batch in some:
        with torch.no_grad():
            hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
        found.add(objective, batch, hidden)
    events, years, expected = by_hand(model, objective, some)
    assert events[:2].any(axis=1).all()
    assert not events[2].any()
    np.testing.assert_allclose(found.events, events)
    np.testing.assert_allclose(found.years, years, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found.expected, expected, rtol=1e-4, atol=1e-7)
    assert found.n_subjects.max() <= 8
    assert ((found.n_subjects > 0) == (events > 0)).all()


def test_settled_hazards_add_up_to_the_events(
    toy: SimpleNamespace, objective: Hazard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle_hazard, "PRIOR_SUBJECTS", 0.0)
    model = Model(toy.config, seed=3)
    some = batches(toy, 4)
    before = objective.head.piece.detach().clone()
    settle_hazards(model, objective, [(batch, batch.time_min) for batch in some], [])
    events, _, expected = by_hand(model, objective, some)
    had = events > 0
    np.testing.assert_allclose(expected[had], events[had], rtol=1e-4)
    assert torch.equal(objective.head.piece[~torch.from_numpy(had)], before[~torch.from_numpy(had)])


def test_events_are_counted_where_the_model_is_not_asked(
    toy: SimpleNamespace, objective: Hazard
) -> None:
    """Expectations of a year come from the looks, years and events from everything."""
    model = Model(toy.config, seed=3)
    some = batches(toy, 4)
    looked, everywhere = FollowUp.nothing(objective), FollowUp.nothing(objective)
    for number, batch in enumerate(some):
        everywhere.add(objective, batch)
        if number < 2:
            with torch.no_grad():
                hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
            looked.add(objective, batch, hidden)
    events, years, _ = by_hand(model, objective, some)
    _, looked_years, expected = by_hand(model, objective, some[:2])
    n = everywhere.n_subjects
    had = (events > 0) & (looked_years > 0)
    ratio = events[had] / (expected[had] / looked_years[had] * years[had])
    wanted = np.log(ratio) * n[had] / (n[had] + 20.0)
    np.testing.assert_allclose(level_shift(looked, everywhere)[had], wanted, rtol=1e-4)
    assert not level_shift(looked, everywhere)[~had].any()
