from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.packing.clinic import FIRST, VOCAB_SIZE, make_store

from chronoward.errors import DataError
from chronoward.files import canonical_json
from chronoward.philox import uniforms
from chronoward.population import (
    draw_observation_min,
    draw_prompts,
    observation_curve,
    profile_split,
    prompt_cells,
)

if TYPE_CHECKING:
    from pathlib import Path

YEAR = 365.25 * 1440
N_YEARS, N_AGES = 10, 9


def grammar() -> SimpleNamespace:
    token_class = np.zeros(VOCAB_SIZE, np.uint8)
    for number, first in FIRST.items():
        token_class[first:] = number
    return SimpleNamespace(
        token_class=token_class,
        vocab_size=VOCAB_SIZE,
        prompt_classes=np.array([2, 3, 4, 5], np.uint8),
        age_unknown_id=21,
        age_edge_min=(np.arange(N_AGES) * 10 * YEAR).astype(np.int32),
        age_token=np.arange(12, 12 + N_AGES, dtype=np.int32),
    )


def draw_population(n: int, seed: int) -> np.ndarray:
    u = uniforms(seed, 4 * n).reshape(n, 4)
    year = 2 + (u[:, 0] * N_YEARS).astype(np.int32)
    age = 12 + np.minimum((u[:, 1] ** 2 * N_AGES), N_AGES - 1).astype(np.int32)
    sex = 22 + (u[:, 2] < 0.4)
    race = np.full(n, 24)
    return np.stack([year, age, sex, race], axis=1).astype(np.int32)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 400), st.integers(0, 2**31))
def test_every_cell_holds_eleven_subjects_and_each_subject_is_in_one(n: int, seed: int) -> None:
    cells = prompt_cells(draw_population(n, seed), grammar())
    assert all(cell["n"] >= 11 for cell in cells)
    assert sum(cell["n"] for cell in cells) == (n if n >= 11 else 0)
    assert all(tokens for cell in cells for tokens in cell["tokens"])


def test_cells_follow_the_joint_closely_where_there_are_many_subjects() -> None:
    prompts = draw_population(20_000, 3)
    # a dependence that marginals would lose: the old come late
    prompts[prompts[:, 1] >= 17, 0] = 11
    made = {"fields": ["year", "age", "sex", "race"], "cells": prompt_cells(prompts, grammar())}
    drawn = draw_prompts(made, uniforms(5, 5 * 20_000).reshape(-1, 5))
    for column in range(4):
        for token in np.unique(prompts[:, column]):
            share = (prompts[:, column] == token).mean()
            assert abs((drawn[:, column] == token).mean() - share) < 0.03
    assert (drawn[drawn[:, 1] >= 17, 0] == 11).mean() > 0.95


def test_a_rare_category_is_never_published() -> None:
    prompts = draw_population(500, 1)
    prompts[:3, 2] = 23
    prompts[3:, 2] = 22
    cells = prompt_cells(prompts, grammar())
    assert {token for cell in cells for token in cell["tokens"][2]} == {22}
    assert sum(cell["n"] for cell in cells) == 500


def test_rare_categories_that_are_enough_together_are_pooled() -> None:
    prompts = draw_population(500, 1)
    prompts[:, 2] = 22
    prompts[:8, 2] = 23
    rules = grammar()
    rules.token_class[24] = 4  # a third sex token
    rules.prompt_classes = rules.prompt_classes[:3]
    prompts[8:16, 2] = 24
    cells = prompt_cells(prompts[:, :3], rules)
    assert [c["n"] for c in cells if c["tokens"][2] == [23, 24]] == [16]


def test_fewer_than_eleven_subjects_give_no_cells_and_no_draws() -> None:
    assert prompt_cells(draw_population(10, 1), grammar()) == []
    with pytest.raises(DataError, match="no prompt cells"):
        draw_prompts({"fields": ["year"], "cells": []}, np.zeros((1, 2)))


def test_uniforms_of_another_width_are_refused() -> None:
    cells = prompt_cells(draw_population(30, 1), grammar())
    with pytest.raises(ValueError, match=r"shape \(n, 5\)"):
        draw_prompts({"fields": ["a"] * 4, "cells": cells}, np.zeros((1, 2)))


def test_the_curve_is_kaplan_and_meiers() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 4000, 3000)
    ended = rng.random(3000) < 0.7
    curve = observation_curve(lengths, ended)
    assert len(curve["minutes"]) <= 200
    for minute, survival in zip(curve["minutes"], curve["survival"], strict=True):
        times = np.unique(lengths[ended & (lengths <= minute)])
        factors = [1 - (ended & (lengths == t)).sum() / (lengths >= t).sum() for t in times]
        assert survival == pytest.approx(np.prod(factors), rel=1e-9)


def test_each_step_of_the_curve_stands_for_eleven_ends() -> None:
    lengths = np.arange(100)
    ended = np.arange(100) % 2 == 0
    curve = observation_curve(lengths, ended)
    edges = [-1, *curve["minutes"]]
    for low, high in itertools.pairwise(edges):
        assert (ended & (lengths > low) & (lengths <= high)).sum() >= 11
    assert observation_curve(lengths[:20], ended[:20])["minutes"] == []


def test_death_lengthens_and_never_ends_observation() -> None:
    lengths = np.concatenate([np.full(500, 1000), np.full(500, 10)])
    ended = np.concatenate([np.ones(500, bool), np.zeros(500, bool)])
    curve = observation_curve(lengths, ended)
    assert curve["minutes"] == [1000]
    assert curve["survival"] == [0.0]


def test_drawn_lengths_follow_the_curve_of_the_age_band() -> None:
    n = 4000
    prompts = draw_population(n, 9)
    is_old = prompts[:, 1] >= 19
    lengths = np.where(is_old, 1000, 50_000) + (uniforms(8, n) * 1000).astype(np.int64)
    curves = [
        {"age_tokens": [19, 20], **observation_curve(lengths[is_old], np.ones(is_old.sum(), bool))}
    ]
    made = {
        "fields": ["year", "age", "sex", "race"],
        "observation": {"all": observation_curve(lengths, np.ones(n, bool)), "by_age": curves},
    }
    drawn = draw_observation_min(made, prompts, uniforms(4, n))
    assert drawn[is_old].max() <= 2000
    assert np.median(drawn[is_old]) == pytest.approx(1500, abs=60)
    assert (drawn[~is_old] > 3000).mean() > 0.8  # the curve of all
    with pytest.raises(DataError, match="no curve"):
        draw_observation_min(
            {"observation": {"all": {"minutes": []}, "by_age": []}}, prompts, uniforms(4, n)
        )


def test_a_profile_is_read_from_the_store_and_is_json(tmp_path: Path) -> None:
    split = make_store(tmp_path / "store", 200).split("train")
    made = profile_split(split, grammar())
    assert made == json.loads(canonical_json(made))
    assert made["n_subjects"] == 200
    assert made["fields"] == ["year", "age", "sex", "race"]
    assert sum(cell["n"] for cell in made["cells"]) == 200
    died = [101 in split.timeline(i).token_id for i in range(200)]
    assert made["observation"]["all"]["n_ended"] == 200 - sum(died)
    lengths = []
    for i in range(200):
        timeline = split.timeline(i)
        end = timeline.obs_end_min[-1]
        if died[i]:
            end = timeline.time_min[timeline.token_id == 101][0]
        lengths.append(end - timeline.time_min[0])
    expected = observation_curve(np.array(lengths, np.int64), ~np.array(died))
    assert made["observation"]["all"] == expected
