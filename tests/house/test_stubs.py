from __future__ import annotations

from tests.house.stubs import difference


def test_the_stub_of_the_core_is_up_to_date() -> None:
    text = difference()
    assert not text, f"run `make stubs`\n{text}"
