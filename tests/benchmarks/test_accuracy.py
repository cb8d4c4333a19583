from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from benchmarks.censoring import mean_risk_line
from benchmarks.clinic_study import Study, check_same_clinic, check_truth
from benchmarks.gap_shuffle import gap_order, shuffle_gaps, shuffle_store
from benchmarks.judged import Judged
from benchmarks.record import line
from benchmarks.registry import LONG, MODULES, PARTS, measure
from tests.tokenizer.clinic import SPECS, make_world

from benchmarks import accuracy
from chronoward.data.simulate import draw_config, simulate
from chronoward.errors import StateError
from chronoward.store import StoreWriter, TokenStore
from chronoward.tokenize.check import verify
from chronoward.tokenizer import TokenBatch, TokenClass, Tokenizer, fit

if TYPE_CHECKING:
    from pathlib import Path

GAPS = (TokenClass.GAP, TokenClass.GAP_REPEAT)


@pytest.fixture(scope="module", params=["compact", "compact-ethos-none"])
def encoded(request: pytest.FixtureRequest) -> tuple[Tokenizer, TokenBatch]:
    """A tokenizer and 60 timelines; those of `ethos` have gaps of several tokens."""
    events, observation, codes = make_world(60, seed=3)
    tokenizer = fit([events], codes, SPECS[request.param])
    return tokenizer, tokenizer.encode(events, observation, codes=codes)


def timelines(batch: TokenBatch) -> list[slice]:
    return [slice(a, b) for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]


def test_shuffled_gaps_leave_timelines_grammatical(encoded: tuple[Tokenizer, TokenBatch]) -> None:
    tokenizer, batch = encoded
    shuffled = shuffle_gaps(batch, tokenizer.grammar(), seed=1)
    assert tokenizer.validate(shuffled) == []
    assert not np.array_equal(shuffled.token_id, batch.token_id)
    assert shuffled.token_id.dtype == shuffled.time_min.dtype == np.int32
    assert shuffled.event_min.dtype == np.int32
    assert (shuffled.event_min <= shuffled.time_min).all()


def test_shuffled_gaps_keep_everything_but_where_they_are(
    encoded: tuple[Tokenizer, TokenBatch],
) -> None:
    tokenizer, batch = encoded
    classes = tokenizer.token_class
    shuffled = shuffle_gaps(batch, tokenizer.grammar(), seed=1)
    for part in timelines(batch):
        old, new = batch.token_id[part], shuffled.token_id[part]
        was_gap, is_gap = np.isin(classes[old], GAPS), np.isin(classes[new], GAPS)
        assert np.array_equal(old[~was_gap], new[~is_gap])  # codes and their order
        assert np.array_equal(batch.n_prior[part][~was_gap], shuffled.n_prior[part][~is_gap])
        minutes = [
            np.diff(b.time_min[part], prepend=b.time_min[part][:1]) for b in (batch, shuffled)
        ]
        pairs = [
            sorted(zip(tokens[gap].tolist(), moved[gap].tolist(), strict=True))
            for tokens, gap, moved in ((old, was_gap, minutes[0]), (new, is_gap, minutes[1]))
        ]
        assert pairs[0] == pairs[1]  # each gap with its own minutes
        assert np.array_equal(minutes[0][~was_gap], minutes[1][~is_gap])
        n = len(tokenizer.grammar().prompt_classes) + 1  # the wait for the first visit stays
        assert not was_gap[n - 1 : n].any() or np.array_equal(old[:n], new[:n])
        if part.stop > part.start:
            ends = [part.start, part.stop - 1]
            assert np.array_equal(batch.time_min[ends], shuffled.time_min[ends])


def test_a_gap_of_several_tokens_moves_whole() -> None:
    is_gap = np.array([0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0], np.bool_)
    orders = [gap_order(is_gap, key).tolist() for key in range(20)]
    runs = {(2, 3), (5,), (8, 9, 10)}
    for order in orders:
        assert sorted(order) == list(range(12))
        assert [i for i in order if not is_gap[i]] == [0, 1, 4, 6, 7, 11]
        text = ",".join(map(str, order))
        assert all(",".join(map(str, run)) in text for run in runs)
    assert len({tuple(order) for order in orders}) == 6  # every order of three gaps comes up


def test_gaps_that_count_dates_are_refused() -> None:
    events, observation, codes = make_world(20, seed=3)
    tokenizer = fit([events], codes, SPECS["cehr"])
    batch = tokenizer.encode(events, observation, codes=codes)
    with pytest.raises(ValueError, match="count dates"):
        shuffle_gaps(batch, tokenizer.grammar(), seed=1)


def test_a_shuffled_store_is_a_whole_store_with_the_same_splits(
    encoded: tuple[Tokenizer, TokenBatch], tmp_path: Path
) -> None:
    tokenizer, batch = encoded
    source = tmp_path / "tokens"
    source.mkdir()
    tokenizer.save(source / "tokenizer.json")
    writer = StoreWriter(source, tokenizer_hash=tokenizer.hash)
    writer.add(batch, (np.arange(len(batch)) % 3).astype(np.uint8))
    writer.finish(calendar="real", observation="by hand", split_rule="hash", counts={})
    shuffled = shuffle_store(source, tmp_path / "shuffled", 7)
    assert verify(tmp_path / "shuffled").n_tokens == batch.n_tokens
    for name in ("train", "tuning", "held_out"):
        before, after = TokenStore.open(source).split(name), shuffled.split(name)
        assert np.array_equal(before.subject_id, after.subject_id)
        assert np.array_equal(before.offsets, after.offsets)


def judged(score: str, n: int = 400, outcome: str = "sim_spontaneous") -> Judged:
    """Rows whose age and sex tell half of what the truth knows."""
    rng = np.random.default_rng(5)
    age, rest = rng.normal(size=(2, n))
    truth = 1 / (1 + np.exp(2 - age - rest))
    scores = {
        "truth": truth,
        "age_sex": 1 / (1 + np.exp(2 - age)),
        "double": np.minimum(2 * truth, 1.0),
        "noise": rng.random(n),
    }
    return Judged(
        outcome,
        np.arange(n),
        scores[score],
        truth,
        scores["age_sex"],
        rng.random(n) < truth,
        facts={"oracle": 0.8, "trivial": 0.7, "model": "m", "seconds_train": 1.0}
        | {"seconds_score": 1.0, "n_training_events": 500},
        seconds=2.0,
    )


def test_weighted_auroc_against_the_truth_is_the_double_loop() -> None:
    rng = np.random.default_rng(1)
    truth, score = rng.random(40), rng.integers(0, 6, 40) / 6.0
    weight = rng.integers(0, 4, 40).astype(np.float64)
    won = total = 0.0
    for i in range(40):
        for j in range(40):
            pair = weight[i] * weight[j] * truth[i] * (1 - truth[j])
            won += pair * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
            total += pair
    rows = Judged("x", np.arange(40), score, truth, score, truth > 0.5)
    assert rows.auroc(score, weight) == pytest.approx(won / total, abs=1e-12)


def test_gain_share_is_one_for_the_truth_and_zero_for_age_and_sex() -> None:
    assert accuracy.gain_share(judged("truth")) == pytest.approx(1.0)
    assert accuracy.gain_share(judged("age_sex")) == pytest.approx(0.0)
    assert accuracy.gain_line(judged("truth")).extra["met"]
    assert not accuracy.gain_line(judged("age_sex")).extra["met"]


def test_risks_twice_too_high_have_an_observed_expected_near_a_half() -> None:
    found = accuracy.oe_line(judged("double"))
    assert found.value == pytest.approx(0.52, abs=0.04)
    low, high = found.extra["interval"]
    assert low < found.value < high
    assert not found.extra["met"]
    assert accuracy.oe_line(judged("truth")).extra["met"]


def test_a_score_that_lost_what_it_knew_falls_by_an_interval_above_zero() -> None:
    assert accuracy.paired_auroc_line(judged("truth"), judged("age_sex")).extra["met"]
    assert not accuracy.paired_auroc_line(judged("truth"), judged("truth")).extra["met"]


def test_mean_risks_are_compared_on_the_same_rows() -> None:
    found = mean_risk_line([judged("truth")], [judged("double")])
    assert found.value == pytest.approx(1.9, abs=0.15)
    assert not found.extra["met"]
    same = mean_risk_line([judged("truth")], [judged("truth")])
    assert same.extra["met"]
    assert same.extra["se_between_runs"] is None  # single runs do not tell
    assert same.extra["interval"] == [None, None]


def runs_of(*factors: float) -> list[Judged]:
    """The same rows as runs score them whose risks differ by a factor."""
    rows = judged("truth")
    return [replace(rows, risk=factor * rows.risk) for factor in factors]


def test_runs_of_one_kind_that_disagree_widen_the_interval_of_mean_risks() -> None:
    found = [
        mean_risk_line(runs_of(*light), runs_of(*heavy))
        for light, heavy in (((1.0, 1.0), (1.0, 1.0)), ((0.5, 0.6), (0.7, 0.5)))
    ]
    assert found[0].value == pytest.approx(1.0)
    ratio = math.sqrt(0.7 * 0.5 / (0.5 * 0.6))
    assert found[1].value == pytest.approx(ratio)
    spreads = [math.log(0.6 / 0.5) ** 2 / 4, math.log(0.7 / 0.5) ** 2 / 4]  # variances of means
    assert found[1].extra["se_between_runs"] == pytest.approx(
        math.sqrt(sum(spreads)) * 4.302653 / 1.959964, rel=1e-4
    )
    low, high = found[1].extra["interval"]
    assert math.log(high / low) / 2 == pytest.approx(4.302653 * math.sqrt(sum(spreads)), rel=0.05)
    assert found[1].extra["mean_risks"] == [
        pytest.approx(f * judged("truth").risk.mean()) for f in (0.5, 0.6)
    ]


def test_corrected_risks_stand_beside_what_they_were() -> None:
    before = judged("truth")
    after = replace(before, risk=1 - (1 - before.risk) ** 0.7, exponent=0.7)
    np.testing.assert_allclose(after.uncorrected, before.risk, rtol=1e-9)
    line = mean_risk_line([before, before], [after, after])
    assert line.value == pytest.approx(after.risk.mean() / before.risk.mean())
    assert line.extra["uncorrected"] == pytest.approx(1.0)
    assert (line.extra["exponents"], line.extra["exponents_heavy"]) == ([1.0, 1.0], [0.7, 0.7])
    oe = accuracy.oe_line(after)
    assert oe.extra["uncorrected_oe"] == pytest.approx(1.0)
    assert oe.value > 1.2


def test_few_events_to_learn_from_widen_the_interval_of_mean_risks() -> None:
    few = runs_of(1.0, 1.1)
    for run in few:
        run.facts["n_training_events"] = 50
    intervals = [
        mean_risk_line(runs_of(1.0, 1.1), heavy).extra["interval"]
        for heavy in (runs_of(1.0, 1.1), [replace(r, facts=few[0].facts) for r in few])
    ]
    assert intervals[1][0] < intervals[0][0] < intervals[0][1] < intervals[1][1]
    half = math.log(intervals[1][1] / intervals[1][0]) / 2
    assert half > 1.96 * math.sqrt(1 / 50 - 1 / 500)


def test_every_line_has_the_oracle_and_the_trivial_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.record.gemm_peaks", lambda: {"fp32": 1.0, "bf16": None})
    rows, other = judged("truth"), judged("age_sex")
    found = [accuracy.auroc_line(rows), accuracy.gain_line(rows), accuracy.oe_line(rows)]
    found += [accuracy.paired_auroc_line(rows, other), mean_risk_line([rows], [other])]
    found.append(accuracy.auroc_line(judged("noise", outcome="sim_independent")))
    for measurement in found:
        record = json.loads(line(measurement))
        assert record["id"] == "R5"
        assert record["metric"].endswith(("sim_spontaneous", "sim_independent"))
        assert {"oracle", "trivial", "interval"} <= set(record)


def test_the_independent_outcome_is_judged_by_what_a_study_of_its_size_can_tell() -> None:
    rows = replace(judged("truth"), outcome="sim_independent")
    assert accuracy.auroc_line(rows).extra["met"]
    reversed_ranks = accuracy.auroc_line(replace(rows, risk=1.0 - rows.risk))
    assert not reversed_ranks.extra["met"]
    few = replace(rows, truth=rows.truth / 50.0)
    wide, narrow = accuracy.redrawn_auroc(few), accuracy.redrawn_auroc(rows)
    assert wide.upper - wide.lower > 2 * (narrow.upper - narrow.lower)
    assert narrow.lower < rows.auroc(rows.risk) < narrow.upper


def test_the_long_measure_and_its_parts_are_registered_and_take_a_folder() -> None:
    assert set(LONG) == {"R5", *(part for part in PARTS if part.startswith("R5."))}
    assert "R5" in MODULES
    assert all(callable(measure(name)) for name in LONG)


def test_a_step_is_done_once_and_says_when_it_was_interrupted(tmp_path: Path) -> None:
    def crash() -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "study"
    first = Study(folder, 1, "abc", accuracy.QUICK)
    with pytest.raises(KeyboardInterrupt):
        first.step("train", crash)
    calls: list[int] = []
    second = Study(folder, 1, "abc", accuracy.QUICK)
    for _ in range(2):
        second.step("train", lambda: calls.append(1))
    assert (calls, second.interrupted, second.reused) == ([1], ["train"], [])
    third = Study(folder, 1, "abc", accuracy.QUICK)
    third.step("train", lambda: calls.append(2))
    assert (calls, third.interrupted, third.reused) == ([1], ["train"], ["train"])
    with pytest.raises(StateError, match="another commit or size"):
        Study(folder, 2, "abc", accuracy.QUICK)


def test_two_seeds_of_one_configuration_are_one_clinic(tmp_path: Path) -> None:
    for name, seed, config in (("a", 1, 4), ("b", 2, 4), ("c", 2, 5)):
        simulate(tmp_path / name, 30, seed, draw_config(config))
    check_same_clinic(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError, match="not two draws of one clinic"):
        check_same_clinic(tmp_path / "a", tmp_path / "c")
    with pytest.raises(AssertionError, match="not two draws of one clinic"):
        check_same_clinic(tmp_path / "a", tmp_path / "a")


def test_a_truth_that_the_outcomes_contradict_stops_the_measurement() -> None:
    p = np.full(1000, 0.1)
    for share, holds in ((0.1, True), (0.2, False)):
        truth = pa.table({"probability": p, "happened": np.arange(1000) < 1000 * share})
        if holds:
            check_truth("x", truth)
        else:
            with pytest.raises(AssertionError, match="expected events"):
                check_truth("x", truth)
