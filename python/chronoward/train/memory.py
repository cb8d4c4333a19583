"""What a training step takes of a device's memory, estimated before it starts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from chronoward.train.device import product_dtype

if TYPE_CHECKING:
    from chronoward.model import ModelConfig
    from chronoward.train.config import TrainConfig

CHUNK_OF_LOGITS = 1024
SLACK = 1.2  # what comes and goes, and holes between tensors


def estimated_memory(
    shape: ModelConfig, config: TrainConfig, n_parts: int = 1, device: torch.device | None = None
) -> int:
    """Bytes that a step needs: weights, gradients, moments, activations and one chunk of logits.

    Counts what the backward pass keeps, and a fifth more for what comes and goes. In parts, weights
    and gradients of one block and of what is outside of blocks are whole at a time.

    Args:
        shape: of the model.
        config: of the run.
        n_parts: processes that hold a part each.
        device: where it trains; None: the CPU.
    """
    device = device or torch.device("cpu")
    tokens = config.row_tokens * min(config.rows_per_pass or config.n_rows, config.n_rows)
    kept = _kept_on_cpu(shape) if device.type == "cpu" else _kept_on_gpu(shape, config, device)
    activations = tokens * (shape.n_layers * kept + 4 * 6 * shape.d_model)
    logits = 4 * 3 * CHUNK_OF_LOGITS * shape.vocab_size
    n_parameters = shape.n_parameters()
    one_block = replace(shape, n_layers=shape.n_layers + 1).n_parameters() - n_parameters
    at_once = n_parameters - (shape.n_layers - 1) * one_block if n_parts > 1 else 0
    weights = 16 * n_parameters // n_parts + 8 * at_once
    if device.type != "cpu" and product_dtype(device, config.dtype) == torch.bfloat16:
        weights += 2 * n_parameters  # autocast's copies, all of them until the backward pass ends
    return weights + int(SLACK * (activations + logits))


def _kept_on_cpu(shape: ModelConfig) -> int:
    """Bytes that a block keeps of a token, in fp32."""
    kv = shape.n_kv_heads * shape.d_head
    return 4 * (8 * shape.d_model + 4 * (shape.d_model + 2 * kv) + 5 * shape.d_ff)


def _kept_on_gpu(shape: ModelConfig, config: TrainConfig, device: torch.device) -> int:
    """The same where torch's own operations run between the products: four norms' inputs in fp32;
    in the products' numbers the inputs of products, of the rotation, of attention and of the
    gates."""
    d, kv = shape.d_model, shape.n_kv_heads * shape.d_head
    of_norms = 4 * (3 * d + kv)
    numbers = 5 * d + 3 * kv + 4 * shape.d_ff
    return of_norms + product_dtype(device, config.dtype).itemsize * numbers
