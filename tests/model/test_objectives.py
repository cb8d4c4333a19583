from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from chronoward import _core
from chronoward.errors import ConfigError
from chronoward.model import Model, NextEvent
from chronoward.model import cross_entropy as cross_entropy_module
from chronoward.model.batch import OutputSample
from chronoward.model.context_bias import Context
from chronoward.model.cross_entropy import chunked_cross_entropy
from chronoward.model.objectives import next_event_places, repeat_weights

if TYPE_CHECKING:
    from chronoward.model import Batch

FIRST = ([4, 7, 9, 5, 2], [0, 0, 60, 60, 9000])
SECOND = ([4, 8, 3], [5, 5, 700])


def whole_context(model: Model, batch: Batch) -> Context:
    places = torch.arange(len(batch.token_id))
    return model.context_bias.context(batch.token_id, batch.cu_seqlens, places)


def with_lookups(model: Model) -> Model:
    """Tokens 4 and 7 begin visits, each token announces the next one, biases are random."""
    n_tokens = model.config.vocab_size
    kind = np.full(n_tokens, -1, np.int8)
    kind[[4, 7]] = (1, 2)
    companion = np.arange(-1, n_tokens - 1, dtype=np.int32)
    rates = np.random.default_rng(0).uniform(0.05, 1.0, (3, 3, n_tokens))
    model.context_bias.start(kind, companion, rates)
    return model


def slow_loss(model: Model, batch, weights: list[float]) -> float:
    """One position after the other, from whole rows of logits."""
    with torch.no_grad():
        hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
        logits = model.logits(hidden, whole_context(model, batch))
    segment = batch.segments().tolist()
    total = 0.0
    for i in range(1, len(segment)):
        if segment[i] == segment[i - 1] and batch.loss_mask[i]:
            log_p = torch.log_softmax(logits[i - 1], dim=0)[batch.token_id[i]]
            total -= weights[i] * float(log_p)
    return total


@pytest.mark.parametrize("kind", ["none", "raven", "exp"])
def test_loss_equals_a_slow_loop(kind: str, make_batch, toy_config) -> None:
    model = with_lookups(Model(replace(toy_config, n_visit_kinds=3), seed=1).double())
    batch = make_batch(FIRST, SECOND, n_prior=[0, 3, 0, 1, 0, 0, 9, 0])
    weights = repeat_weights(batch.n_prior, kind, 0.5).tolist()
    objective = NextEvent(repeat_weight=kind)
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
    head = objective.loss(model, hidden, batch)
    assert head.total.item() == pytest.approx(slow_loss(model, batch, weights), rel=1e-9)
    predicted = [1, 2, 3, 4, 6, 7]
    assert head.weight == pytest.approx(sum(weights[i] for i in predicted))
    assert head.parts["all"][1] == 6


def test_repeat_weights_follow_their_formulas() -> None:
    n_prior = torch.tensor([0, 1, 2, 255], dtype=torch.uint8)
    assert repeat_weights(n_prior, "none", 0.5).tolist() == [1, 1, 1, 1]
    assert repeat_weights(n_prior, "raven", 0.5).tolist() == pytest.approx([1, 0.5, 0.25, 0.1])
    expected = [1, math.exp(-0.5), math.exp(-1), math.exp(-127.5)]
    assert repeat_weights(n_prior, "exp", 0.5).tolist() == pytest.approx(expected)


def test_masked_tokens_have_no_loss(make_batch, toy_config) -> None:
    batch = make_batch(FIRST, SECOND)
    batch.loss_mask[2] = False
    place, target = next_event_places(batch)
    assert place.tolist() == [0, 2, 3, 5, 6]
    assert target.tolist() == [7, 5, 2, 8, 3]


def test_loss_of_one_subject_does_not_depend_on_its_neighbors(make_batch, toy_config) -> None:
    model = Model(toy_config, seed=1).double()

    def gradient(*timelines) -> torch.Tensor:
        batch = make_batch(*timelines)
        hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
        kept = batch.segments() == len(timelines) - 1
        batch.loss_mask.logical_and_(kept)
        total = NextEvent().loss(model, hidden, batch).total
        model.zero_grad()
        total.backward()
        return torch.cat([total.detach()[None], *(p.grad.flatten() for p in model.parameters())])

    torch.testing.assert_close(gradient(SECOND), gradient(FIRST, SECOND), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 3, 1024])
def test_chunked_cross_entropy_has_the_gradients_of_the_whole(chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(cross_entropy_module, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    unseen = torch.randn(3, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    known = torch.randn(3, 14, generator=generator, dtype=torch.float64, requires_grad=True)
    place = torch.tensor([0, 2, 3, 5, 6, 7, 8])
    target = torch.tensor([6, 0, 1, 1, 2, 3, 5])
    weight = torch.rand(7, generator=generator, dtype=torch.float64)
    kind = torch.tensor([0, 2, 2, 1, 0, 2, 1])
    state = torch.randint(0, 3, (7, 7), generator=generator)  # of each place's tokens
    rows, tokens = state.nonzero(as_tuple=True)
    entry = torch.where(state[rows, tokens] == 2, tokens, tokens + 7).int()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (state > 0).sum(1).cumsum(0)])
    context = Context(kind, offsets, entry, torch.zeros(7, dtype=torch.uint8))
    inputs = (hidden, matrix, unseen, known)
    seen, announced = known[kind].chunk(2, dim=1)
    added = (state == 2) * seen + (state == 1) * announced
    logits = hidden[place] @ matrix.T + unseen[kind] + added
    whole = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    theirs = torch.autograd.grad(3 * (whole * weight).sum(), inputs)
    assert len(rows) == int(offsets[-1])
    for dtype in (torch.float64, torch.float32):  # torch's operations, then the C++ pass
        cast = [x.detach().to(dtype).requires_grad_() for x in inputs]
        total, losses = chunked_cross_entropy(*cast, place, target, weight, context)
        torch.testing.assert_close(losses, whole.detach().to(dtype))
        for x, y in zip(torch.autograd.grad(3 * total, cast), theirs, strict=True):
            torch.testing.assert_close(x, y.to(dtype), rtol=1e-5, atol=1e-5)


def test_a_sample_of_the_vocabulary_stands_for_all_of_it(make_batch, toy_config) -> None:
    """Against logits of the sampled tokens written out, with the weights of those that stand for
    others; the gradients of tokens outside are zero."""
    model = with_lookups(Model(replace(toy_config, n_visit_kinds=3), seed=1).double())
    batch = make_batch(FIRST, SECOND)
    held = batch.token_id.unique()
    others = [t for t in range(toy_config.vocab_size) if t not in held.tolist()]
    token_id = torch.tensor([*others[:2], *held.tolist()])
    log_weight = torch.tensor([math.log(len(others) / 2)] * 2 + [0.0] * len(held))
    sampled = replace(batch, output_sample=OutputSample(token_id, log_weight))
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens).detach()

    place, target = next_event_places(batch)
    context = model.context_bias.context(batch.token_id, batch.cu_seqlens, place)
    logits = model.logits(hidden[place], context)
    total = torch.logsumexp(logits[:, token_id] + log_weight, dim=1)
    expected = (total - logits.gather(1, target[:, None])[:, 0]).sum()
    head = NextEvent().loss(model, hidden, sampled)
    torch.testing.assert_close(head.total, expected)

    biases = [model.context_bias.unseen, model.context_bias.known]
    inputs = [model.output_weight, *biases]
    gradients = torch.autograd.grad(head.total, inputs)
    for got, wanted in zip(gradients, torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(got, wanted)
    assert not gradients[0][others[2:]].any()
    assert not gradients[1][:, others[2:]].any()


def test_a_sample_without_a_target_is_refused(make_batch, toy_config) -> None:
    model = Model(toy_config, seed=1)
    batch = make_batch(FIRST, SECOND)
    token_id = batch.token_id.unique()[1:]
    sampled = replace(batch, output_sample=OutputSample(token_id, torch.zeros(len(token_id))))
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
    with pytest.raises(ValueError, match="not in the vocabulary"):
        NextEvent().loss(model, hidden, sampled)


def test_threads_change_no_byte_of_the_output_layers_pass() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(150, 33)).astype(np.float32)
    place = np.arange(150)
    kind, companion = np.full(33, -1, np.int8), np.arange(-1, 32, dtype=np.int32)
    kind[::11] = (0, 1, 2)
    rules = _core.ContextRules(kind, companion, 3)
    bounds = np.array([0, 70, 150], np.int32)
    context = _core.context_lists(rules, place * 7 % 33, bounds, place, place[:0])
    unseen, known = (rng.normal(size=(3, n)).astype(np.float32) for n in (33, 66))
    results = []
    for threads in (1, 2, 7):
        outputs = [logits.copy(), *(np.zeros(n, np.float32) for n in (150, 99, 198))]
        _core.cross_entropy(
            *(outputs[0], unseen, known, place % 33, np.ones(150, np.float32), *context[:3]),
            *(*outputs[1:], threads),
        )
        results.append(b"".join(x.tobytes() for x in outputs))
    assert results[0] == results[1] == results[2]


def test_a_batch_without_targets_gives_zero(make_batch, toy_config) -> None:
    model = Model(toy_config, seed=1)
    batch = make_batch(([4], [0]))
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
    head = NextEvent().loss(model, hidden, batch)
    head.total.backward()
    assert head.total.item() == 0
    assert head.weight == 0


def test_unknown_repeat_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="repeat_weight"):
        NextEvent(repeat_weight="sometimes")


def test_a_backend_of_the_loss_that_cannot_be_used_is_refused(
    toy_config, make_batch, monkeypatch
) -> None:
    model = Model(toy_config)
    with pytest.raises(ConfigError, match="must be one of"):
        NextEvent(backend="flash")
    monkeypatch.setattr(cross_entropy_module, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"chronoward\[liger\]"):
        NextEvent(backend="liger")
    monkeypatch.setattr(cross_entropy_module, "find_spec", lambda name: name)
    monkeypatch.setattr(cross_entropy_module, "interprets", lambda: False)
    batch = make_batch(FIRST)
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        NextEvent(backend="liger").loss(model, hidden, batch)
