from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from chronoward.engine.decode import Decoder, ModelDecoder, ReferenceDecoder, one_thread
from chronoward.errors import ConfigError
from chronoward.model import Model, ModelConfig

SHAPES = [
    {"d_model": 48, "n_heads": 4, "n_kv_heads": 2, "rotary": "half", "time_bias": "log"},
    {"d_model": 40, "n_heads": 2, "n_kv_heads": 2, "rotary": "time", "time_bias": "linear"},
    {"d_model": 32, "n_heads": 4, "n_kv_heads": 1, "rotary": "none", "time_bias": "none"},
    {"d_model": 36, "n_heads": 3, "n_kv_heads": 3, "rotary": "index", "qk_norm": False},
]


def made(shape: dict[str, object]) -> Model:
    config = ModelConfig(vocab_size=30, n_layers=2, d_ff=44, n_visit_kinds=3, **shape)  # type: ignore[arg-type]
    model = Model(config, seed=2)
    kind, companion = np.full(30, -1, np.int8), np.arange(-1, 29, dtype=np.int32)
    kind[3:6] = (0, 1, 2)
    rates = np.random.default_rng(1).uniform(0.05, 1.0, (3, 3, 30))
    model.context_bias.start(kind, companion, rates)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def logits_of(decoder: Decoder, tokens: np.ndarray, times: np.ndarray, chunk: int):
    """Logits after each token of one context, taken in chunks."""
    decoder.open(3, len(tokens), 3 * (len(tokens) + 16))
    parts = []
    for first in range(0, len(tokens), chunk):
        part = slice(first, first + chunk)
        n = len(tokens[part])
        places = np.zeros((n, 4), np.int32)
        places[:, 2] = 1
        places[:, 3] = np.arange(first + 1, first + n + 1)
        start = np.full(n, times[0], np.int32)
        logits = decoder.forward(tokens[part], times[part], start, places, wants_logits=True)
        parts.append(logits.copy())
    return np.concatenate(parts)


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_decoding_equals_the_full_forward_pass(shape: dict[str, object]) -> None:
    model = made(shape)
    tokens, times = timeline()
    expected = full_logits(model, tokens, times)
    for decoder in (ModelDecoder(model), ReferenceDecoder(model)):
        for chunk in (1, 7, 75):
            got = logits_of(decoder, tokens, times, chunk)
            np.testing.assert_allclose(got, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_errs_at_most_twice_as_much_as_torch_in_bf16(shape: dict[str, object]) -> None:
    model = made(shape)
    tokens, times = timeline()
    truth = full_logits(copy.deepcopy(model).double(), tokens, times)
    torchs = full_logits(copy.deepcopy(model).bfloat16(), tokens, times)
    for chunk in (1, 75):
        got = logits_of(ModelDecoder(model, dtype="bfloat16"), tokens, times, chunk)
        assert np.abs(got - truth).max() <= 2 * np.abs(torchs - truth).max() + 1e-5


def timeline() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 30, 75).astype(np.int32)
    return tokens, (10_000 + np.cumsum(rng.integers(0, 3000, 75))).astype(np.int32)


def full_logits(model: Model, tokens: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Without a cache."""
    with torch.no_grad():
        row, bounds = torch.from_numpy(tokens).long(), torch.tensor([0, len(tokens)]).int()
        hidden = model(row, torch.from_numpy(times), bounds)
        context = model.context_bias.context(row, bounds, torch.arange(len(tokens)))
        return model.logits(hidden, context).double().numpy()


def test_the_size_of_prefill_chunks_changes_no_byte() -> None:
    decoder = ModelDecoder(made(SHAPES[0]))
    tokens = np.arange(70, dtype=np.int32) % 30
    times = np.arange(70, dtype=np.int32) * 900
    with one_thread():
        whole, parts = (logits_of(decoder, tokens, times, chunk) for chunk in (70, 1))
    assert whole.tobytes() == parts.tobytes()


def test_only_float32_models_on_the_cpu_are_decoded() -> None:
    with pytest.raises(ConfigError, match="float32 models on the CPU"):
        ModelDecoder(made(SHAPES[0]).to(torch.bfloat16))


def test_one_thread_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_rows_that_do_not_fit_are_errors() -> None:
    decoder = ModelDecoder(made(SHAPES[0]))
    one, place = np.zeros(1, np.int32), np.array([[0, 0, 0, 1]], np.int32)
    with pytest.raises(ValueError, match="open\\(\\) comes first"):
        decoder.forward(one, one, one, place, wants_logits=True)
    decoder.open(1, 16, 16)
    with pytest.raises(ValueError, match="token 30 is not in the vocabulary"):
        decoder.forward(one + 30, one, one, place, wants_logits=True)
    with pytest.raises(ValueError, match="rows do not fit each other"):
        decoder.forward(one, one, one, np.repeat(place, 2, axis=0), wants_logits=False)
    with pytest.raises(ValueError, match="outside the key-value cache"):
        decoder.forward(one, one, one, np.array([[0, 0, 0, 3]], np.int32), wants_logits=False)
    with pytest.raises(ConfigError, match="dtype must be one of float32, bfloat16, got 'int4'"):
        ModelDecoder(made(SHAPES[0]), dtype="int4")
