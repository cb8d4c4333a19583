"""Losses by liger's kernel against torch's in fp64, by the bound of all kernels."""

from __future__ import annotations

import pytest
import torch

from chronoward.errors import ConfigError
from chronoward.model import Batch, Model, ModelConfig, NextEvent
from chronoward.model.batch import OutputSample

pytest.importorskip("liger_kernel", reason="liger-kernel is not installed (extra [liger])")

V = 53


def row(seed: int, lengths: list[int]) -> Batch:
    """Segments of random tokens, the last one padding."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    mask = torch.rand(n, generator=generator) > 0.2
    mask[n - lengths[-1] :] = False
    return Batch(
        token_id=torch.randint(2, 30, (n,), generator=generator),
        time_min=torch.arange(n, dtype=torch.int32) * 600,
        n_prior=torch.randint(0, 4, (n,), generator=generator).to(torch.uint8),
        cu_seqlens=bounds,
        segment_subject=torch.tensor([*range(len(lengths) - 1), -1]),
        loss_mask=mask,
    )


def sampled(batch: Batch) -> Batch:
    """The batch with logits of its tokens, and of five that stand for ten each."""
    held = batch.token_id.unique()
    token_id = torch.cat([held, torch.arange(40, 45)])
    log_weight = torch.zeros(len(token_id))
    log_weight[len(held) :] = 2.3
    return Batch(**{**batch.__dict__, "output_sample": OutputSample(token_id, log_weight)})


def run(
    model: Model, batch: Batch, objective: NextEvent, hidden: torch.Tensor
) -> tuple[list[torch.Tensor], dict[str, tuple[float, float]]]:
    """The loss and its gradients, in fp64, and the log's parts."""
    hidden = hidden.detach().requires_grad_()
    head = objective.loss(model, hidden, batch)
    inputs = [hidden, model.output_weight, model.context_bias.unseen, model.context_bias.known]
    gradients = torch.autograd.grad(2.5 * head.total, inputs)
    return [x.detach().double() for x in (head.total, *gradients)], head.parts


@pytest.mark.parametrize("is_sampled", [False, True])
@pytest.mark.parametrize("repeat_weight", ["none", "raven"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_liger_has_the_values_of_the_chunked_loss(
    dtype: torch.dtype, repeat_weight: str, is_sampled: bool, monkeypatch
) -> None:
    monkeypatch.setattr("chronoward.model.cross_entropy.CHUNK", 17)
    model = Model(ModelConfig(vocab_size=V, d_model=16, n_heads=2, n_kv_heads=1, n_visit_kinds=3))
    generator = torch.Generator().manual_seed(1)
    for parameter in (model.context_bias.unseen, model.context_bias.known, model.output_weight):
        torch.nn.init.normal_(parameter, generator=generator)
    model.context_bias.visit_kind[:6] = torch.tensor([-1, -1, 1, 2, 0, -1], dtype=torch.int8)
    model.context_bias.companion[10:20] = torch.arange(20, 30, dtype=torch.int32)
    batch = row(2, [1, 29, 12, 3])
    batch = sampled(batch) if is_sampled else batch
    hidden = torch.randn(45, 16, generator=generator).to(dtype)
    model.embedding.to(dtype)
    if model.output is not None:
        model.output.to(dtype)

    theirs, said = run(model, batch, NextEvent(repeat_weight=repeat_weight), hidden)
    liger = NextEvent(repeat_weight=repeat_weight, backend="liger")
    ours, told = run(model, batch, liger, hidden)
    truth, _ = run(model.double(), batch, NextEvent(repeat_weight=repeat_weight), hidden.double())
    for got, torchs, true in zip(ours, theirs, truth, strict=True):
        allowed = 2 * (torchs - true).abs().max() + 1e-6
        assert (got - true).abs().max() <= allowed
    assert told["all"][0] == pytest.approx(said["all"][0], rel=1e-5)
    assert told["all"][1] == said["all"][1]


def test_liger_without_gradients_has_the_same_losses() -> None:
    model = Model(ModelConfig(vocab_size=V, d_model=16, n_heads=2, n_kv_heads=1), seed=2)
    batch = row(3, [20, 11, 1])
    with torch.no_grad():
        hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
        theirs, ours = (NextEvent(backend=b).loss(model, hidden, batch) for b in (None, "liger"))
    torch.testing.assert_close(ours.total, theirs.total)


def test_liger_refuses_fp64() -> None:
    model = Model(ModelConfig(vocab_size=V, d_model=16, n_heads=2, n_kv_heads=1)).double()
    batch = row(3, [20, 11, 1])
    hidden = model(batch.token_id, batch.time_min, batch.cu_seqlens)
    with pytest.raises(ConfigError, match=r"fp32, fp16 or bf16, got torch\.float64"):
        NextEvent(backend="liger").loss(model, hidden, batch)
