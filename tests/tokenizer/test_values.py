from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenizer.slow_value_bins import slow_value_bins

from chronoward.errors import ConfigError
from chronoward.tokenizer import TokenizerSpec
from chronoward.tokenizer.spec import TIME_SCHEMES
from chronoward.tokenizer.time_scheme import OPEN_END_MIN, age_bands, make_buckets
from chronoward.tokenizer.values import ValueBins, draw, fit_value_bins


def _bins_of_one(
    values: np.ndarray, subjects: np.ndarray, *, n_bins: int = 10, min_subjects: int = 11
) -> ValueBins:
    bounds = np.array([0, len(values)])
    (bins,) = fit_value_bins(values, subjects, bounds, n_bins=n_bins, min_subjects=min_subjects)
    return bins


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 400), min_size=1, max_size=6),
    st.integers(2, 12),
    st.integers(1, 30),
)
def test_bins_of_many_codes_are_those_of_the_specification(
    seed: int, sizes: list[int], n_bins: int, min_subjects: int
) -> None:
    rng = np.random.default_rng(seed)
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    # few or many distinct values, few or many subjects, of either sign
    values = np.round(rng.normal(size=bounds[-1]), rng.integers(0, 4)).astype(np.float32)
    subjects = rng.integers(0, rng.integers(1, 300), bounds[-1]).astype(np.uint64)
    made = fit_value_bins(values, subjects, bounds, n_bins=n_bins, min_subjects=min_subjects)
    for (edges, quantiles), (a, b) in zip(made, itertools.pairwise(bounds), strict=True):
        expected = slow_value_bins(
            values[a:b], subjects[a:b], n_bins=n_bins, min_subjects=min_subjects
        )
        assert edges == expected[0]
        assert [len(q) for q in quantiles] == [len(q) for q in expected[1]]
        for knots, slow in zip(quantiles, expected[1], strict=True):
            # sums in another order: a unit in the last place of float32
            np.testing.assert_array_max_ulp(np.float32(knots), np.float32(slow), maxulp=1)


def test_bins_have_enough_subjects_and_tails_are_clipped() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(0, 1, 3000).astype(np.float32)
    subjects = rng.integers(0, 300, 3000).astype(np.uint64)
    edges, quantiles = _bins_of_one(values, subjects)
    bins = np.searchsorted(np.array(edges, np.float32), values, side="right")
    assert len(quantiles) == 10
    assert min(len(np.unique(subjects[bins == b])) for b in range(10)) >= 11
    assert len(np.unique(subjects[values >= quantiles[-1][-1]])) >= 11
    assert len(np.unique(subjects[values <= quantiles[0][0]])) >= 11
    for b, knots in enumerate(quantiles):
        for u in (0.0, 0.3, 0.999):
            assert np.searchsorted(edges, np.float32(draw(knots, u)), side="right") == b


def test_few_subjects_publish_no_value_of_their_own() -> None:
    values = np.arange(10, dtype=np.float32)
    who = np.arange(10).astype(np.uint64)
    assert _bins_of_one(values, who) == ((), ())


def test_a_constant_value_has_one_bin() -> None:
    edges, quantiles = _bins_of_one(np.full(50, 3.0, np.float32), np.arange(50).astype(np.uint64))
    assert (edges, quantiles) == ((), ((3.0, 3.0),))


@pytest.mark.parametrize("scheme", TIME_SCHEMES)
@pytest.mark.parametrize("shortest", [0, 1, 1440])
def test_buckets_leave_no_hole(scheme: str, shortest: int) -> None:
    buckets = make_buckets(scheme, prefix="", shortest_min=shortest, repeat=False)
    assert buckets[0].lo == shortest
    assert all(a.hi == b.lo for a, b in itertools.pairwise(buckets))
    assert buckets[-1].hi == OPEN_END_MIN
    assert len({b.label for b in buckets}) == len(buckets)


@pytest.mark.parametrize("scheme", ["day", "week", "month", "cehr_bert", "mix"])
def test_the_days_a_bucket_stands_for_lie_inside_it(scheme: str) -> None:
    for bucket in make_buckets(scheme, prefix="", shortest_min=0, repeat=True):
        assert bucket.lo <= bucket.days * 1440 < bucket.hi


def test_age_bands_ascend_and_are_top_coded() -> None:
    for kind in ("clinical", "years"):
        days = [day for day, _ in age_bands(kind)]
        assert days == sorted(set(days))
        assert age_bands(kind)[-1][1] == "age:90+"
    assert [n for _, n in age_bands("clinical")][:5] == [
        "age:0d",
        "age:1-6d",
        "age:7-27d",
        "age:1mo",
        "age:2mo",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "other"},
        {"time_scheme": "hours"},
        {"n_value_bins": 1},
        {"prompt_fields": ("sex", "age")},
        {"hour_tokens": True},
        {"preset": "cehr", "details": True},
        {"event_order": "time", "values": "split"},
    ],
)
def test_contradicting_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        TokenizerSpec(**options)  # type: ignore[arg-type]


def test_shifted_dates_have_no_year_in_the_prompt() -> None:
    assert TokenizerSpec(calendar="shifted").prompt_fields == ("age", "sex", "race")
