"""Where an engine decodes and in which numbers, by name: what a device takes, and its defaults."""

from __future__ import annotations

from typing import NamedTuple

import torch

from chronoward.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "int8")
KV_DTYPES = ("fp8",)
_OF_GPU = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Decoding(NamedTuple):
    """What a verb decodes with, nothing left open.

    Attributes:
        device: cpu or cuda.
        dtype: of weights, one of `DTYPES`.
        kv_dtype: of keys and values where that is another, one of `KV_DTYPES`.
    """

    device: str
    dtype: str
    kv_dtype: str | None


def check_dtype(dtype: str | None, kv_dtype: str | None = None) -> None:
    """Refuses a number type that nothing is decoded in; None leaves the choice to the device.

    Raises:
        ConfigError: not one of `DTYPES`, or keys and values not one of `KV_DTYPES`.
    """
    if dtype is not None and dtype not in DTYPES:
        message = f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}"
        raise ConfigError(message)
    if kv_dtype is not None and kv_dtype not in KV_DTYPES:
        message = f"kv_dtype must be one of {', '.join(KV_DTYPES)}, got {kv_dtype!r}"
        raise ConfigError(message)


def chosen_dtype(dtype: str | None, kv_dtype: str | None, *, on_gpu: bool) -> str:
    """The dtype itself; where none is named, float32 on a CPU and bfloat16 on a GPU.

    Raises:
        ConfigError: an unknown name, or numbers that the place does not decode in.
    """
    check_dtype(dtype, kv_dtype)
    if on_gpu and dtype is not None and dtype not in _OF_GPU:
        message = f"a GPU decodes in {' or '.join(_OF_GPU)}, got {dtype!r}"
        raise ConfigError(message)
    if not on_gpu and kv_dtype is not None:
        message = f"kv_dtype {kv_dtype!r} is for a GPU; on a CPU keys and values are of the dtype"
        raise ConfigError(message)
    return dtype or ("bfloat16" if on_gpu else "float32")


def choose(device: str, dtype: str | None, kv_dtype: str | None) -> Decoding:
    """Resolves what a user left open: a GPU where torch sees one, and the numbers of the place.

    Args:
        device: one of `DEVICES`.
        dtype: one of `DTYPES`, None: the device's default.
        kv_dtype: one of `KV_DTYPES`, None: as the dtype says.

    Raises:
        ConfigError: an unknown name, a GPU that is not there, or numbers that the device does not
            decode in.
    """
    if device not in DEVICES:
        message = f"device must be one of {', '.join(DEVICES)}, got {device!r}"
        raise ConfigError(message)
    has_gpu = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        message = "device 'cuda': torch sees no GPU here"
        raise ConfigError(message)
    return Decoding(
        "cuda" if has_gpu else "cpu", chosen_dtype(dtype, kv_dtype, on_gpu=has_gpu), kv_dtype
    )


def torch_dtypes(dtype: str, kv_dtype: str | None) -> tuple[torch.dtype, torch.dtype | None]:
    """Of weights, and of keys and values where that is another, on a GPU."""
    return _OF_GPU[dtype], torch.float8_e4m3fn if kv_dtype == "fp8" else None
