"""Value bins and quantile functions that publish no single subject's value.

Every edge has at least `min_subjects` subjects on either side inside the sample, every knot of a
quantile function has that many between itself and its neighbours, and the outermost knots are
clipped to the values that `min_subjects` subjects reach or pass.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward._core import fit_value_bins as core_value_bins
from chronoward.tokenizer.grammar import N_KNOTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ValueBins = tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]


def fit_value_bins(
    values: NDArray[np.float32],
    subjects: NDArray[np.uint64],
    offsets: NDArray[np.int64],
    *,
    n_bins: int,
    min_subjects: int,
) -> list[ValueBins]:
    """Inner bin edges and each bin's quantile function for every code and unit.

    Args:
        values: float32 (n,), samples of the codes' values, code after code; finite.
        subjects: uint64 (n,), whose they are.
        offsets: int64 (codes + 1,), bounds of each code's sample.
        n_bins: bins at most.
        min_subjects: subjects that each bin and each tail must have.

    Returns:
        Per code (edges, quantiles): ascending float32 edges between bins; per bin the knots on an
        even grid. Fewer than `min_subjects` subjects: no bins at all.
    """
    found = core_value_bins(
        value=values, subject=subjects, offsets=offsets, n_bins=n_bins, min_subjects=min_subjects
    )
    knots = _runs(found["knot"].tolist(), found["knot_offset"])
    edges = _runs(found["edge"].tolist(), found["edge_offset"])
    return list(zip(edges, _runs(knots, found["bin_offset"]), strict=True))


def _runs(items: list[Any], offsets: NDArray[np.int64]) -> list[tuple[Any, ...]]:
    bounds = offsets.tolist()
    return [tuple(items[a:b]) for a, b in itertools.pairwise(bounds)]


def fit_duration_quantiles(
    durations: NDArray[np.int64], subjects: NDArray[np.uint64], lo: int, hi: int, min_subjects: int
) -> tuple[int, ...]:
    """33 knots of a bucket's quantile function; the bucket's own edges are its ends.

    Args:
        durations: int64 (n,), sampled durations in [lo, hi).
        subjects: uint64 (n,), whose they are.
        lo: lower edge, inclusive.
        hi: upper edge, exclusive; for an open bucket the caller passes a finite cap.
        min_subjects: subjects between neighbouring knots.

    Returns:
        Ascending integers in [lo, hi - 1]; uniform where too few subjects were seen.
    """
    segments = min(N_KNOTS - 1, len(np.unique(subjects)) // min_subjects)
    if segments < 2:
        knots = np.linspace(lo, hi - 1, N_KNOTS)
    else:
        slices = np.array_split(np.sort(durations.astype(np.float64)), segments)
        means = np.array([s.mean() for s in slices])
        centers = (np.arange(segments) + 0.5) / segments
        grid = np.linspace(0, 1, N_KNOTS)
        at = np.concatenate([[0.0], centers, [1.0]])
        knots = np.interp(grid, at, np.concatenate([[lo], means, [hi - 1]]))
    return tuple(int(k) for k in np.clip(np.floor(knots + 0.5), lo, hi - 1))


def draw(knots: Sequence[float], u: float) -> float:
    """Value of a quantile function (even grid, linear in between) at u in [0, 1]."""
    x = u * (len(knots) - 1)
    i = min(int(x), len(knots) - 2)
    return float(np.float32(knots[i] + (knots[i + 1] - knots[i]) * (x - i)))
