from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chronoward.model import Model, ModelConfig
from chronoward.train import TrainConfig
from chronoward.train.muon import Muon, orthogonalized
from chronoward.train.optimizer import Optimizers
from chronoward.train.schedule import learning_rate

CONFIG = ModelConfig(vocab_size=11, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=24)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_orthogonalized_keeps_the_singular_vectors_and_levels_the_values(
    dtype: torch.dtype, bound: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 12, 12), (2, 20, 8), (1, 8, 20)):
        matrices = torch.randn(shape, generator=generator)
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        inside = torch.einsum("bri,brc,bjc->bij", u, orthogonalized(matrices.to(dtype)).float(), v)
        diagonal = inside.diagonal(dim1=1, dim2=2)
        assert diagonal.min() > 0.3
        assert diagonal.max() < 1.3
        assert (inside - torch.diag_embed(diagonal)).abs().max() < bound


@pytest.mark.parametrize("shape", [(3, 40, 12), (2, 12, 13), (2, 12, 40)])
def test_the_iteration_equals_a_slow_loop_in_fp64_for_singular_values_of_any_size(
    shape: tuple[int, int, int],
) -> None:
    generator = torch.Generator().manual_seed(3)
    matrices = torch.randn(shape, generator=generator) * torch.logspace(0, -4, shape[2])
    a, b, c = 3.4445, -4.7750, 2.0315
    for matrix, found in zip(matrices, orthogonalized(matrices), strict=True):
        x = matrix.double() / matrix.double().norm()
        for _ in range(5):
            x = a * x + b * x @ x.T @ x + c * x @ x.T @ x @ x.T @ x
        assert (found - x).norm() < 1e-4 * x.norm()


def test_row_blocks_are_updated_as_matrices_of_their_own() -> None:
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(12, 4, generator=generator)
    together = torch.nn.Parameter(torch.zeros(12, 4))
    apart = [torch.nn.Parameter(torch.zeros(4, 4)), torch.nn.Parameter(torch.zeros(8, 4))]
    together.grad = gradient
    apart[0].grad, apart[1].grad = gradient.split((4, 8))
    Muon([together], lr=0.1, parts={together: (4, 8)}).step()
    Muon(apart, lr=0.1, parts={}).step()
    torch.testing.assert_close(together.detach(), torch.cat(apart).detach())


def test_every_parameter_has_one_rule_and_moves() -> None:
    model = Model(CONFIG, seed=1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = Optimizers(model, TrainConfig())
    optimizers.learning_rate = 0.01
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizers.step()
    optimizers.zero_grad()
    rules = {name: set(optimizers.state(p)) for name, p in model.named_parameters()}
    by_muon = {name for name, state in rules.items() if state == {"momentum"}}
    matrices = ("qkv_projection", "attention_output", "gate_and_up", "down")
    assert by_muon == {f"blocks.{i}.{m}.weight" for i in range(2) for m in matrices}
    assert all(p.grad is None for p in model.parameters())
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter.detach(), before[name]), name


def test_an_output_matrix_of_its_own_moves_a_tenth_as_far() -> None:
    model = Model(replace(CONFIG, tied=False), seed=1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = Optimizers(model, TrainConfig())
    optimizers.learning_rate = 0.01
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step()
    assert optimizers.learning_rate == 0.01
    first_step = {"embedding.weight": 0.01, "output.weight": 0.001}  # Adam's is the rate itself
    for name, rate in first_step.items():
        moved = before[name] - dict(model.named_parameters())[name].detach()
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-3, atol=1e-8)


def test_rare_tokens_keep_their_rate() -> None:
    """100 tokens, each once in 20 steps, that start at their rates and should stay there."""
    n_steps, n_drawn = 1000, 500
    config = TrainConfig()
    truth = torch.tensor([0.5, 0.3, 0.19] + [1e-4] * 100)
    module = torch.nn.Module()
    module.bias = torch.nn.Parameter(truth.log())
    optimizers = Optimizers(module, config)
    generator = torch.Generator().manual_seed(0)
    for step in range(n_steps):
        optimizers.learning_rate = learning_rate(step, n_steps, config)
        drawn = torch.multinomial(truth, n_drawn, replacement=True, generator=generator)
        torch.nn.functional.cross_entropy(module.bias.expand(n_drawn, -1), drawn).backward()
        optimizers.step()
        optimizers.zero_grad()
    learned = module.bias.detach().softmax(0)[3:].sum() / truth[3:].sum()
    n_rare = n_steps * n_drawn * float(truth[3:].sum())
    assert abs(float(learned) - 1) < 4 * n_rare**-0.5  # betas of (0.9, 0.95) learn 0.77
