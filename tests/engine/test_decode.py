from __future__ import annotations

import numpy as np
import pytest
import torch

from chronoward import _core
from chronoward.engine.decode import TILE, ModelDecoder, one_thread
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


def logits_of(decoder: ModelDecoder, tokens: np.ndarray, times: np.ndarray, chunk: int):
    """Logits after each token of one context, taken in chunks."""
    decoder.open(3, len(tokens))
    parts = []
    for first in range(0, len(tokens), chunk):
        part = slice(first, first + chunk)
        n = len(tokens[part])
        places = np.zeros((n, 4), np.int32)
        places[:, 2] = 1
        places[:, 3] = np.arange(first + 1, first + n + 1)
        start = np.full(n, times[0], np.int32)
        parts.append(decoder.forward(tokens[part], times[part], start, places, wants_logits=True))
    return np.concatenate(parts)


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_decoding_equals_the_full_forward_pass(shape: dict[str, object]) -> None:
    model = made(shape)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 30, 75).astype(np.int32)
    times = (10_000 + np.cumsum(rng.integers(0, 3000, 75))).astype(np.int32)
    with torch.no_grad():
        row, bounds = torch.from_numpy(tokens).long(), torch.tensor([0, 75]).int()
        hidden = model(row, torch.from_numpy(times), bounds)
        context = model.context_bias.context(row, bounds, torch.arange(75))
        expected = model.logits(hidden, context).numpy()
    for backend in ("cpu", "reference"):
        for chunk in (1, 7, 75):
            got = logits_of(ModelDecoder(model, backend=backend), tokens, times, chunk)
            np.testing.assert_allclose(got, expected, atol=2e-4, rtol=2e-4)


def test_the_size_of_prefill_chunks_changes_no_byte() -> None:
    decoder = ModelDecoder(made(SHAPES[0]))
    tokens = np.arange(70, dtype=np.int32) % 30
    times = np.arange(70, dtype=np.int32) * 900
    with one_thread():
        whole, parts = (logits_of(decoder, tokens, times, chunk) for chunk in (70, 1))
    assert whole.tobytes() == parts.tobytes()
    assert TILE == 32


def test_only_float32_models_on_the_cpu_are_decoded() -> None:
    with pytest.raises(ConfigError, match="float32 models on the CPU"):
        ModelDecoder(made(SHAPES[0]).to(torch.bfloat16))


def test_one_thread_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_arrays_that_do_not_fit_are_errors() -> None:
    rows = np.zeros((2, 6), np.float32)
    with pytest.raises(ValueError, match="rms_norm: arrays do not fit"):
        _core.rms_norm(rows, np.ones(5, np.float32), 1e-6, rows.copy())
    with pytest.raises(ValueError, match="silu_gate: arrays do not fit"):
        _core.silu_gate(rows, 3, rows.copy())
    empty = np.zeros(0, np.float32)
    with pytest.raises(ValueError, match="split_heads: arrays do not fit"):
        _core.split_heads(
            rows, (1, 1, 2), empty, empty, 1e-6, empty, empty, rows.copy(), rows.copy(), empty
        )
