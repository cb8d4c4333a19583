from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from chronoward.model import Model, NextEvent
from chronoward.model.open_interval import OpenIntervals

END, CLOSE, SHORT, LONG = 1, 6, 8, 9


def make_intervals(config, end_min: list[int]) -> OpenIntervals:
    leaves_open = np.zeros(config.vocab_size, np.bool_)
    leaves_open[CLOSE] = True
    return OpenIntervals(
        end_min=np.array(end_min),
        end_id=END,
        leaves_open=leaves_open,
        gap_id=np.array([SHORT, LONG]),
        gap_min=np.stack([np.linspace(0, 100, 33), np.linspace(100, 500, 33)]),
    )


def test_survival_is_the_share_of_the_quantile_function_beyond(toy_config) -> None:
    share = make_intervals(toy_config, []).survival(np.array([0, 50, 100, 300, 900]))
    assert share[:, 0].tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0, 0.0], abs=1e-6)
    assert share[:, 1].tolist() == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.0], abs=1e-6)


def test_loss_equals_a_slow_loop_over_open_timelines(make_batch, toy_config) -> None:
    model = Model(toy_config, seed=1).double()
    torch.nn.init.normal_(model.context_bias.known)
    batch = make_batch(
        ([4, 7, CLOSE, END], [0, 0, 60, 60]),  # 50 minutes open
        ([4, 7, 5, END], [0, 0, 10, 10]),  # ends inside a visit
        ([4, CLOSE, END], [0, 20, 20]),  # 300 minutes open
        ([4, CLOSE, END], [0, 20, 20]),  # ends with its observation
        ([4, CLOSE], [0, 20]),  # a window: the timeline goes on
    )
    intervals = make_intervals(toy_config, [110, 900, 320, 20, 900])
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
    total, n_open = intervals.loss(model, hidden, batch)
    places = torch.arange(len(batch.token_id))
    context = model.context_bias.context(batch.token_id, batch.cu_seqlens, places)
    p = torch.softmax(model.logits(hidden, context), dim=1).detach()
    # the clock of the first stood 50 minutes before its end, the other's 300
    expected = -math.log(0.5 * p[2, SHORT] + p[2, LONG])
    expected -= math.log(1e-6 * p[9, SHORT] + 0.5 * p[9, LONG])
    assert n_open == 2
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_the_objective_adds_open_intervals_and_their_gradient(make_batch, toy_config) -> None:
    model = Model(toy_config, seed=1)
    batch = make_batch(([4, 7, CLOSE, END], [0, 0, 60, 60]))
    batch.loss_mask[-1] = False  # `end` carries no loss
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
    plain = NextEvent().loss(model, hidden, batch)
    whole = NextEvent(open_intervals=make_intervals(toy_config, [110])).loss(model, hidden, batch)
    assert whole.weight == plain.weight + 1
    assert whole.parts["open"][1] == 1
    assert whole.total.item() == pytest.approx(plain.total.item() + whole.parts["open"][0])
    whole.total.backward()
    gradient = model.context_bias.unseen.grad
    assert gradient is not None
    assert gradient[0, LONG] < 0  # nothing came: a longer gap becomes more probable
