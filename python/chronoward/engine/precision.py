"""The numbers that an engine may decode in, by name, and which of them a device takes."""

from __future__ import annotations

import torch

from chronoward.errors import ConfigError

DTYPES = ("float32", "bfloat16", "int8")
KV_DTYPES = ("fp8",)
_OF_DEVICE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
    if on_gpu and dtype is not None and dtype not in _OF_DEVICE:
        message = f"a GPU decodes in {' or '.join(_OF_DEVICE)}, got {dtype!r}"
        raise ConfigError(message)
    if not on_gpu and kv_dtype is not None:
        message = f"kv_dtype {kv_dtype!r} is for a GPU; on a CPU keys and values are of the dtype"
        raise ConfigError(message)
    return dtype or ("bfloat16" if on_gpu else "float32")


def torch_dtypes(dtype: str, kv_dtype: str | None) -> tuple[torch.dtype, torch.dtype | None]:
    """Of weights, and of keys and values where that is another, on a GPU."""
    return _OF_DEVICE[dtype], torch.float8_e4m3fn if kv_dtype == "fp8" else None
