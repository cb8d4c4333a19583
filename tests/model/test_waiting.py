"""A training step never waits for a GPU: shown on torch's meta device, whose tensors have shapes
but no values, so that every look at one (an item, a count, a mask that selects, a copy back) is an
error. (What Triton's backends do on a GPU is not seen here: attention is the reference's.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from chronoward.model import (
    Gap,
    GapHead,
    Gaps,
    Hazard,
    HazardConfig,
    HazardHead,
    Model,
    NextEvent,
    NextVisit,
    NextVisitConfig,
    NextVisitHead,
    OutcomeTable,
    Subtime,
    SubtimeHead,
    fused_rows,
)
from chronoward.model.batch import OutputSample
from chronoward.model.context_bias import ContextBias
from chronoward.model.open_interval import OpenIntervals

V, DAY = 24, 1440
END, START, CLOSE, SHORT, LONG = 1, 4, 6, 8, 9
META = torch.device("meta")


def open_intervals() -> OpenIntervals:
    leaves_open = np.zeros(V, np.bool_)
    leaves_open[CLOSE] = True
    grid = np.stack([np.linspace(0, 100, 33), np.linspace(100, 500, 33)])
    return OpenIntervals(
        end_min=np.array([900 * DAY, 90 * DAY]),
        end_id=END,
        leaves_open=leaves_open,
        gap_id=np.array([SHORT, LONG]),
        gap_min=grid,
    )


def outcomes() -> OutcomeTable:
    nothing = np.zeros(0, np.int64)
    died = (np.array([1]), np.array([80 * DAY]))
    watched = (np.arange(2), np.zeros(2, np.int64), np.full(2, 900 * DAY))
    return OutcomeTable([(np.array([0]), np.array([50 * DAY])), (nothing, nothing)], died, watched)


@pytest.fixture
def model(toy_config) -> Model:
    made = Model(replace(toy_config, n_visit_kinds=3), seed=1)
    kind = np.full(V, -1, np.int8)
    kind[[START, 7]] = (1, 2)
    made.context_bias.start(kind, np.arange(-1, V - 1, dtype=np.int32), np.full((3, 3, V), 1 / V))
    width = toy_config.d_model
    made.heads["gap"] = GapHead(width, 50.0)
    made.heads["subtime"] = SubtimeHead(width)
    hazards = HazardConfig(
        outcomes=("a", "b"), token_ids=((10,), (11,)), first_only=(True, False), edges_days=(0, 30)
    )
    made.heads["hazard"] = HazardHead(width, hazards)
    visits = NextVisitConfig(token_ids=(5, 7, 10), start_ids=(START,), end_ids=(CLOSE,))
    made.heads["next_visit"] = NextVisitHead(width, visits)
    return made


def objectives(model: Model) -> list:
    is_gap = torch.zeros(V, dtype=torch.bool)
    is_gap[[SHORT, LONG]] = True
    heads, waits = model.heads, open_intervals()
    group = torch.arange(V) % 2
    return [
        NextEvent(repeat_weight="raven", open_intervals=waits),
        NextEvent(token_group=group, group_names=("even", "odd")),
        Gap(heads["gap"], Gaps(is_gap), waits),
        Subtime(heads["subtime"], Gaps(is_gap)),
        Hazard(heads["hazard"], outcomes()),
        NextVisit(heads["next_visit"], V, repeat_weight="raven"),
    ]


def a_batch(make_batch):
    first = [START, 7, 10, CLOSE, SHORT, START, 5, CLOSE, END]
    minutes = [0, 5, 5, 6, 40 * DAY, 40 * DAY, 40 * DAY, 41 * DAY, 41 * DAY]
    return make_batch((first, minutes), ([START, 7, CLOSE, END], [0, 0, 10, 10]))


@pytest.mark.parametrize("is_sampled", [False, True])
def test_a_training_step_asks_the_device_for_no_value(
    is_sampled: bool, model, make_batch, monkeypatch
) -> None:
    batch = a_batch(make_batch)
    if is_sampled:
        sample = OutputSample(torch.cat([batch.token_id.unique(), torch.tensor([20])]), None)
        sample = replace(sample, log_weight=torch.zeros(len(sample.token_id)))
        batch = replace(batch, output_sample=sample)
    terms = [objective.loss(model, *seen(model, batch, "cpu")) for objective in objectives(model)]
    assert all(head.weight > 0 for head in terms)

    rules = model.context_bias.rules()
    monkeypatch.setattr(ContextBias, "rules", lambda _self: rules)  # fetched once, not every step
    monkeypatch.setattr(fused_rows, "product_dtype", lambda x: x.dtype)  # meta has no autocast
    model.to(META)
    total = torch.zeros((), device=META)
    for objective, expected in zip(objectives(model), terms, strict=True):
        head = objective.loss(model, *seen(model, batch, "meta"))
        assert head.weight == expected.weight
        assert {n: count for n, (_, count) in head.parts.items()} == {
            n: count for n, (_, count) in expected.parts.items()
        }
        total = total + head.total
    total.backward()
    assert all(p.grad is not None for p in model.parameters())


def seen(model: Model, batch, device: str):
    """Hidden states on a device, and the batch, which stays on the CPU."""
    columns = (batch.token_id, batch.time_min, batch.cu_seqlens)
    return model(*(x.to(device) for x in columns)), batch


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.cpu().numpy(),
        lambda x: torch.repeat_interleave(x, x.long()),
    ],
)
def test_a_look_at_a_value_is_an_error_on_the_meta_device(look) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        look(torch.ones(3, device=META))


def test_lookups_are_fetched_from_a_device_once_until_they_change(model, monkeypatch) -> None:
    bias = model.context_bias.to(META)
    fetched = []

    def fetch(self: torch.Tensor) -> torch.Tensor:
        fetched.append(self)
        return torch.zeros(self.shape, dtype=self.dtype)

    monkeypatch.setattr(torch.Tensor, "cpu", fetch)
    for _ in range(3):
        bias._lookups()
    assert len(fetched) == 2
    bias.companion.fill_(0)
    bias._lookups()
    assert len(fetched) == 4
