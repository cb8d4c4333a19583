from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from chronoward import _core
from chronoward.engine.decode import (
    Decoder,
    ModelDecoder,
    ReferenceDecoder,
    one_thread,
)
from chronoward.engine.precision import DTYPES
from chronoward.errors import ConfigError
from chronoward.model import Model, ModelConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPES = [
    {"d_model": 48, "n_heads": 4, "n_kv_heads": 2, "rotary": "half", "time_bias": "log"},
    {"d_model": 40, "n_heads": 2, "n_kv_heads": 2, "rotary": "time", "time_bias": "linear"},
    {"d_model": 32, "n_heads": 4, "n_kv_heads": 1, "rotary": "none", "time_bias": "none"},
    {"d_model": 36, "n_heads": 3, "n_kv_heads": 3, "rotary": "index", "qk_norm": False},
]


LEVELS = ("x86-64", "x86-64-v3", "x86-64-v4", "dot", "amx")


def levels() -> tuple[str, ...]:
    """Levels of the decode step's loops that this processor has."""
    return LEVELS[: LEVELS.index(BEST) + 1]


BEST = _core.decode_level()


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param not in levels():
        pytest.skip(f"this processor has {BEST} at most")
    _core.use_decode_level(request.param)
    yield request.param
    _core.use_decode_level(BEST)


def made(shape: dict[str, object]) -> Model:
    config = ModelConfig(vocab_size=30, n_layers=2, d_ff=44, n_visit_kinds=3, **shape)  # type: ignore[arg-type]
    model = Model(config, seed=2)
    kind, companion = np.full(30, -1, np.int8), np.arange(-1, 29, dtype=np.int32)
    kind[3:6] = (0, 1, 2)
    rates = np.random.default_rng(1).uniform(0.05, 1.0, (3, 3, 30))
    model.context_bias.start(kind, companion, rates)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
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


class Rounded(torch.nn.Linear):
    """The same layer in torch with int8 weights (a scale an output) and inputs (a scale a row)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = integers(self.weight)
        inputs = integers(x)
        sums = inputs[0].double() @ weights[0].double().t()
        return (sums.float() * inputs[1] * weights[1].t()).to(x.dtype)


def integers(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    top = x.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    return (x * (127 / top)).round(), top / 127


def in_int8(model: Model) -> Model:
    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        if type(module) is torch.nn.Linear and module is not rounded.clock:
            module.__class__ = Rounded
    return rounded


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_errs_at_most_twice_as_much_as_torch_with_the_same_rounding(
    shape: dict[str, object], level: str
) -> None:
    model = made({**shape, "tied": False})
    tokens, times = timeline()
    truth = full_logits(copy.deepcopy(model).double(), tokens, times)
    torchs = np.abs(full_logits(in_int8(model), tokens, times) - truth).max()
    cached = np.abs(full_logits(copy.deepcopy(model).bfloat16(), tokens, times) - truth).max()
    for chunk in (1, 75):
        got = logits_of(ModelDecoder(model, dtype="int8"), tokens, times, chunk)
        error = np.abs(got - truth)
        assert error.max() <= 2 * torchs + cached  # keys and values are bf16
        assert error.mean() > 1e-4, level  # it is int8 that ran


def test_every_level_has_the_logits_within_the_bounds_of_each_dtype(level: str) -> None:
    model = made(SHAPES[0])
    tokens, times = timeline()
    expected = full_logits(model, tokens, times)
    got = logits_of(ModelDecoder(model), tokens, times, 7)
    np.testing.assert_allclose(got, expected, atol=2e-4, rtol=2e-4)
    torchs = full_logits(copy.deepcopy(model).bfloat16(), tokens, times)
    halves = logits_of(ModelDecoder(model, dtype="bfloat16"), tokens, times, 7)
    assert np.abs(halves - expected).max() <= 2 * np.abs(torchs - expected).max() + 1e-5, level


@pytest.mark.parametrize("dtype", DTYPES)
def test_at_every_level_chunks_change_no_byte(level: str, dtype: str) -> None:
    decoder = ModelDecoder(made(SHAPES[1]), dtype=dtype)
    tokens, times = timeline()
    with one_thread():
        found = {logits_of(decoder, tokens, times, chunk).tobytes() for chunk in (1, 5, 75)}
    assert len(found) == 1, level


def test_int8_weights_give_the_same_integers_at_every_level() -> None:
    """Logits of the first token: no attention to others, sums of integers are exact."""
    model = made({**SHAPES[3], "rotary": "none"})
    token, time = np.full(1, 7, np.int32), np.full(1, 90_000, np.int32)
    found = []
    for name in levels():
        _core.use_decode_level(name)
        found.append(logits_of(ModelDecoder(model, dtype="int8"), token, time, 1))
    _core.use_decode_level(levels()[-1])
    for logits in found[1:]:
        np.testing.assert_allclose(logits, found[0], atol=2e-2)


def test_a_level_that_is_unknown_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such level: x86-64-v9"):
        _core.use_decode_level("x86-64-v9")


def test_numbers_that_are_none_stay_so_in_int8(level: str) -> None:
    model = made({**SHAPES[3], "tied": False})
    tokens, times = np.array([4, 5], np.int32), np.zeros(2, np.int32)
    with torch.no_grad():
        model.output.weight[7, 3] = float("inf")
    got = logits_of(ModelDecoder(model, dtype="int8"), tokens, times, 2)
    assert (~np.isfinite(got)).nonzero()[1].tolist() == [7, 7], level
    with torch.no_grad():
        model.output.weight[7, 3] = 0
        model.embedding.weight[5] = float("nan")
    got = logits_of(ModelDecoder(model, dtype="int8"), tokens, times, 1)
    assert np.isfinite(got[0]).all(), level
    assert np.isnan(got[1]).all(), level


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
    with pytest.raises(ConfigError, match="one of float32, bfloat16, int8, got 'int4'"):
        ModelDecoder(made(SHAPES[0]), dtype="int4")
