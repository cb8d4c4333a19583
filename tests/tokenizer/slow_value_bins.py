"""Value bins of one code, a step at a time: the specification of `_core.fit_value_bins`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_VALUE_KNOTS = 9


def _tail_clip(
    values: NDArray[np.float64], subjects: NDArray[np.uint64], min_subjects: int
) -> tuple[float, float] | None:
    """The values that `min_subjects` distinct subjects do not go below, and above."""
    order = np.argsort(values, kind="stable")
    _, first = np.unique(subjects[order], return_index=True)
    _, first_down = np.unique(subjects[order[::-1]], return_index=True)
    if len(first) < min_subjects:
        return None
    low = values[order][np.sort(first)[min_subjects - 1]]
    high = values[order[::-1]][np.sort(first_down)[min_subjects - 1]]
    return (float(low), float(high)) if low < high else None


def slow_value_bins(
    values: NDArray[np.float32],
    subjects: NDArray[np.uint64],
    *,
    n_bins: int,
    min_subjects: int,
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """Inner bin edges and each bin's quantile function for one code and unit.

    Args:
        values: float32 (n,), a sample of the code's values.
        subjects: uint64 (n,), whose they are.
        n_bins: bins at most.
        min_subjects: subjects that each bin and each tail must have.

    Returns:
        (edges, quantiles): ascending float32 edges between bins; per bin the knots on an even grid.
        Fewer than `min_subjects` subjects: no bins at all.
    """
    if len(values) < min_subjects or len(np.unique(subjects)) < min_subjects:
        return (), ()
    x = values.astype(np.float64)
    clip = _tail_clip(x, subjects, min_subjects)
    if clip is None:  # too few, or one value: a mean over all subjects says enough
        return (), ((float(np.float32(f"{np.mean(x):.3g}")),) * 2,)
    wanted = np.quantile(x, np.arange(1, n_bins) / n_bins, method="higher")
    edges = _mergeable_edges(np.unique(wanted.astype(np.float32)), values, subjects, min_subjects)
    bins = np.searchsorted(edges, values, side="right")
    quantiles = []
    for b in range(len(edges) + 1):
        lower = edges[b - 1] if b else np.float32(clip[0])
        upper = np.nextafter(edges[b], np.float32(-np.inf)) if b < len(edges) else clip[1]
        inside = bins == b
        knots = _knots(x[inside], subjects[inside], min_subjects)
        clipped = np.clip(knots, float(lower), max(float(upper), float(lower)))
        quantiles.append(tuple(float(k) for k in clipped.astype(np.float32)))
    return tuple(float(e) for e in edges), tuple(quantiles)


def _mergeable_edges(
    edges: NDArray[np.float32],
    values: NDArray[np.float32],
    subjects: NDArray[np.uint64],
    min_subjects: int,
) -> NDArray[np.float32]:
    """Drops edges from below until every bin holds `min_subjects` subjects."""
    kept: list[np.float32] = []
    below: np.float32 = np.float32(-np.inf)
    for edge in edges:
        inside = (values >= below) & (values < edge)
        above = values >= edge
        if min(len(np.unique(subjects[inside])), len(np.unique(subjects[above]))) >= min_subjects:
            kept.append(edge)
            below = edge
    return np.array(kept, np.float32)


def _knots(
    x: NDArray[np.float64], subjects: NDArray[np.uint64], min_subjects: int
) -> NDArray[np.float64]:
    segments = min(MAX_VALUE_KNOTS - 1, len(np.unique(subjects)) // min_subjects)
    if segments < 2:
        mean = float(f"{np.mean(x):.3g}")
        return np.array([mean, mean])
    # means of equal slices: no knot is one subject's value
    slices = np.array_split(np.sort(x), segments)
    return np.array([s.mean() for s in slices])
