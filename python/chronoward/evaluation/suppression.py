"""Small cells: no count of 1 to 10 leaves in a file, nor one that follows by subtraction.

A suppressed count is the string "<11"; a count withheld only because a sibling of a shown total is
suppressed is "withheld". Readers of metrics.json must therefore accept a string where a count is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALLEST_CELL = 11
SMALL = "<11"
WITHHELD = "withheld"

Count = int | str


def count(n: int) -> Count:
    """The count, or "<11" for 1 to 10."""
    return SMALL if 0 < n < SMALLEST_CELL else int(n)


def part_of(n: int, total: int) -> Count:
    """A part of a shown total: also withheld when the rest would be a small cell."""
    return WITHHELD if 0 < total - n < SMALLEST_CELL and n >= SMALLEST_CELL else count(n)


def partition(counts: Sequence[int]) -> list[Count]:
    """Counts that add up to a shown total, so that no small one follows by subtraction.

    Args:
        counts: the parts.

    Returns:
        Parts; besides the small ones, the smallest others are withheld until what is hidden adds
        up to at least 11.
    """
    shown: list[Count] = [count(n) for n in counts]
    hidden = [n for n, cell in zip(counts, shown, strict=True) if cell == SMALL]
    while 0 < sum(hidden) < SMALLEST_CELL:
        left = [
            (n, i)
            for i, (n, cell) in enumerate(zip(counts, shown, strict=True))
            if n and not isinstance(cell, str)
        ]
        if not left:
            break
        n, i = min(left)
        shown[i] = WITHHELD
        hidden.append(n)
    return shown


def hide(value: Any) -> Any:
    """Nested dicts of counts with the small ones hidden.

    Args:
        value: a count, or a dict of such.
    """
    if isinstance(value, dict):
        return {key: hide(item) for key, item in value.items()}
    return count(value) if isinstance(value, int) and not isinstance(value, bool) else value


def is_hidden(cell: Any) -> bool:
    """Whether a count was suppressed or withheld."""
    return isinstance(cell, str)


def suppress_steps(counts: Sequence[int]) -> list[Count]:
    """Counts along a flow of exclusions: a step that removes 1 to 10 is not shown.

    Args:
        counts: remaining rows after each step, not increasing.

    Returns:
        The counts; where two neighbours differ by a small number the later one is withheld.
    """
    shown: list[Count] = []
    last: int | None = None
    for n in counts:
        if last is not None and 0 < abs(last - n) < SMALLEST_CELL:
            shown.append(WITHHELD)
            continue
        shown.append(count(n))
        last = n
    return shown
