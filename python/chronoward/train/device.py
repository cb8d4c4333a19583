"""Where a run trains: which device, in which numbers its products are, and what is asked of it.

Only this module tells a GPU from a CPU; the loop sends what the model reads to wherever the model
is. A GPU is never asked for a number inside a step (see `train.loop`).
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from chronoward.errors import ConfigError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

DEVICES = ("auto", "cpu", "cuda")
PARALLEL = ("ddp", "fsdp")
_PRODUCTS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run trains; a resumed run may have another one.

    Raises:
        ConfigError: an unknown name.
    """

    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one. Of several processes each takes its own."""
    parallel: str = "ddp"
    """What each of several processes holds: the whole model (`ddp`) or a part of its weights,
    gradients and optimizer's state (`fsdp`)."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("device", self.device, DEVICES),
            ("parallel", self.parallel, PARALLEL),
        ):
            if value not in known:
                message = f"{name} must be one of {', '.join(known)}, got {value!r}"
                raise ConfigError(message)


def chosen_device(name: str) -> torch.device:
    """The device of this process, of one of `DEVICES`: `auto` takes a GPU where torch sees one, and
    of several processes on a machine each has its own.

    Raises:
        ConfigError: a GPU that is not there, more processes than GPUs.
    """
    has_gpu = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        message = "device 'cuda': torch sees no GPU here"
        raise ConfigError(message)
    if not has_gpu:
        return torch.device("cpu")
    index, n_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= n_gpus:
        message = (
            f"each process needs a GPU of its own: this machine has {n_gpus}, and more than "
            f"{index} processes were started on it; start fewer, or say device 'cpu'"
        )
        raise ConfigError(message)
    return torch.device("cuda", index)


def dtype_on(device: torch.device, dtype: str | None) -> str:
    """The name of the products' numbers; where it is left open, bf16 on a GPU and fp32 on a CPU."""
    return dtype or ("bf16" if device.type == "cuda" else "fp32")


def product_dtype(device: torch.device, dtype: str | None) -> torch.dtype:
    """Numbers of the matrix products on a device, see `TrainConfig.dtype`."""
    return _PRODUCTS[dtype_on(device, dtype)]


def products_in(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Inside the block matrix products are of this type; weights stay fp32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def synchronize(device: torch.device) -> None:
    """Waits until a device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def title(device: torch.device) -> str:
    """The device for a reader: `cpu`, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def free_bytes(device: torch.device) -> int | None:
    """Memory of a GPU that others have not taken; None for a CPU, whose system says nothing."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.mem_get_info(device)[0]) + int(torch.cuda.memory_reserved(device))
