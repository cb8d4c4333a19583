"""Which window goes into which row, as a pure function of (lengths, seed, epoch); NumPy only.

Timelines longer than a row are cut at visit borders. A window that starts mid-life begins with a
*lead* that is not stored: the prompt re-derived at the cut, `continued`, and, where no visit border
was in reach and the cut lies inside a visit, that visit's first tokens. Best fit in shuffled order
packs lognormal lengths to more than 99 % and mixes long and short ones in each row; a few hundred
long timelines cut into windows of nearly a row's length cannot be packed better than about 95 %,
because nothing small is left for the holes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from chronoward import _core
from chronoward.philox import hash64, permutation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from chronoward.store import StoreSplit

BLOCK = 65_536
MIN_SEGMENT = 8  # sets the default number of segments a row: row_tokens / 8
_YEAR, _AGE = 2, 3  # token classes


class WindowRules(Protocol):
    """The part of `GrammarTables` that cutting windows needs."""

    @property
    def token_class(self) -> NDArray[np.uint8]: ...  # (vocab_size,)
    @property
    def prompt_classes(self) -> NDArray[np.uint8]: ...  # (n_prompt,)
    @property
    def continued_id(self) -> int: ...
    @property
    def age_unknown_id(self) -> int: ...
    def year_token_at(
        self, origin_us: NDArray[np.int64], time_min: NDArray[np.int32]
    ) -> NDArray[np.int32]: ...
    def age_token_at(self, time_min: NDArray[np.int32]) -> NDArray[np.int32]: ...


def prompts_at(
    rules: WindowRules,
    prompt: NDArray[np.int32],
    origin_us: NDArray[np.int64],
    time_min: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Prompts re-derived at a cut: year and age moved on, the rest kept, then `continued`.

    Args:
        rules: the tokenizer's tables.
        prompt: int32 (n, p), the prompts the timelines begin with.
        origin_us: int64 (n,), microseconds since 1970.
        time_min: int32 (n,), the clock at the cut.

    Returns:
        int32 (n, p + 1).
    """
    moved = np.full((len(prompt), prompt.shape[1] + 1), rules.continued_id, np.int32)
    moved[:, :-1] = prompt
    for column, token_class in enumerate(rules.prompt_classes):
        if token_class == _YEAR:
            moved[:, column] = rules.year_token_at(origin_us, time_min)
        elif token_class == _AGE:
            known = prompt[:, column] != rules.age_unknown_id
            moved[known, column] = rules.age_token_at(time_min[known])
    return moved


@dataclass(frozen=True, eq=False)
class Pack:
    """Rows of windows.

    Attributes:
        offsets: int64 (n_rows + 1,), bounds of each row in `index`.
        index: int64 (n_windows,), windows by row; each window once.
        row_tokens: tokens a row holds.
        n_tokens: tokens that are in use.
    """

    offsets: NDArray[np.int64]
    index: NDArray[np.int64]
    row_tokens: int
    n_tokens: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def fill(self) -> float:
        """Share of the rows' tokens that are in use."""
        return self.n_tokens / (self.row_tokens * len(self)) if len(self) else 1.0

    def row(self, number: int) -> NDArray[np.int64]:
        """The windows of one row."""
        return self.index[self.offsets[number] : self.offsets[number + 1]]


def _shuffle_rows(
    offsets: NDArray[np.int64], index: NDArray[np.int64], key: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = permutation(key, len(offsets) - 1)
    counts = np.diff(offsets)[order]
    moved = np.zeros_like(offsets)
    np.cumsum(counts, out=moved[1:])
    source = np.repeat(offsets[:-1][order] - moved[:-1], counts) + np.arange(len(index))
    return moved, index[source]


def default_max_segments(row_tokens: int) -> int:
    """Segments a row may have, its padding included, where nothing else is asked for."""
    return max(2, row_tokens // MIN_SEGMENT)


def pack(
    lengths: NDArray[np.integer[Any]] | Sequence[int],
    row_tokens: int,
    *,
    max_segments: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    block: int = BLOCK,
) -> Pack:
    """Packs windows into rows: shuffle, best fit inside blocks in that order, shuffle the rows.

    The result depends on the arguments only. Long and short windows are mixed in each row.

    Args:
        lengths: integers (n,), each in 1..row_tokens.
        row_tokens: tokens a row holds.
        max_segments: windows a row may hold; `None` sets no limit.
        seed: any integer.
        epoch: another one gives other neighbors.
        block: windows that are packed together.

    Returns:
        The rows. `pack([3, 2, 1], 4).row(0)` names the windows that share the first row.

    Raises:
        TypeError: lengths are not integers.
        ValueError: a length outside 1..row_tokens, or an argument that is not positive.
    """
    values = np.asarray(lengths, dtype=None if len(lengths) else np.int32)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        message = f"lengths must be a one-dimensional array of integers, got {values.dtype}"
        raise TypeError(message)
    if len(values) and not 1 <= values.min() <= values.max() <= row_tokens:
        message = f"lengths must lie in 1..{row_tokens}, got {values.min()}..{values.max()}"
        raise ValueError(message)
    order = permutation(hash64(seed, "windows", epoch), len(values))
    offsets, index = _core.pack_rows(
        np.ascontiguousarray(values, np.int32),
        order,
        row_tokens=row_tokens,
        max_segments=max(1, len(values)) if max_segments is None else max_segments,
        block=block,
    )
    offsets, index = _shuffle_rows(offsets, index, hash64(seed, "rows", epoch))
    return Pack(offsets, index, row_tokens, int(values.sum()))


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of a split, in order of timeline.

    Attributes:
        timeline: int64 (n,), number of the timeline in the split.
        begin: int64 (n,), first token of the window's body, counted in the timeline.
        length: int32 (n,), tokens of the body.
        n_lead: int32 (n,), tokens that come before the body and are not stored; 0 for the first
            window of a timeline.
        open_visit: int64 (n,), position of the visit that is open at the cut, −1 for none.
        open_detail: int64 (n,), the same of a visit detail.
        row_tokens: what they were cut for.
    """

    timeline: NDArray[np.int64]
    begin: NDArray[np.int64]
    length: NDArray[np.int32]
    n_lead: NDArray[np.int32]
    open_visit: NDArray[np.int64]
    open_detail: NDArray[np.int64]
    row_tokens: int

    def __len__(self) -> int:
        return len(self.timeline)


def cut(split: StoreSplit, rules: WindowRules, row_tokens: int) -> Windows:
    """Cuts a split's timelines into windows of at most `row_tokens`, lead included.

    Raises:
        ValueError: `row_tokens` is too small for a prompt and something after it.
        DataError: a token id outside the vocabulary.
    """
    parts: list[list[NDArray[Any]]] = []
    for first, shard in zip(split.first_row[:-1], split.shards, strict=True):
        n_prompt = len(rules.prompt_classes) + 1
        columns = _core.cut_windows(
            shard.offsets, shard.token_id, rules.token_class, row_tokens, n_prompt
        )
        parts.append([columns[0] + first, *columns[1:]])

    def joined(i: int, dtype: type[Any]) -> NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *(part[i] for part in parts)])

    return Windows(
        timeline=joined(0, np.int64),
        begin=joined(1, np.int64),
        length=joined(2, np.int32),
        n_lead=joined(3, np.int32),
        open_visit=joined(4, np.int64),
        open_detail=joined(5, np.int64),
        row_tokens=row_tokens,
    )


@dataclass(frozen=True, eq=False)
class PackPlan:
    """One epoch: the windows of a split and the rows they share."""

    windows: Windows
    rows: Pack
    max_segments: int


def plan(
    split: StoreSplit,
    row_tokens: int,
    *,
    rules: WindowRules,
    seed: int,
    epoch: int,
    max_segments: int | None = None,
) -> PackPlan:
    """The rows of one epoch: a pure function of (seed, epoch, store).

    Args:
        split: timelines of a token store.
        row_tokens: tokens a row holds.
        rules: the tokenizer's.
        seed: of the run.
        epoch: 0, 1, …
        max_segments: segments a row has at most, its padding counted as one.

    Raises:
        ValueError: `row_tokens` or `max_segments` is too small.
        DataError: a token id outside the vocabulary.
    """
    return plan_windows(
        cut(split, rules, row_tokens), seed=seed, epoch=epoch, max_segments=max_segments
    )


def plan_windows(
    windows: Windows, *, seed: int, epoch: int, max_segments: int | None = None
) -> PackPlan:
    """As `plan`, from windows that were cut before (they are the same in every epoch).

    Raises:
        ValueError: `max_segments` is below 2.
    """
    segments = default_max_segments(windows.row_tokens) if max_segments is None else max_segments
    if segments < 2:
        message = f"max_segments must be at least 2 (one is the padding's), got {segments}"
        raise ValueError(message)
    rows = pack(
        windows.length + windows.n_lead,
        windows.row_tokens,
        max_segments=segments - 1,
        seed=seed,
        epoch=epoch,
    )
    return PackPlan(windows, rows, segments)
