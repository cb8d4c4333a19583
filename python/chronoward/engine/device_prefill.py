"""Prefixes side by side in calls of one size, so that every call runs the same kernels.

A prefix begins at a multiple of a tile and goes on with tokens that nobody sees, up to the next one
that begins: what becomes of it depends neither on its neighbours nor on how full the call is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chronoward.engine.device_room import PREFILL_TILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from chronoward.engine.device_room import DeviceRoom, PrefixPlace


class Context(NamedTuple):
    """A prefix to be prefilled, without the prompt's last token.

    Attributes:
        place: its number and its pages.
        token_id: int32 (n,).
        time_min: int32 (n,).
    """

    place: PrefixPlace
    token_id: NDArray[np.int32]
    time_min: NDArray[np.int32]


class PrefillCall(NamedTuple):
    """One call, as arrays that go to the device together.

    Attributes:
        tokens: int64 (6, T): token id, clock, place in its prefix, minutes since the prefix's first
            token, place among the pages (0: nobody's) and number of the prefix (the one past the
            last for nobody's tokens).
        bounds: int32 (T // tile + 2,), where prefixes begin and end.
        prefixes: int32 (n, 3 + pages): number, tokens, kind of the visit that is open at its end,
            and its pages, of the n prefixes of the call.
    """

    tokens: NDArray[np.int64]
    bounds: NDArray[np.int32]
    prefixes: NDArray[np.int32]


def _fill(tokens: NDArray[np.int64], context: Context, page_tokens: int) -> None:
    """One prefix into its columns, to the end of its last tile."""
    n, width = len(context.token_id), tokens.shape[1]
    index = np.arange(width)
    pages = np.array(context.place.pages, np.int64)[index[:n] // page_tokens]
    tokens[0, :n] = context.token_id
    tokens[1] = context.time_min[np.minimum(index, n - 1)]
    tokens[2] = index
    tokens[3] = tokens[1] - int(context.time_min[0])
    tokens[4, :n] = pages * page_tokens + index[:n] % page_tokens
    tokens[5, :n] = context.place.number


def _line(context: Context, room: DeviceRoom, visit_kind: NDArray[np.int64]) -> list[int]:
    kinds = visit_kind[context.token_id]
    begins = np.flatnonzero(kinds >= 0)
    kind = int(kinds[begins[-1]]) if len(begins) else 0
    pages = context.place.pages
    unused = [0] * (room.longest_prefix_pages - len(pages))
    return [context.place.number, len(context.token_id), kind, *pages, *unused]


def _call(
    contexts: Sequence[Context], room: DeviceRoom, visit_kind: NDArray[np.int64]
) -> PrefillCall:
    size = room.prefill_tokens
    tokens = np.zeros((6, size), np.int64)
    tokens[5] = room.n_prefixes
    bounds = [0]
    for context in contexts:
        n_tiles = -(-len(context.token_id) // PREFILL_TILE)
        if n_tiles:
            first, last = bounds[-1], bounds[-1] + n_tiles * PREFILL_TILE
            _fill(tokens[:, first:last], context, room.page_tokens)
            bounds.append(last)
    bounds += [size] * (size // PREFILL_TILE + 2 - len(bounds))
    lines = [_line(context, room, visit_kind) for context in contexts]
    return PrefillCall(tokens, np.array(bounds, np.int32), np.array(lines, np.int32))


def calls(
    contexts: Sequence[Context], room: DeviceRoom, visit_kind: NDArray[np.int64]
) -> Iterator[PrefillCall]:
    """Calls that hold the prefixes in their order, as many in each as fit.

    Args:
        contexts: none longer than the room's prefixes.
        room: sizes.
        visit_kind: int64 (V,), kind of visit that a token begins, -1: none.
    """
    taken: list[Context] = []
    n_tiles, most = 0, room.prefill_tokens // PREFILL_TILE
    for context in contexts:
        needed = -(-len(context.token_id) // PREFILL_TILE)
        if taken and n_tiles + needed > most:
            yield _call(taken, room, visit_kind)
            taken, n_tiles = [], 0
        taken.append(context)
        n_tiles += needed
    if taken:
        yield _call(taken, room, visit_kind)
