from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from chronoward.errors import ConfigError, FormatError
from chronoward.model import PRESETS, Model, ModelConfig
from chronoward.model.config import N_CLOCK_KNOTS
from chronoward.model.model import MINUTES_PER_YEAR, clock_features

V = 23


def small_config(**changes) -> ModelConfig:
    base = {
        "vocab_size": V,
        "d_model": 16,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "d_ff": 24,
    }
    return ModelConfig(**{**base, **changes})


def timelines(lengths: list[int]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(sum(lengths))
    result = []
    for n in lengths:
        tokens = torch.randint(1, V, (n,), generator=generator)
        times = torch.randint(0, 200_000, (n,), generator=generator).cumsum(0).to(torch.int32)
        result.append((tokens, times))
    return result


def packed(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    bounds = torch.tensor([0, *(len(t) for t, _ in parts)]).cumsum(0).to(torch.int32)
    return torch.cat([t for t, _ in parts]), torch.cat([m for _, m in parts]), bounds


@pytest.mark.parametrize("rotary", ["index", "time", "half", "none"])
@pytest.mark.parametrize("time_bias", ["log", "linear", "none"])
def test_packed_equals_unpacked(rotary: str, time_bias: str) -> None:
    model = Model(small_config(rotary=rotary, time_bias=time_bias), seed=1).double()
    parts = timelines([9, 1, 14, 30])
    together = model(*packed(parts))
    alone = torch.cat([model(*packed([part])) for part in parts])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


def test_clocks_are_laid_between_two_knots() -> None:
    years = torch.tensor([0.0, 2.5, 5.0, 64.0, 100.0, 119.0])
    index = torch.tensor([0, 1, 10, 100, 4095, 9000])
    elapsed = torch.tensor([0.0, 0.5, 10.0, 400.0, 43_830.0, 43_900.0]) * 1440
    found = clock_features((years * MINUTES_PER_YEAR).to(torch.int32), index, elapsed.long())
    age, days, tokens = found.split(N_CLOCK_KNOTS, dim=1)
    for part in (age, days, tokens):
        torch.testing.assert_close(part.sum(1), torch.ones(6))
        assert ((part > 0).sum(1) <= 2).all()
        assert (part.argmax(1).diff() >= 0).all()
        assert part[0, 0] == part[5, -1] == 1
    assert age[1, :2].tolist() == pytest.approx([0.5, 0.5])
    assert age[3, 12:14].tolist() == pytest.approx([0.2, 0.8], abs=1e-6)
    place = 15 * math.log(11) / math.log(43_831)  # ten days
    assert days[2, int(place)] == pytest.approx(1 - place % 1, abs=1e-6)
    place = 11 * math.log(101) / math.log(4096)
    assert tokens[3, int(place)] == pytest.approx(1 - place % 1, abs=1e-6)


def test_the_model_sees_the_clock_itself() -> None:
    tokens, times, bounds = packed(timelines([12]))
    model = Model(small_config(), seed=1)
    later = model(tokens, times + 30 * MINUTES_PER_YEAR, bounds)
    assert not torch.allclose(model(tokens, times, bounds), later, atol=1e-3)


def test_permuting_segments_permutes_outputs() -> None:
    model = Model(small_config(), seed=1).double()
    parts = timelines([9, 1, 14])
    first = model(*packed(parts)).split([9, 1, 14])
    second = model(*packed([parts[2], parts[0], parts[1]])).split([14, 9, 1])
    for i, j in ((0, 1), (1, 2), (2, 0)):
        torch.testing.assert_close(first[i], second[j], rtol=1e-9, atol=1e-9)


def test_nothing_flows_across_segments_or_from_the_future() -> None:
    model = Model(small_config(), seed=1).double()
    tokens, times, bounds = packed(timelines([5, 6]))
    embedded: list[Tensor] = []

    def keep(_module, _inputs, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    handle = model.embedding.register_forward_hook(keep)
    hidden = model(tokens, times, bounds)
    handle.remove()
    hidden[7].sum().backward()
    assert embedded[0].grad is not None
    reached = embedded[0].grad.abs().sum(1) > 0
    assert reached.tolist() == [False] * 5 + [True] * 3 + [False] * 3


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_attention_sees_differences_of_the_clock_only(backend: str) -> None:
    model = Model(small_config(rotary="time", clock_embedding=False), seed=1)
    model.attention_backend = backend
    tokens, times, bounds = packed(timelines([12]))
    shifted = model(tokens, times + 50_000_003, bounds)
    assert torch.equal(model(tokens, times, bounds), shifted)


def test_elapsed_time_changes_the_output_through_bias_and_rotary() -> None:
    tokens, times, bounds = packed(timelines([12]))
    for changes in ({"rotary": "none"}, {"rotary": "time", "time_bias": "none"}):
        model = Model(small_config(**changes), seed=1)
        stretched = model(tokens, times * 3, bounds)
        assert not torch.allclose(model(tokens, times, bounds), stretched, atol=1e-4)


# torch makes such an instance itself while it traces
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_the_model_compiles_without_a_break_and_says_the_same() -> None:
    inputs = packed(timelines([12, 7]))
    results = []
    for compiles in (False, True):
        model = Model(small_config(), seed=1)
        # a graph of torch's own operators, run as they are
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiles else model
        hidden = run(*inputs)
        hidden.sin().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append([hidden.detach(), *gradients])
    for x, y in zip(*results, strict=True):
        assert torch.allclose(x, y, atol=1e-5, rtol=1e-4)


def test_weights_depend_on_the_seed_only() -> None:
    one, two, other = (Model(small_config(), seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_promised_size(name: str) -> None:
    expected = {"tiny": 1e6, "small": 10e6, "base": 120e6, "large": 350e6}[name]
    vocab_size = {"tiny": 4000, "small": 1500}.get(name, 30_000)
    assert 0.8 < ModelConfig.preset(name, vocab_size).n_parameters() / expected < 1.2


@pytest.mark.parametrize(
    "changes",
    [{}, {"time_bias": "log", "tied": False}, {"qk_norm": False}, {"n_visit_kinds": 4}],
)
def test_n_parameters_counts_what_the_model_has(changes: dict) -> None:
    config = small_config(**changes)
    assert config.n_parameters() == sum(p.numel() for p in Model(config).parameters())


def test_pieces_of_a_block_make_the_forward_pass() -> None:
    from chronoward.kernels.varlen_attention import varlen_attention

    model = Model(small_config(), seed=2)
    tokens, times, bounds = packed(timelines([10]))
    index, elapsed = torch.arange(10), (times - times[0]).long()
    x = model.begin(model.embed(tokens), times, index, elapsed)
    for block in model.blocks:
        q, k, v = block.qkv(x, model.rotary(index, elapsed))
        a, tau = block.bias()
        x = block.finish(x, varlen_attention(q, k, v, times, bounds, bias="linear", a=a, tau=tau))
    assert torch.equal(model.final_norm(x), model(tokens, times, bounds))


def test_generate_feeds_each_choice_back() -> None:
    model = Model(small_config(), seed=2)
    tokens, times, _ = packed(timelines([4]))
    steps: list[int] = []

    def choose(logits: Tensor) -> tuple[int, int] | None:
        assert logits.shape == (V,)
        steps.append(int(logits.argmax()))
        return (steps[-1], int(times[-1]) + 60 * len(steps)) if len(steps) < 4 else None

    out_tokens, out_times = model.generate(tokens, times, choose)
    assert out_tokens.tolist() == [*tokens.tolist(), *steps[:3]]
    assert (out_times[4:] - times[-1]).tolist() == [60, 120, 180]
    bounds = torch.tensor([0, 6], dtype=torch.int32)
    context = model.context_bias.context(out_tokens[:6], bounds, torch.arange(6))
    again = model.logits(model(out_tokens[:6], out_times[:6], bounds), context)[-1].argmax()
    assert int(again) == steps[2]


def test_config_comes_back_from_json_and_refuses_unknown_fields() -> None:
    config = small_config(rotary="time")
    assert ModelConfig.from_json(config.to_json(), "x") == config
    with pytest.raises(FormatError, match="unknown or missing fields"):
        ModelConfig.from_json({**config.to_json(), "extra": 1}, "x")


@pytest.mark.parametrize(
    "changes",
    [
        {"n_kv_heads": 3},
        {"d_model": 18},
        {"rotary": "spiral"},
        {"vocab_size": 0},
        {"d_model": 8},
        {"n_visit_kinds": 0},
    ],
)
def test_impossible_configs_are_refused(changes: dict) -> None:
    with pytest.raises(ConfigError):
        small_config(**changes)


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="preset must be one of"):
        ModelConfig.preset("huge", 10)
