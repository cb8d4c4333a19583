"""Sizes of the decode kernels' tiles: a table, so that nothing is timed when a program starts.

Every entry is compiled ahead of time in the tests for sm_80 and sm_90: no register spills, and
shared memory inside the limit. A tile's keys are one page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from chronoward.kernels.varlen_attention.tiles import architecture, interprets

from chronoward.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

KERNELS = ("rows", "prefix")
HEAD_DIMS = (32, 64, 128)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Tile(NamedTuple):
    """Least queries of a tile, tokens of a part, warps, and stages of loads."""

    queries: int
    part: int
    warps: int
    stages: int


# (bytes of an element of the queries, head dimension) -> tiles of rows and prefix; fp32 is for
# checking, so one set does for all
_FP32 = {
    (4, 32): (Tile(16, 256, 4, 1), Tile(16, 256, 4, 1)),
    (4, 64): (Tile(16, 256, 4, 1), Tile(16, 256, 4, 1)),
    (4, 128): (Tile(16, 256, 8, 1), Tile(16, 256, 8, 1)),
}
_TABLES: dict[str, dict[tuple[int, int], tuple[Tile, Tile]]] = {
    "sm_90": {
        (2, 32): (Tile(16, 256, 4, 2), Tile(64, 256, 4, 2)),
        (2, 64): (Tile(16, 256, 4, 2), Tile(64, 256, 4, 2)),
        (2, 128): (Tile(16, 256, 4, 2), Tile(64, 256, 8, 2)),
        **_FP32,
    },
    "sm_80": {
        (2, 32): (Tile(16, 256, 4, 2), Tile(64, 256, 4, 2)),
        (2, 64): (Tile(16, 256, 4, 2), Tile(32, 256, 4, 2)),
        (2, 128): (Tile(16, 256, 4, 2), Tile(32, 256, 4, 2)),
        **_FP32,
    },
}
# small, so that short rows have several parts and a group of rows several tiles
_INTERPRETER = (Tile(4, 64, 1, 1), Tile(8, 64, 1, 1))


def supports(q: Tensor) -> bool:
    """Whether the kernels take queries (R, H, D) of this dtype and head dimension."""
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


def tile(kernel: str, q: Tensor, group: int) -> Tile:
    """Tile of a kernel (`rows`, `prefix`) for queries (R, H, D), `group` heads to a key head."""
    name, size = architecture(q.device), (q.element_size(), q.shape[2])
    tiles = _INTERPRETER if name == "interpreter" else _TABLES[name][size]
    chosen = tiles[KERNELS.index(kernel)]
    return chosen._replace(queries=max(chosen.queries, 1 << (group - 1).bit_length()))


__all__ = ["DTYPES", "HEAD_DIMS", "KERNELS", "Tile", "check", "interprets", "supports", "tile"]
