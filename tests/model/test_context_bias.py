"""Output biases by what the context holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.slow_context import slow_context

from chronoward import _core
from chronoward.errors import FormatError
from chronoward.model import Model, ModelConfig, load, save_model
from chronoward.model.context_bias import ContextBias

V, K = 11, 3
KIND = np.array([0, 1, 2, *[-1] * 8], np.int8)  # 0 ends a visit, 1 and 2 begin one
COMPANION = np.array([-1, -1, -1, -1, 3, 3, 4, -1, 7, -1, 9], np.int32)
BOUNDS = [0, 0, 17, 18, 60]


def made() -> ContextBias:
    bias = ContextBias(V, K)
    rng = np.random.default_rng(3)
    bias.start(KIND, COMPANION, rng.uniform(0.01, 1.0, (3, K, V)))
    return bias


def row() -> torch.Tensor:
    return torch.randint(0, V, (60,), generator=torch.Generator().manual_seed(2))


def test_contexts_hold_what_a_slow_loop_finds() -> None:
    token_id, places = row(), [0, 5, 16, 17, 18, 40, 59]
    bounds = torch.tensor(BOUNDS, dtype=torch.int32)
    context = made().context(token_id, bounds, torch.tensor(places))
    for k, place in enumerate(places):
        start = max(b for b in BOUNDS if b <= place)
        states, kinds = slow_context(token_id[start : place + 1].tolist(), KIND, COMPANION)
        entries = context.entry[context.offsets[k] : context.offsets[k + 1]].tolist()
        expected = {v if state == 2 else V + v for v, state in enumerate(states[-1]) if state}
        assert len(entries) == len(set(entries))
        assert set(entries) == expected
        assert int(context.kind[k]) == kinds[-1]
        is_last = place + 1 in BOUNDS
        following = 0 if is_last else states[-1][int(token_id[place + 1])]
        assert int(context.next_state[k]) == following


def test_biases_start_at_the_log_rates_of_each_state_and_kind() -> None:
    bias, rates = ContextBias(V, K), np.random.default_rng(0).uniform(0.01, 1, (3, K, V))
    bias.start(KIND, COMPANION, rates)
    tokens = torch.tensor([1, 3, 7, 0, 2, 9, 4])
    bounds = torch.tensor([0, 7], dtype=torch.int32)
    scores = bias(torch.zeros(7, V), bias.context(tokens, bounds, torch.arange(7)))
    states, kinds = slow_context(tokens.tolist(), KIND, COMPANION)
    expected = rates[states, kinds[:, None], np.arange(V)]
    torch.testing.assert_close(scores.exp(), torch.from_numpy(expected).float())


def test_part_of_a_context_is_that_of_its_places() -> None:
    bias, token_id = made(), row()
    bounds = torch.tensor(BOUNDS, dtype=torch.int32)
    whole = bias.context(token_id, bounds, torch.arange(60))
    some = bias.context(token_id, bounds, torch.arange(20, 31))
    for mine, theirs in zip(whole.part(20, 31), some, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("place", [[3, 1], [70]])
def test_places_out_of_order_or_outside_are_refused(place: list[int]) -> None:
    bounds = torch.tensor([0, 4], dtype=torch.int32)
    with pytest.raises(ValueError, match="ascending positions inside segments"):
        made().context(torch.zeros(4, dtype=torch.int64), bounds, torch.tensor(place))


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    bounds = torch.tensor([0, 2], dtype=torch.int32)
    with pytest.raises(ValueError, match="not in the vocabulary"):
        made().context(torch.tensor([1, V]), bounds, torch.tensor([1]))


@pytest.mark.parametrize(
    ("kind", "companion"),
    [(KIND + 1, COMPANION), (KIND, COMPANION + 2), (KIND[:-1], COMPANION), (KIND - 1, COMPANION)],
)
def test_lookups_that_do_not_fit_are_refused(kind: np.ndarray, companion: np.ndarray) -> None:
    with pytest.raises(ValueError, match="do not fit the vocabulary"):
        _core.ContextRules(kind.astype(np.int8), companion.astype(np.int32), K)


def test_buffers_hold_the_context_of_prefix_and_own_tokens() -> None:
    """Two rollouts of one prefix; the buffer of one is used again."""
    bias = made()
    tables = [x.detach().numpy() for x in (bias.unseen, bias.known)]
    buffers = _core.ContextBuffers(bias.rules(), 3)
    nothing = np.zeros(0, np.float32)

    def feed(buffer: int, prefix: tuple[int, int], tokens: list[int], start: int) -> np.ndarray:
        places = np.array([(*prefix, buffer, start + i) for i in range(len(tokens))], np.int32)
        logits = np.zeros((len(tokens), V), np.float32)
        buffers.advance(places, np.array(tokens, np.int32), *tables, logits)
        return logits

    def expected(tokens: list[int]) -> np.ndarray:
        bounds = torch.tensor([0, len(tokens)], dtype=torch.int32)
        context = bias.context(torch.tensor(tokens), bounds, torch.arange(len(tokens)))
        return bias(torch.zeros(len(tokens), V), context).detach().numpy()

    prefix = [1, 3, 8]
    places = np.array([(0, 0, 2, i + 1) for i in range(3)], np.int32)
    buffers.advance(places, np.array(prefix, np.int32), *tables, nothing)
    for first, second in (([5, 0, 2], [9, 9, 7]), ([4, 6], [10, 1])):
        for buffer, own in ((0, first), (1, second)):
            got = feed(buffer, (2, 3), own, 1)
            np.testing.assert_allclose(got, expected(prefix + own)[3:], rtol=1e-5)
    np.testing.assert_allclose(feed(0, (2, 0), [3, 2], 1), expected([3, 2]), rtol=1e-5)


def test_lookups_are_saved_with_the_model_and_checked(tmp_path) -> None:
    config = ModelConfig(
        vocab_size=V, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24, n_visit_kinds=K
    )
    model = Model(config)
    model.context_bias.start(KIND, COMPANION, np.full((3, K, V), 0.1))
    save_model(tmp_path, model, tokenizer_hash="0", training={})
    found = load(tmp_path).context_bias
    assert found.visit_kind.tolist() == KIND.tolist()
    assert found.companion.tolist() == COMPANION.tolist()
    model.context_bias.companion[0] = V
    save_model(tmp_path, model, tokenizer_hash="0", training={})
    with pytest.raises(FormatError, match="do not fit the vocabulary"):
        load(tmp_path)
