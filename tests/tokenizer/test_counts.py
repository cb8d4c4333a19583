from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from chronoward._core import BottomSample
from chronoward.errors import DataError, FormatError
from chronoward.philox import splitmix64
from chronoward.tokenizer import FitCounts, TokenizerSpec, count, fit, fit_counts
from chronoward.tokenizer.sampling import SAMPLE_SIZE, Sampler

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    World = tuple[pa.Table, pa.Table, pa.Table]


def test_merged_shards_fit_the_same_tokenizer_as_the_whole(world: World, tmp_path: Path) -> None:
    events, observed, codes = world
    who = events["subject_id"].to_numpy()
    spec = TokenizerSpec(min_subjects=3)
    merged = FitCounts()
    for i, part in enumerate(np.array_split(np.unique(who)[::-1], 3)):
        count([events.filter(np.isin(who, part))], codes, observed).save(tmp_path / f"{i}.counts")
        merged.merge(FitCounts.load(tmp_path / f"{i}.counts"))
    whole = fit_counts(count([events], codes, observed), spec)
    assert fit_counts(merged, spec).hash == whole.hash == fit([events], codes, spec, observed).hash


def test_timelines_start_where_the_encoder_has_them_start(world: World) -> None:
    events, observed, codes = world
    spec = TokenizerSpec(min_subjects=3)
    batch = fit([events], codes, spec, observed).encode(events, observed, codes=codes)
    n_prompt = len(spec.prompt_fields)
    kept = np.flatnonzero(np.diff(batch.offsets) > n_prompt + 1)
    first_us = batch.origin_us + batch.time_min[batch.offsets[:-1]] * 60_000_000
    day = first_us[kept].astype("datetime64[us]").astype("datetime64[D]")
    year = day.astype("datetime64[Y]")
    wanted = (year.astype(int) + 1970) * 1000 + (day - year.astype("datetime64[D]")).astype(int)
    counts = count([events], codes, observed)
    stamps, subjects = counts.starts.sample().of_group(0)
    assert len(np.unique(subjects)) >= len(kept)
    # all but those whose first events have no token: counted as beginning with these
    assert np.isin(wanted, stamps.astype(int)).mean() > 0.9
    ages, _ = counts.starts.sample().of_group(1)
    assert ages.min() >= 0
    before = count([events], codes)
    assert set(counts.years) > set(before.years)
    for group in (0, 2):  # gaps between visits, and between moments
        waits = counts.sampled_durations(group)[0]
        assert len(waits) > len(before.sampled_durations(group)[0])


def test_observation_changes_nothing_where_timelines_begin_with_the_first_visit(
    world: World,
) -> None:
    events, observed, codes = world
    spec = TokenizerSpec(preset="cehr", min_subjects=3)
    assert fit([events], codes, spec, observed).hash == fit([events], codes, spec).hash


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
    whole, halves = Sampler(), [Sampler(), Sampler()]
    for number, part in enumerate(np.array_split(rng.permutation(n), 50)):
        for sampler in (whole, halves[number % 2]):
            sampler.add(*(column[part] for column in rows))
        if number == 25:
            whole.sample()  # looking on the way changes nothing
    swapped = np.array([2, 1, 0])
    merged = Sampler()
    for half in halves:
        merged.merge(half.sample(), swapped)
    priority = _priority(*rows[1:])
    for g in range(3):
        least = np.argsort(priority[group == g])[:SAMPLE_SIZE]
        for got, its_group in ((whole.sample(), g), (merged.sample(), swapped[g])):
            lo, hi = np.searchsorted(got.group, [its_group, its_group + 1])
            assert np.array_equal(got.priority[lo:hi], priority[group == g][least])
            assert np.array_equal(got.value[lo:hi], rows[3][group == g][least])


def test_a_sample_on_disk_is_the_one_in_memory_and_leaves_nothing_behind(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n = 6 * SAMPLE_SIZE
    group = rng.choice(300, n, p=rng.dirichlet(np.full(300, 0.2)))
    rows = (group, rng.integers(0, 500, n), np.arange(n), rng.random(n))
    memory, disk = Sampler(), Sampler(BottomSample(SAMPLE_SIZE, str(tmp_path)))
    for part in np.array_split(np.arange(n), 9):
        for sampler in (memory, disk):
            sampler.add(*(column[part] for column in rows))
    assert not list(tmp_path.iterdir())  # the file has no name
    some = [disk.groups(first, first + 64) for first in range(0, 320, 64)]
    whole = vars(memory.sample())
    for name, column in whole.items():
        assert np.array_equal(np.concatenate([getattr(s, name) for s in some]), column)
        assert np.array_equal(getattr(disk.sample(), name), column)
    with pytest.raises(OSError, match="No such file"):
        BottomSample(SAMPLE_SIZE, str(tmp_path / "nowhere"))


def _priority(
    subject: NDArray[np.int64], salt: NDArray[np.int64], value: NDArray[np.float64]
) -> NDArray[np.uint64]:
    """The rule of `csrc/core/bottom_sample.hpp` in NumPy."""
    salted = splitmix64(splitmix64(subject) ^ salt.astype(np.uint64))
    return splitmix64((salted ^ value.view(np.uint64)).view(np.int64))
