"""Numbers of distinct values: those of a dictionary, whatever bytes a text has."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chronoward._core import IdNumbering, TextNumbering

# few letters, so that texts come again, are another's beginning, or differ by a NUL at the end
TEXTS = st.lists(st.text(alphabet="ab\0é", max_size=20), max_size=200)


def dictionary(values: list) -> tuple[list[int], list]:
    number = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return [number[value] for value in values], list(number)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=3))
def test_texts_are_numbered_as_they_come(batches: list[list[str]]) -> None:
    numbering, found = TextNumbering(), []
    for batch in batches:
        found += numbering.of_all(batch).tolist()
    asked = [text for batch in batches for text in batch]
    numbers, distinct = dictionary([text for text in asked if text])
    assert [number for number, text in zip(found, asked, strict=True) if text] == numbers
    assert all(number == -1 for number, text in zip(found, asked, strict=True) if not text)
    assert numbering.texts() == distinct


def test_many_texts_of_every_length_stay_apart() -> None:
    texts = [str(i) * (1 + i % 5) for i in range(5000)]
    numbering = TextNumbering()
    numbers, distinct = dictionary(texts + texts)
    assert numbering.of_all(texts + texts).tolist() == numbers
    assert numbering.texts() == distinct


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), max_size=200))
def test_ids_are_numbered_as_they_come(ids: list[int]) -> None:
    numbering = IdNumbering()
    numbers, distinct = dictionary(ids)
    assert [numbering.of(value) for value in ids] == numbers
    assert list(numbering.values()) == distinct
