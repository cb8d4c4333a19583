from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.tokenizer.clinic import SPECS, make_world

from chronoward.tokenizer import Tokenizer, fit

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa


@pytest.fixture(scope="session")
def world() -> tuple[pa.Table, pa.Table, pa.Table]:
    """(events, observation, codes) of 60 subjects."""
    return make_world(60, seed=1)


@pytest.fixture(scope="session")
def tokenizer_of(world: tuple[pa.Table, pa.Table, pa.Table]) -> Callable[[str], Tokenizer]:
    """Fitted tokenizers by the name of their spec."""
    fitted: dict[str, Tokenizer] = {}

    def get(name: str) -> Tokenizer:
        if name not in fitted:
            fitted[name] = fit([world[0]], world[2], SPECS[name])
        return fitted[name]

    return get
