"""Sizes of the Triton kernels' tiles: a table, so that nothing is timed when a program starts.

Every entry is compiled ahead of time in the tests for sm_80 and sm_90: no register spills, and
shared memory inside the limit. The sm_80 table also fits the 101,376 bytes of consumer GPUs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import torch

from chronoward.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

KERNELS = ("fwd", "dq", "dkdv")
HEAD_DIMS = (32, 64, 128)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Tile(NamedTuple):
    """Queries and keys of a tile, and how many warps work on it over how many stages of loads."""

    queries: int
    keys: int
    warps: int
    stages: int


# (bytes of an element, head dimension) -> tiles of fwd, dq, dkdv, by architecture; fp32 is for
# checking, so one small set does for all
_FP32 = {
    (4, 32): (Tile(32, 32, 4, 2), Tile(32, 16, 4, 2), Tile(16, 32, 4, 2)),
    (4, 64): (Tile(64, 16, 8, 2), Tile(32, 16, 4, 2), Tile(16, 32, 4, 2)),
    (4, 128): (Tile(16, 32, 4, 2), Tile(16, 16, 4, 2), Tile(16, 16, 8, 1)),
}
_TABLES: dict[str, dict[tuple[int, int], tuple[Tile, Tile, Tile]]] = {
    "sm_90": {
        (2, 32): (Tile(64, 64, 4, 3), Tile(64, 32, 4, 2), Tile(64, 64, 4, 2)),
        (2, 64): (Tile(64, 64, 4, 3), Tile(64, 32, 4, 2), Tile(32, 64, 4, 2)),
        (2, 128): (Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(32, 64, 8, 2)),
        **_FP32,
    },
    "sm_80": {
        (2, 32): (Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(32, 64, 4, 2)),
        (2, 64): (Tile(64, 32, 4, 2), Tile(64, 32, 4, 2), Tile(32, 64, 4, 2)),
        (2, 128): (Tile(64, 64, 4, 2), Tile(32, 32, 4, 2), Tile(32, 64, 8, 2)),
        **_FP32,
    },
}
# small and uneven, so that short rows cross tiles
_INTERPRETER = (Tile(32, 16, 1, 1), Tile(32, 16, 1, 1), Tile(16, 32, 1, 1))


def interprets() -> bool:
    """Whether kernels run in Triton's interpreter, which has to be said before Triton is loaded."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def supports(q: Tensor) -> bool:
    """Whether the kernels take queries (T, H, D) of this dtype and head dimension."""
    return q.dtype in DTYPES and q.shape[2] in HEAD_DIMS


def check(q: Tensor) -> None:
    """Raises ConfigError, naming what is supported, where `supports` says no."""
    if not supports(q):
        names = ", ".join(str(x).removeprefix("torch.") for x in DTYPES)
        message = (
            f"the Triton kernels take head dimensions {HEAD_DIMS} in {names}, "
            f"got {q.shape[2]} in {str(q.dtype).removeprefix('torch.')}"
        )
        raise ConfigError(message)


def architecture(device: torch.device) -> str:
    """Column of the table for a device: sm_90 for data-centre Hopper and Blackwell, else sm_80."""
    if interprets():
        return "interpreter"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        message = (
            f"the Triton kernels need compute capability 8.0 or newer, got {major}.{minor}: "
            "backend='reference' runs there"
        )
        raise ConfigError(message)
    return "sm_90" if major in (9, 10) else "sm_80"


def tile(kernel: str, q: Tensor) -> Tile:
    """Tile of a kernel (`fwd`, `dq`, `dkdv`) for queries (T, H, D)."""
    name, size = architecture(q.device), (q.element_size(), q.shape[2])
    tiles = _INTERPRETER if name == "interpreter" else _TABLES[name][size]
    return tiles[KERNELS.index(kernel)]
