from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from chronoward.errors import DataError
from chronoward.evaluation import fidelity as fid
from chronoward.evaluation.samples import SyntheticConfig, domain_of, read_samples
from chronoward.evaluation.sections import plain
from chronoward.evaluation.synthetic import compare

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK = SyntheticConfig(n_replicates=20)


def section_of(made_up_events: Callable[..., Any], seed: int, **more: float) -> dict[str, Any]:
    opened = {
        "synthetic": made_up_events(250, seed, **more),
        "train": made_up_events(250, 1),
        "held_out": made_up_events(250, 2),
    }
    samples = read_samples(opened, QUICK, by_split=False)
    return plain(compare(samples, QUICK))


@pytest.fixture(scope="module")
def good(made_up_events: Callable[..., Any]) -> dict[str, Any]:
    return section_of(made_up_events, 3)


def metric(section: dict[str, Any], name: str) -> dict[str, Any]:
    return next(m for m in section["metrics"] if m["name"] == name)


def test_another_sample_of_the_same_people_reaches_the_ceiling(good: dict[str, Any]) -> None:
    for name in ("prevalence_r2", "within_visit_pairs_r2", "sequential_pairs_r2"):
        found = metric(good, name)
        assert found["synthetic"]["value"] > 0.9
        assert found["synthetic"]["value"] == pytest.approx(found["ceiling"]["value"], abs=0.1)
    told = metric(good, "discriminator_auroc")["synthetic"]
    assert told["lower"] < 0.5 < told["upper"]


def test_independent_marginals_fail(good: dict[str, Any]) -> None:
    pairs = metric(good, "within_visit_pairs_r2")
    assert pairs["floor"]["upper"] < pairs["ceiling"]["lower"] - 0.1
    assert metric(good, "discriminator_auroc")["floor"]["lower"] > 0.5
    assert metric(good, "lab_values_ks")["floor"] is not None
    assert metric(good, "gap_days_ks")["floor"] is None


def test_wrong_gaps_are_seen(good: dict[str, Any], made_up_events: Callable[..., Any]) -> None:
    slow = section_of(made_up_events, 4, gap=180.0)
    assert metric(slow, "gap_days_ks")["synthetic"]["lower"] > 0.1
    assert metric(good, "gap_days_ks")["synthetic"]["value"] < 0.06
    assert metric(slow, "gap_days_w1")["synthetic"]["value"] > 0.5


def test_training_on_synthetic_subjects_is_tested_on_held_out_ones(good: dict[str, Any]) -> None:
    found = metric(good, "transfer_auroc")
    assert found["ceiling"]["value"] is not None
    assert good["transfer"]["tasks"]
    assert set(good["transfer"]["tasks"][0]["auroc"]) == {"real", "synthetic", "floor"}


def test_figure_data_hide_small_cells(good: dict[str, Any]) -> None:
    n = good["n_subjects_each"]
    for point in good["prevalence"]:
        assert point["train"] * n >= 11 - 1e-6
    assert set(good["overlays"]) == {"gap_days", "age_years", "events", "visits", "span_years"}


def test_the_same_input_gives_the_same_section(
    good: dict[str, Any], made_up_events: Callable[..., Any]
) -> None:
    assert section_of(made_up_events, 3) == good


def test_splits_of_one_folder_serve_as_train_and_held_out(
    made_up_events: Callable[..., Any],
) -> None:
    real = made_up_events(600, 5)
    opened = {"synthetic": made_up_events(60, 6), "train": real, "held_out": real}
    samples = read_samples(opened, QUICK, by_split=True)
    assert samples.train.n_subjects == samples.held_out.n_subjects >= 20


def test_sources_without_visits_are_cut_into_days(made_up_events: Callable[..., Any]) -> None:
    synthetic = made_up_events(40, 8)
    opened = {
        "synthetic": replace(synthetic, has_visits=False),
        "train": made_up_events(40, 9),
        "held_out": made_up_events(40, 10),
    }
    samples = read_samples(opened, QUICK, by_split=False)
    days = np.unique(
        np.column_stack([samples.train.visit_subject, samples.train.visit_start]), axis=0
    )
    assert len(days) == len(samples.train.visit_start)


def test_too_few_subjects_are_refused(made_up_events: Callable[..., Any]) -> None:
    few = made_up_events(10, 11)
    with pytest.raises(DataError, match="at least 20 subjects"):
        read_samples({"synthetic": few, "train": few, "held_out": few}, QUICK, by_split=False)


def test_wasserstein_equals_a_shift() -> None:
    values, owner = np.arange(100.0), np.arange(100)
    distance = fid.Distance((values, owner), (values + 5.0, owner))
    ones = np.ones(100)
    assert distance.wasserstein_over_iqr(ones, ones) == pytest.approx(5.0 / 49.5)
    assert distance.kolmogorov_smirnov(ones, ones) == pytest.approx(0.05)


def test_r_squared_is_not_a_squared_correlation() -> None:
    real = np.array([0.1, 0.2, 0.3])
    assert fid.r_squared(real, real) == 1.0
    assert fid.r_squared(real, 2 * real) < 0


def test_domains_have_names_a_reader_knows() -> None:
    assert domain_of("drug_exposure", None) == "drug"
    assert domain_of("", "Condition") == "condition"
    assert domain_of("", None) == "other"
