"""Batches as meds-torch-data has them, against a slow loop over the store's timelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.packing.clinic import make_token_store

from chronoward import _core
from chronoward.errors import ConfigError, DataError
from chronoward.meds_torch import MedsTorchConfig, MedsTorchLoader
from chronoward.store.arrays import split_arrays
from chronoward.tokenizer import TokenClass
from chronoward.tokenizer.values import draw

if TYPE_CHECKING:
    from chronoward.meds_torch import MedsTorchBatch
    from chronoward.store import StoreSplit, Timeline
    from chronoward.tokenizer import Tokenizer

L = 40
FIELDS = ("code", "numeric_value", "numeric_value_mask", "time_delta_days")


@pytest.fixture(
    scope="module", params=["compact", "compact-split-day", "compact-ethos-none", "events"]
)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StoreSplit, Tokenizer]:
    store, tokenizer = make_token_store(tmp_path_factory.mktemp("made") / "tokens", request.param)
    return store.split("train"), tokenizer


def slow_number(tokenizer: Tokenizer, timeline: Timeline, p: int) -> float | None:
    """Median of the value's bin in standard deviations from the code's mean, on a fine grid."""
    token = tokenizer.vocabulary.tokens[timeline.token_id[p]]
    entry = token.entry
    if token.token_class == TokenClass.VALUE:
        entry = tokenizer.vocabulary.tokens[timeline.token_id[p - 1]].entry
    if token.bin < 0 or not tokenizer.codes[entry].quantiles:
        return None
    quantiles = tokenizer.codes[entry].quantiles
    grid = (np.arange(500) + 0.5) / 500
    points = np.array([draw(knots, u) for knots in quantiles for u in grid])
    knots = quantiles[min(token.bin, len(quantiles) - 1)]
    return float((draw(knots, 0.5) - points.mean()) / (points.std() or 1.0))


Row = list[tuple[int, float | None, float]]


def slow_part(tokenizer: Tokenizer, timeline: Timeline, begin: int, end: int) -> Row:
    """(code, number, days since the token before, 0 behind the prompt) of each token."""
    times = timeline.time_min.astype(np.int64)
    n_prompt = len(tokenizer.grammar().prompt_classes)
    return [
        (
            int(timeline.token_id[p]),
            slow_number(tokenizer, timeline, p),
            float(times[p] - times[p - 1]) / 1440 if p > n_prompt else 0.0,
        )
        for p in range(begin, end)
    ]


def n_known(tokenizer: Tokenizer, timeline: Timeline) -> int:
    n = len(timeline.token_id)
    return n - int(timeline.token_id[-1] == tokenizer.grammar().end_id)


def usable(split: StoreSplit, tokenizer: Tokenizer) -> list[Timeline]:
    n_prompt = len(tokenizer.grammar().prompt_classes)
    timelines = [split.timeline(i) for i in range(len(split))]
    return [t for t in timelines if n_known(tokenizer, t) > n_prompt]


def rows_of(loader: MedsTorchLoader, epoch: int = 0) -> list[dict[str, torch.Tensor]]:
    return [
        {name: batch[name][r] for name in batch.keys()}  # noqa: SIM118
        for batch in loader.batches(epoch)
        for r in range(batch.batch_size)
    ]


def check_row(row: dict[str, torch.Tensor], expected: Row, *, left: bool = False) -> None:
    n_padding = len(row["code"]) - len(expected)
    where = slice(n_padding, None) if left else slice(0, len(expected))
    assert row["code"][where].tolist() == [code for code, _, _ in expected]
    assert row["numeric_value_mask"][where].tolist() == [v is not None for _, v, _ in expected]
    numbers = [0.0 if v is None else v for _, v, _ in expected]
    np.testing.assert_allclose(row["numeric_value"][where], numbers, atol=2e-3, rtol=2e-3)
    days = np.array([d for _, _, d in expected], np.float32)
    np.testing.assert_array_equal(row["time_delta_days"][where], days)
    for name in FIELDS:
        assert int((row[name] != 0).sum()) == int((row[name][where] != 0).sum()), "padding is zero"


@pytest.mark.parametrize("sampling", ["from_start", "to_end"])
def test_rows_are_what_a_slow_loop_over_the_timelines_gives(
    made: tuple[StoreSplit, Tokenizer], sampling: Any
) -> None:
    split, tokenizer = made
    config = MedsTorchConfig(
        max_seq_len=L, seq_sampling_strategy=sampling, static_inclusion_mode="omit"
    )
    loader = MedsTorchLoader(split, tokenizer, config, batch_size=7, shuffle=False)
    timelines, rows = usable(split, tokenizer), rows_of(loader)
    n_prompt = len(tokenizer.grammar().prompt_classes)
    assert len(rows) == len(timelines) == loader.counts["rows"]
    assert loader.counts["before_first_event"] == len(split) - len(timelines)
    n_numbers = 0
    for row, timeline in zip(rows, timelines, strict=True):
        known = n_known(tokenizer, timeline)
        begin = n_prompt if sampling == "from_start" else max(n_prompt, known - L)
        expected = slow_part(tokenizer, timeline, begin, min(begin + L, known))
        check_row(row, expected)
        n_numbers += sum(v is not None for _, v, _ in expected)
    assert n_numbers > 50 or tokenizer.spec.values == "none"


def test_a_random_part_is_one_run_of_the_timeline_and_differs_between_epochs(
    made: tuple[StoreSplit, Tokenizer],
) -> None:
    split, tokenizer = made
    config = MedsTorchConfig(max_seq_len=L, static_inclusion_mode="omit")
    loader = MedsTorchLoader(split, tokenizer, config, batch_size=7, shuffle=False, seed=3)
    n_prompt = len(tokenizer.grammar().prompt_classes)
    begins: list[list[int]] = []
    for epoch in (0, 1):
        begins.append([])
        rows = rows_of(loader, epoch)
        for row, timeline in zip(rows, usable(split, tokenizer), strict=True):
            known = n_known(tokenizer, timeline)
            n = min(L, known - n_prompt)
            code = row["code"][:n].numpy()
            places = [
                b
                for b in range(n_prompt, known - n + 1)
                if np.array_equal(timeline.token_id[b : b + n], code)
            ]
            assert places
            begins[-1].append(places[0])
    assert begins[0] != begins[1]
    assert min(begins[0]) == n_prompt


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_prompt_is_static_data_and_moves_on_with_the_row(
    made: tuple[StoreSplit, Tokenizer], side: Any
) -> None:
    split, tokenizer = made
    grammar = tokenizer.grammar()
    n_prompt = len(grammar.prompt_classes)
    sex, race = (list(grammar.prompt_classes).index(c) for c in (TokenClass.SEX, TokenClass.RACE))
    loaders = {
        mode: MedsTorchLoader(
            split,
            tokenizer,
            MedsTorchConfig(
                max_seq_len=L,
                seq_sampling_strategy="to_end",
                static_inclusion_mode=mode,
                padding_side=side,
            ),
            batch_size=5,
            shuffle=False,
        )
        for mode in ("include", "prepend")
    }
    n_late = 0
    included, prepended = (rows_of(loader) for loader in loaders.values())
    for row, other, timeline in zip(included, prepended, usable(split, tokenizer), strict=True):
        known, room = n_known(tokenizer, timeline), L - n_prompt - 1
        static = row["static_code"].tolist()
        begin = max(n_prompt, known - L)
        late = begin > n_prompt
        n_late += late
        prompt = timeline.token_id[:n_prompt].tolist()
        if late:
            prompt = tokenizer.prompt_at(
                timeline.origin_us,
                int(timeline.time_min[begin]),
                prompt[sex],
                prompt[race],
                has_birth=grammar.age_unknown_id not in prompt,
            ).tolist()
        assert static == [*prompt, grammar.continued_id if late else 0]
        assert not row["static_numeric_value_mask"].any()
        assert not row["static_numeric_value"].any()
        check_row(row, slow_part(tokenizer, timeline, begin, known), left=side == "left")
        head = n_prompt + (known - n_prompt > room)
        mask, used = other["static_mask"], other["code"] != 0
        assert int(mask.sum()) == head
        first = int(used.nonzero()[0])
        assert mask[first : first + head].all()
        body = other["code"][first + head :][: min(room, known - n_prompt)]
        assert body.tolist() == timeline.token_id[max(n_prompt, known - room) : known].tolist()
        assert int(used.sum()) == head + len(body)
        assert (first == 0) if side == "right" else bool(used[-1])
    assert n_late > 3


def test_labels_give_what_was_known_at_each_prediction_time(
    made: tuple[StoreSplit, Tokenizer],
) -> None:
    split, tokenizer = made
    n_prompt = len(tokenizer.grammar().prompt_classes)
    subject, time_us, label, expected = [], [], [], []
    for i, timeline in enumerate(usable(split, tokenizer)):
        at = int(timeline.time_min[len(timeline.time_min) // 2])
        for minutes in (at, at - 1):
            subject.append(timeline.subject_id)
            time_us.append(timeline.origin_us + minutes * 60_000_000 + 59_999_999)
            label.append(i % 3 == 0)
            n = min(int((timeline.time_min <= minutes).sum()), n_known(tokenizer, timeline))
            if n > n_prompt:
                expected.append((timeline, max(n_prompt, n - L), n, i % 3 == 0))
    labels = pa.table(
        {
            "subject_id": [*subject, 10**12],
            "prediction_time": pa.array([*time_us, 0]).cast(pa.timestamp("us")),
            "boolean_value": [*label, True],
        }
    )
    config = MedsTorchConfig(
        max_seq_len=L, seq_sampling_strategy="to_end", static_inclusion_mode="omit"
    )
    loader = MedsTorchLoader(split, tokenizer, config, batch_size=9, shuffle=False, labels=labels)
    rows = rows_of(loader)
    assert loader.counts == {
        "rows": len(expected),
        "other_split": 1,
        "before_first_event": len(subject) - len(expected),
    }
    for row, (timeline, begin, end, value) in zip(rows, expected, strict=True):
        check_row(row, slow_part(tokenizer, timeline, begin, end))
        assert bool(row["boolean_value"]) is value


def same(a: MedsTorchBatch, b: MedsTorchBatch) -> bool:
    return list(a.keys()) == list(b.keys()) and all(
        torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True)
    )


def test_a_batch_is_a_function_of_seed_epoch_and_step(made: tuple[StoreSplit, Tokenizer]) -> None:
    split, tokenizer = made
    config = MedsTorchConfig(max_seq_len=L)
    loader = MedsTorchLoader(split, tokenizer, config, batch_size=6, seed=4)
    epochs = [list(loader), list(loader)]
    assert loader.epoch == 2
    assert len(epochs[0]) == len(loader)
    again = MedsTorchLoader(split, tokenizer, config, batch_size=6, seed=4)
    assert same(again.batch(1, 2), epochs[1][2])
    assert all(same(a, b) for a, b in zip(again.batches(1, 2), epochs[1][2:], strict=True))
    assert not same(epochs[0][0], epochs[1][0])
    with pytest.raises(IndexError, match="no batch"):
        again.batch(0, len(again))


def test_a_batch_has_the_types_and_properties_of_theirs(
    made: tuple[StoreSplit, Tokenizer],
) -> None:
    split, tokenizer = made
    batch = MedsTorchLoader(split, tokenizer, MedsTorchConfig(max_seq_len=L), batch_size=6).batch(
        0, 0
    )
    types = {name: value.dtype for name, value in batch.items()}
    assert types == {
        "code": torch.int64,
        "numeric_value": torch.float32,
        "numeric_value_mask": torch.bool,
        "time_delta_days": torch.float32,
        "static_code": torch.int64,
        "static_numeric_value": torch.float32,
        "static_numeric_value_mask": torch.bool,
    }
    assert (batch.mode, batch.static_inclusion_mode, batch.has_labels) == ("SM", "include", False)
    assert batch.batch_size == 6
    assert batch.max_measurements_per_subject == batch["code"].shape[1] <= L
    n_prompt = len(tokenizer.grammar().prompt_classes)
    assert batch.max_static_measurements_per_subject == n_prompt + 1
    assert batch.max_events_per_subject is batch.max_measurements_per_event is batch.event_mask


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_seq_len": 0}, "max_seq_len must be positive"),
        ({"seq_sampling_strategy": "step_through"}, "seq_sampling_strategy must be one of random"),
        ({"static_inclusion_mode": "none"}, "static_inclusion_mode must be one of include"),
        ({"padding_side": "top"}, "padding_side must be one of right"),
    ],
)
def test_a_config_refuses_what_it_does_not_know(changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MedsTorchConfig(**({"max_seq_len": 4} | changes))


def test_a_loader_refuses_what_it_cannot_do(made: tuple[StoreSplit, Tokenizer]) -> None:
    split, tokenizer = made
    config = MedsTorchConfig(max_seq_len=4)
    to_end = MedsTorchConfig(max_seq_len=4, seq_sampling_strategy="to_end")
    good = {
        "subject_id": pa.array([1]),
        "prediction_time": pa.array([1]).cast(pa.timestamp("us")),
        "boolean_value": pa.array([True]),
    }
    labels = pa.table(good)
    prepend = MedsTorchConfig(max_seq_len=4, static_inclusion_mode="prepend")
    with pytest.raises(ConfigError, match="batch_size must be positive"):
        MedsTorchLoader(split, tokenizer, config, batch_size=0)
    with pytest.raises(ConfigError, match="max_seq_len must be at least"):
        MedsTorchLoader(split, tokenizer, prepend, batch_size=1)
    with pytest.raises(ConfigError, match="labels need"):
        MedsTorchLoader(split, tokenizer, config, batch_size=1, labels=labels)
    for bad, message in (
        (labels.drop_columns(["boolean_value"]), "no column boolean_value"),
        (pa.table(good | {"boolean_value": pa.array([None], pa.bool_())}), "has 1 nulls"),
        (pa.table(good | {"prediction_time": pa.array(["soon"])}), "MEDS' types"),
    ):
        with pytest.raises(DataError, match=message):
            MedsTorchLoader(split, tokenizer, to_end, batch_size=1, labels=bad)


def test_the_core_refuses_slices_that_do_not_fit(made: tuple[StoreSplit, Tokenizer]) -> None:
    split, _ = made
    one, none = np.ones(1, np.int64), np.zeros(0, np.int32)

    def values(n: int) -> _core.TokenValueArrays:
        ints = np.zeros(n, np.int32)
        return _core.TokenValueArrays(
            np.zeros(n, np.float32), ints, ints, ints, np.zeros(0, np.float32)
        )

    def fill(**changes: object) -> object:
        arguments: dict[str, object] = {
            "split": split_arrays(split),
            "timeline": 0 * one,
            "begin": 0 * one,
            "length": 2 * one,
            "static_tokens": np.zeros((1, 0), np.int32),
            "values": values(100_000),
            "width": 2,
            "left": False,
        }
        return _core.fill_padded(**(arguments | changes))  # type: ignore[arg-type]

    fill()
    for changes, error, message in (
        ({"length": 10**6 * one}, IndexError, "outside its timeline"),
        ({"begin": -one}, IndexError, "outside its timeline"),
        ({"timeline": 10**6 * one}, IndexError, "split does not have"),
        ({"width": 1}, ValueError, "overflows its row"),
        ({"width": -1}, ValueError, "must not be negative"),
        ({"values": values(1)}, DataError, "outside the vocabulary"),
        ({"length": np.ones(2, np.int64)}, ValueError, "one entry a row"),
        ({"static_tokens": none}, ValueError, "two dimensions"),
    ):
        with pytest.raises(error, match=message):
            fill(**changes)
    with pytest.raises(IndexError, match="position outside"):
        _core.read_heads(split_arrays(split), 0 * one, 10**6 * one, 1)
    ints = np.ones(1, np.int32)
    with pytest.raises(ValueError, match="do not fit their bins"):
        _core.TokenValueArrays(np.zeros(1, np.float32), ints, ints, ints, np.zeros(0, np.float32))
