from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn import metrics

from chronoward.errors import DataError
from chronoward.evaluation import discrimination as disc
from chronoward.evaluation.intervals import cluster_index


def draws(n: int, levels: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    score = generator.integers(0, levels, n) / levels
    event = generator.random(n) < 0.1 + 0.5 * score
    return event, score, generator.integers(1, 5, n).astype(float)


@pytest.mark.parametrize("levels", [2, 7, 10**9])
@pytest.mark.parametrize("n", [5, 200, 3000])
def test_auroc_and_average_precision_equal_scikit_learn(n: int, levels: int) -> None:
    event, score, weight = draws(n, levels, n + levels % 97)
    event[0], event[-1] = True, False
    assert disc.auroc(event, score) == pytest.approx(
        metrics.roc_auc_score(event, score), rel=0, abs=1e-12
    )
    assert disc.average_precision(event, score) == pytest.approx(
        metrics.average_precision_score(event, score), rel=0, abs=1e-12
    )
    assert disc.auroc(event, score, weight) == pytest.approx(
        metrics.roc_auc_score(event, score, sample_weight=weight), rel=0, abs=1e-12
    )
    assert disc.average_precision(event, score, weight) == pytest.approx(
        metrics.average_precision_score(event, score, sample_weight=weight), rel=0, abs=1e-12
    )


def test_all_tied_scores_have_auroc_one_half_exactly() -> None:
    event = np.array([True, False, True, False, False])
    assert disc.auroc(event, np.full(5, 0.3)) == 0.5


def test_one_class_has_no_auroc() -> None:
    assert np.isnan(disc.auroc(np.ones(4, bool), np.arange(4.0)))
    assert np.isnan(disc.average_precision(np.zeros(4, bool), np.arange(4.0)))
    alone = disc.clustered_delong(np.ones(4, bool), np.arange(4.0), np.arange(4), 4)
    assert alone.to_json() == {"value": None, "lower": None, "upper": None, "se": None}


def test_label_flip_mirrors_and_monotone_transform_keeps_the_area() -> None:
    event, score, _ = draws(500, 10**6, 3)
    area = disc.auroc(event, score)
    assert disc.auroc(~event, score) == pytest.approx(1 - area, abs=1e-12)
    assert disc.auroc(event, np.exp(3 * score)) == area


def test_weights_equal_repetition() -> None:
    event, score, weight = draws(300, 9, 4)
    times = weight.astype(int)
    repeated = disc.auroc(np.repeat(event, times), np.repeat(score, times))
    assert disc.auroc(event, score, weight) == pytest.approx(repeated, abs=1e-12)


def test_unclustered_delong_equals_the_textbook_formula() -> None:
    event, score, _ = draws(150, 30, 5)
    positive, negative = score[event], score[~event]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    n, m = len(score), len(positive)
    x, y = wins.mean(axis=1), wins.mean(axis=0)
    area = wins.mean()
    variance = ((x - area) ** 2).sum() / m**2 + ((y - area) ** 2).sum() / (n - m) ** 2
    estimate = disc.clustered_delong(event, score, np.arange(n), n)
    assert estimate.value == pytest.approx(area, abs=1e-12)
    assert estimate.se == pytest.approx(np.sqrt(variance * n / (n - 1)), abs=1e-12)


def test_a_score_is_no_better_than_itself() -> None:
    event, score, _ = draws(400, 50, 6)
    gain = disc.clustered_delong_difference(event, (score, score), np.arange(400), 400)
    assert (gain.value, gain.se) == (0.0, 0.0)


def test_truth_auroc_is_the_double_sum() -> None:
    generator = np.random.default_rng(7)
    probability, score = generator.random(60), generator.integers(0, 9, 60) / 9
    wins = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    pairs = probability[:, None] * (1 - probability)
    expected = (pairs * wins).sum() / pairs.sum()
    assert disc.truth_auroc(probability, score) == pytest.approx(expected, abs=1e-12)
    interval = disc.truth_auroc_interval(probability, score, np.arange(60), 60, n_replicates=50)
    assert interval.lower < expected < interval.upper


def test_probabilities_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(DataError, match="column risk: 2 of 3 values"):
        disc.check_probabilities(np.array([0.5, np.nan, 1.2]), "risk")


def test_curves_pass_through_their_ends() -> None:
    event, score, _ = draws(800, 10**6, 8)
    false_rate, true_rate = disc.roc_points(event, score)
    assert (false_rate[0], true_rate[-1]) == (0.0, 1.0)
    assert np.trapezoid(true_rate, false_rate) == pytest.approx(disc.auroc(event, score), abs=0.01)
    recall, precision = disc.precision_recall_points(event, score)
    assert precision[-1] == pytest.approx(event.mean(), abs=0.01)
    assert recall[-1] == 1.0


def clustered(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = generator.integers(1, 21, 300)
    subject = np.repeat(np.arange(300), size)
    shared = generator.normal(0, 1, 300)[subject]
    event = generator.random(len(subject)) < 1 / (1 + np.exp(2 - 1.2 * shared))
    return event, shared + generator.normal(0, 0.8, len(subject)), subject


@pytest.mark.slow
def test_clustered_intervals_cover_what_they_promise() -> None:
    generator = np.random.default_rng(9)
    big = [clustered(generator) for _ in range(200)]
    event, score = (np.concatenate([b[i] for b in big]) for i in (0, 1))
    area, precision = disc.auroc(event, score), disc.average_precision(event, score)
    hits = {"auroc": 0, "average_precision": 0}
    n = 400
    for _ in range(n):
        event, score, subject = clustered(generator)
        cluster, k = cluster_index(subject)
        found = disc.clustered_delong(event, score, cluster, k)
        hits["auroc"] += found.lower <= area <= found.upper
        found = disc.average_precision_interval(event, score, cluster, k, n_replicates=200)
        hits["average_precision"] += found.lower <= precision <= found.upper
    assert 0.93 <= hits["auroc"] / n <= 0.975, hits
    assert 0.92 <= hits["average_precision"] / n <= 0.975, hits


@pytest.mark.slow
def test_a_million_predictions_take_about_a_second() -> None:
    generator = np.random.default_rng(10)
    score = generator.random(1_000_000)
    event = generator.random(1_000_000) < score
    cluster, k = cluster_index(generator.integers(0, 100_000, 1_000_000))
    start = time.process_time()
    disc.clustered_delong(event, score, cluster, k)
    assert time.process_time() - start < 3.0
