from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from chronoward.errors import DataError, FormatError
from chronoward.tokenizer import FitCounts, TokenizerSpec, count, fit_counts
from chronoward.tokenizer.sampling import SAMPLE_SIZE, Sample, Sampler

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    World = tuple[pa.Table, pa.Table, pa.Table]


def test_merged_shards_fit_the_same_tokenizer_as_the_whole(world: World, tmp_path: Path) -> None:
    events, _, codes = world
    who = events["subject_id"].to_numpy()
    spec = TokenizerSpec(min_subjects=3)
    merged = FitCounts()
    for i, part in enumerate(np.array_split(np.unique(who)[::-1], 3)):
        count([events.filter(np.isin(who, part))], codes).save(tmp_path / f"{i}.counts")
        merged.merge(FitCounts.load(tmp_path / f"{i}.counts"))
    assert fit_counts(merged, spec).hash == fit_counts(count([events], codes), spec).hash


def test_a_file_that_is_not_counts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not arrow")
    with pytest.raises(FormatError, match="not a file of fit counts"):
        FitCounts.load(tmp_path / "x")


def test_fitting_on_nothing_is_an_error(world: World) -> None:
    with pytest.raises(DataError, match="no events"):
        count([world[0].slice(0, 0)], world[2])


def test_the_sample_is_the_rows_of_least_priority_however_they_arrive() -> None:
    rng = np.random.default_rng(0)
    n = 8 * SAMPLE_SIZE
    group = rng.choice(3, n, p=[0.79, 0.2, 0.01])
    rows = (group, rng.integers(0, 500, n), np.arange(n), rng.random(n))
    sampler = Sampler()
    for part in np.array_split(rng.permutation(n), 50):
        sampler.add(*(column[part] for column in rows))
    got = sampler.sample()
    everything = Sample.of(*rows)
    for g in range(3):
        least = np.sort(everything.priority[group == g])[:SAMPLE_SIZE]
        lo, hi = np.searchsorted(got.group, [g, g + 1])
        assert np.array_equal(got.priority[lo:hi], least)
