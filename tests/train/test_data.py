from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from tests.tokenizer.clinic import SPECS, make_world, row, table

from chronoward.loader import Loader
from chronoward.schema import Role, observation_schema
from chronoward.store import StoreWriter, TokenStore
from chronoward.tokenizer import fit
from chronoward.train.data import join_rows, open_intervals

if TYPE_CHECKING:
    from pathlib import Path

DAY_US = 86_400_000_000
BORN_US = -10_000 * DAY_US


@pytest.mark.parametrize(("preset", "n_waits"), [("compact", 1), ("events", 1), ("cehr", 0)])
def test_a_record_without_events_waits_from_the_start_of_observation(
    preset: str, n_waits: int, tmp_path: Path
) -> None:
    events, _, codes = make_world(60, seed=1)
    tokenizer = fit([events], codes, SPECS[preset])
    nobody = table([row(1, Role.BIRTH, "MEDS_BIRTH", BORN_US), row(1, Role.SEX, "Gender/F")])
    period = [[1], [0], [1000 * DAY_US]]
    columns = [
        pa.array(values, field.type)
        for values, field in zip(period, observation_schema(), strict=True)
    ]
    observed = pa.Table.from_arrays(columns, schema=observation_schema())
    batch = tokenizer.encode(nobody, observed, codes=codes)
    folder = tmp_path / "tokens"
    folder.mkdir()
    tokenizer.save(folder / "tokenizer.json")
    writer = StoreWriter(folder, tokenizer_hash=tokenizer.hash)
    writer.add(batch, np.zeros(1, np.uint8))
    writer.finish(calendar="real", observation="none", split_rule="hash", counts={})
    split = TokenStore.open(folder).split("train")
    loader = Loader(split, tokenizer.grammar(), row_tokens=64)
    place, waited_min = open_intervals(split, tokenizer).places(join_rows(loader.step(0, 0)))
    assert waited_min.tolist() == [1000 * 1440] * n_waits
    assert place.tolist() == [len(tokenizer.grammar().prompt_classes) - 1] * n_waits
