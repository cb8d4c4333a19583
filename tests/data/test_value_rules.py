"""What the core counts of units and texts of a MEDS source, and what is decided by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from chronoward.data.config import IngestConfig
from chronoward.data.meds_rows import NONE, Numbering, Numberings
from chronoward.data.meds_tables import make_mending
from chronoward.data.value_rules import ValueRules

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward._core import MedsMending

    Columns = dict[str, NDArray[Any]]
    Row = tuple[int, str, float | None, str | None, str | None]

FACTS = {"is_explicit": False, "is_disjoint": True, "has_visits": False, "is_midnight_date": False}
FAR_UNIT = (1 << 24) + 7  # does not fit into the word that most keys are

# subject, code, number, text, unit; a text beside a number is not kept
ROWS: list[Row] = [
    (1, "A", 1.0, None, "mg/dL"),
    (1, "A", 2.0, None, "n/a"),
    (1, "A", 3.0, "green", None),
    (1, "A", None, "red", None),
    (1, "A", None, "red", None),
    (1, "B", None, "red", "mg/dL"),
    (2, "A", float("nan"), "red", None),
    (2, "A", float("inf"), "blue", "kg"),
    (2, "A", None, "positive", None),
    (2, "B", 4.0, "POS", None),
    (3, "A", 5.0, None, "mg/dL"),
    (3, "A", None, "red", None),
    (3, "B", None, "red", None),
    (3, "B", None, "Red", None),
]


class Source:
    """Rows of one table, a minute apart, with their mending."""

    def __init__(self, rows: list[Row]) -> None:
        self.numberings, self.codes = Numberings(), Numbering()
        numbers = self.numberings
        of = {"code": numbers.codes, "text": numbers.texts, "unit": numbers.units}
        names = ("subject", "code", "number", "text", "unit")
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        self.columns: Columns = {
            name: np.array([NONE if x is None else of[name].of(x) for x in columns[name]], np.int32)
            for name in of
        }
        number = columns["number"]
        self.columns["number"] = np.array([0.0 if x is None else x for x in number], np.float64)
        self.columns["has_number"] = np.array([x is not None for x in number], np.uint8)
        self.columns["time"] = np.arange(len(rows), dtype=np.int64) * 60_000_000
        self.subject = np.array(columns["subject"])
        config = IngestConfig()
        self.mending, _ = make_mending(
            numbers, self.codes, config, future_us=None, inpatient_codes=set()
        )
        self.mending.set_facts(**FACTS)

    def given(self, *subjects: int, excluded: int | None = None) -> dict[str, Any]:
        """Rows of subjects as the core takes them."""
        mine = np.isin(self.subject, subjects)
        offsets = np.searchsorted(self.subject[mine], [*subjects, subjects[-1] + 1])
        return {
            "offsets": offsets.astype(np.int64),
            "is_excluded": np.array([s == excluded for s in subjects], np.uint8),
            "rows": {name: column[mine].copy() for name, column in self.columns.items()},
        }

    def texts(self) -> list[tuple[str, str, int, int]]:
        found = self.mending.texts()
        code, text = self.codes.texts, self.numberings.texts.texts
        return [
            (code[c], text[t], n, n_subjects)
            for c, t, n, n_subjects in zip(
                found["code"], found["text"], found["n_events"], found["n_subjects"], strict=True
            )
        ]

    def units(self) -> set[tuple[str, str | None]]:
        found = self.mending.units()
        unit = [*self.numberings.units.texts, None]
        return {
            (self.codes.texts[c], unit[u])
            for c, u in zip(found["code"], found["unit"], strict=True)
        }


def chosen(mending: MedsMending, *codes: int) -> NDArray[np.uint8]:
    flags = np.zeros((3, mending.n_codes), np.uint8)  # visit_occurrence, visit_detail, no table
    flags[:, codes] = 1
    return flags.ravel()


def test_texts_are_counted_by_events_and_subjects_and_words_of_ours_are_not() -> None:
    source = Source(ROWS)
    source.mending.survey(**source.given(1, 2, 3))
    assert sorted(source.texts()) == [
        ("A", "blue", 1, 1),
        ("A", "red", 4, 3),
        ("B", "Red", 1, 1),
        ("B", "red", 2, 2),
    ]


def test_units_are_those_of_finite_numbers() -> None:
    source = Source(ROWS)
    source.mending.survey(**source.given(1, 2, 3))
    assert source.units() == {("A", "mg/dL"), ("A", "n/a"), ("A", None), ("B", None)}


def test_excluded_subjects_are_not_counted() -> None:
    source = Source(ROWS)
    source.mending.survey(**source.given(1, 2, 3, excluded=3))
    assert sorted(source.texts()) == [("A", "blue", 1, 1), ("A", "red", 3, 2), ("B", "red", 1, 1)]


@pytest.mark.parametrize("parts", [((1, 2, 3),), ((3,), (1,), (2,)), ((1, 3), (2,))])
def test_counts_do_not_depend_on_the_calls_that_subjects_come_in(
    parts: tuple[tuple[int, ...], ...],
) -> None:
    whole, cut = Source(ROWS), Source(ROWS)
    whole.mending.survey(**whole.given(1, 2, 3))
    for subjects in parts:
        cut.mending.survey(**cut.given(*subjects))
    for ours, theirs in (
        (cut.mending.texts(), whole.mending.texts()),
        (cut.mending.units(), whole.mending.units()),
    ):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_another_guess_of_the_facts_forgets_what_was_counted() -> None:
    source = Source(ROWS)
    source.mending.survey(**source.given(1, 2, 3))
    once = source.texts()
    source.mending.set_facts(**FACTS)
    assert source.texts() == []
    assert source.units() == set()
    source.mending.survey(**source.given(1, 2, 3))
    assert source.texts() == once


def test_counts_are_exact_for_more_keys_than_a_table_begins_with() -> None:
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for s in range(1, 30):
        for code, text, unit in rng.integers(0, (40, 90, 20), (100, 3)).tolist():
            rows.append((s, f"C{code}", None, f"t{text}", None))
            rows.append((s, f"C{code}", float(s), None, f"u{unit}"))
    source = Source(rows)
    source.mending.survey(**source.given(*range(1, 30)))
    pairs = [(code, text) for _, code, _, text, _ in rows if text is not None]
    of_subject = {(s, code, text) for s, code, _, text, _ in rows if text is not None}
    subjects = [(code, text) for _, code, text in of_subject]
    assert sorted(source.texts()) == sorted(
        (*pair, pairs.count(pair), subjects.count(pair)) for pair in set(pairs)
    )
    assert source.units() == {(code, unit) for _, code, _, _, unit in rows if unit is not None}


def test_a_unit_of_a_large_number_is_one_of_its_own() -> None:
    source = Source(ROWS)
    source.columns["unit"][[0, 10]] = FAR_UNIT
    source.mending.survey(**source.given(1, 2, 3))
    assert np.count_nonzero(source.mending.units()["unit"] == FAR_UNIT) == 1


def test_numbers_of_chosen_codes_come_by_their_units() -> None:
    source = Source(ROWS)
    a = source.codes.of("A")
    found = source.mending.unit_values(**source.given(1, 2, 3), is_chosen=chosen(source.mending, a))
    units = [*source.numberings.units.texts, None]
    ends = found["offsets"].tolist()
    by_unit = {
        units[unit]: found["number"][first:last].tolist()
        for unit, first, last in zip(found["unit"], ends, ends[1:], strict=False)
    }
    assert set(found["code"].tolist()) == {a}
    assert by_unit == {"mg/dL": [1.0, 5.0], "n/a": [2.0], None: [3.0]}


def test_choices_that_do_not_fit_the_rows_are_refused() -> None:
    source = Source(ROWS)
    flags = chosen(source.mending)
    for wrong in (flags[:-1], np.zeros(0, np.uint8), flags[: source.mending.n_codes]):
        with pytest.raises(ValueError, match="is_chosen"):
            source.mending.unit_values(**source.given(1, 2, 3), is_chosen=wrong.copy())


def decided(source: Source, *, top_k: int = 20, min_subjects: int = 1) -> dict[str, Any]:
    """What is decided on a source, by texts."""
    source.mending.survey(**source.given(1, 2, 3))
    units = [(None, text) for text in source.numberings.units.texts]
    values = ValueRules(units, {}, source.codes.texts)
    texts = source.numberings.texts.texts
    values.decide(
        source.mending,
        [source.given(1), source.given(2, 3)],
        n_tables=3,
        texts=texts,
        config=IngestConfig(text_top_k=top_k, text_min_subjects=min_subjects),
        threads=1,
    )
    code, name = source.codes.texts, [*values.units.texts, None]
    found = values.decided()
    return {
        "names": [name[unit] for unit in found["unit_name"]],
        "conversions": {(code[c], name[u], name[to]) for c, u, _, _, to in found["conversions"]},
        "assumed": {code[c]: name[u] for _, c, u in found["assumed"]},
        "kept": sorted((code[c], texts[t]) for _, c, t in found["kept_texts"]),
    }


def test_a_unit_that_says_none_is_none_and_its_numbers_take_the_codes() -> None:
    found = decided(Source(ROWS))
    assert found["names"] == ["mg/dL", None, "kg"]
    assert found["assumed"] == {"A": "mg/dL"}


def test_units_are_compared_after_conversion() -> None:
    code = "LOINC//8310-5"  # body temperature
    rows: list[Row] = [(s, code, 98.6, None, "F") for s in (1, 2)] + [(3, code, 37.0, None, None)]
    found = decided(Source(rows))
    assert [(c, to) for c, _, to in found["conversions"]] == [(code, found["assumed"][code])]


def test_texts_of_one_rank_are_kept_in_order_of_their_bytes() -> None:
    texts = ("é", "b", "Z", "a")
    rows: list[Row] = [(s, "A", None, text, None) for s in (1, 2, 3) for text in texts]
    found = decided(Source(rows), top_k=3, min_subjects=3)
    assert found["kept"] == [("A", "Z"), ("A", "a"), ("A", "b")]


def test_a_rank_is_counted_in_events_and_a_text_of_few_subjects_still_takes_one() -> None:
    rows: list[Row] = [(1, "A", None, "often", None) for _ in range(5)]
    rows += [(s, "A", None, "shared", None) for s in (2, 3)]
    assert decided(Source(rows), top_k=1, min_subjects=2)["kept"] == []
    assert decided(Source(rows), top_k=2, min_subjects=2)["kept"] == [("A", "shared")]
