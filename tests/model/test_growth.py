from __future__ import annotations

import numpy as np
import pytest
import torch

from chronoward.errors import ConfigError
from chronoward.model import HazardConfig, HazardHead, Model, ModelConfig, grow, place_rows
from chronoward.model.growth import _GROWN

V, GROWN = 24, 31


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def trained(request, toy_config) -> Model:
    from dataclasses import replace

    config = replace(toy_config, tied=request.param, n_visit_kinds=3)
    model = Model(config, seed=5)
    head = HazardConfig(outcomes=("x",), token_ids=((4, 5),), first_only=(True,))
    model.heads["hazard"] = HazardHead(config.d_model, head, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in ("unseen", "known"):
            getattr(model.context_bias, name).normal_(generator=generator)
        model.context_bias.visit_kind[3] = 2
        model.context_bias.companion[4] = 9
    return model.eval()


def test_every_old_row_is_byte_equal_and_nothing_else_has_changed(trained: Model) -> None:
    grown = grow(trained, GROWN, seed=7)
    old, new = trained.state_dict(), grown.state_dict()
    assert set(old) == set(new)
    for name, tensor in old.items():
        if name not in _GROWN:
            assert torch.equal(new[name], tensor), name
    for name in ("embedding.weight", "output.weight"):
        if name in old:
            assert torch.equal(new[name][:V], old[name])
            assert 0.01 < new[name][V:].std() < 0.03
    assert torch.equal(new["context_bias.unseen"][:, :V], old["context_bias.unseen"])
    rarest = old["context_bias.unseen"].min(dim=1).values
    assert torch.equal(new["context_bias.unseen"][:, V:], rarest[:, None].expand(-1, GROWN - V))
    known = new["context_bias.known"].view(3, 2, GROWN)
    assert torch.equal(known[:, :, :V], old["context_bias.known"].view(3, 2, V))
    assert (known[:, :, V:] == 0).all()
    for name in ("visit_kind", "companion"):
        lookup = new[f"context_bias.{name}"]
        assert torch.equal(lookup[:V], old[f"context_bias.{name}"])
        assert (lookup[V:] == -1).all()
    grown.context_bias.rules()  # raises where the lookups do not fit
    assert not grown.training


def test_old_tokens_score_as_before_and_new_ones_are_as_rare_as_the_rarest(trained: Model) -> None:
    grown = grow(trained, GROWN)
    token_id = torch.tensor([2, 3, 7, 9, 4, 9, 11])
    time_min = torch.arange(7, dtype=torch.int32) * 600
    bounds = torch.tensor([0, 7], dtype=torch.int32)
    place = torch.arange(7)

    def logits(model: Model) -> torch.Tensor:
        context = model.context_bias.context(token_id, bounds, place)
        return model.logits(model(token_id, time_min, bounds), context)

    with torch.no_grad():
        before, after = logits(trained), logits(grown)
    assert torch.allclose(after[:, :V], before, atol=1e-6)
    assert torch.isfinite(after).all()
    hazard = trained.heads["hazard"]
    assert torch.equal(grown.heads["hazard"].weight, hazard.weight)
    assert grown.heads["hazard"].weight is not hazard.weight


def test_new_rows_are_a_function_of_the_seed(trained: Model) -> None:
    first, again, other = (grow(trained, GROWN, seed=s).embedding.weight for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first[V:], other[V:])


def test_every_tensor_as_wide_as_the_vocabulary_is_named() -> None:
    shapes = []
    for size in (GROWN, GROWN + 6):
        config = ModelConfig(
            vocab_size=size, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24, tied=False
        )
        shapes.append({name: x.shape for name, x in Model(config).state_dict().items()})
    assert {name for name in shapes[0] if shapes[0][name] != shapes[1][name]} == set(_GROWN)


def test_a_model_is_never_made_smaller(trained: Model) -> None:
    with pytest.raises(ConfigError, match="cannot be grown to 3"):
        grow(trained, 3)


@pytest.mark.parametrize("d_in", [5, 16, 40])
def test_rows_start_from_vectors_with_their_angles_and_the_usual_scale(d_in: int) -> None:
    config = ModelConfig(vocab_size=V, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24)
    model, untouched = Model(config, seed=3), Model(config, seed=3)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4, d_in)).astype(np.float32)
    vectors[1] = vectors[0] * 3
    tokens = np.array([5, 6, 9, 20])
    place_rows(model, tokens, vectors, np.zeros(4, np.bool_), seed=1)
    rows = model.embedding.weight[torch.from_numpy(tokens)].detach()
    assert torch.allclose(rows.square().mean(dim=1).sqrt(), torch.tensor(0.02), rtol=1e-4)
    assert torch.allclose(rows[0], rows[1], atol=1e-7)
    if d_in <= 16:
        unit = rows / rows.norm(dim=1, keepdim=True)
        given = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        assert torch.allclose(unit @ unit.T, given @ given.T, atol=1e-5)
    others = [i for i in range(V) if i not in tokens.tolist()]
    assert torch.equal(model.embedding.weight[others], untouched.embedding.weight[others])
    again = Model(config, seed=3)
    place_rows(again, tokens, vectors, np.zeros(4, np.bool_), seed=1)
    assert torch.equal(again.embedding.weight, model.embedding.weight)


def test_tokens_for_values_of_one_code_start_apart() -> None:
    config = ModelConfig(vocab_size=V, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24)
    model = Model(config, seed=3)
    own = model.embedding.weight[[5, 6]].detach().clone()
    vectors = np.tile(np.arange(1, 9, dtype=np.float32), (3, 1))
    place_rows(model, np.array([4, 5, 6]), vectors, np.array([False, True, True]))
    code, first, second = model.embedding.weight[[4, 5, 6]].detach()
    assert not torch.equal(first, second)
    assert torch.allclose(torch.stack([first, second]), (own + code) / 2**0.5, atol=1e-7)
