from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chronoward.errors import ConfigError, FormatError
from chronoward.tokenize import fit, merge, tokenize
from chronoward.tokenizer import TokenizerSpec

if TYPE_CHECKING:
    from pathlib import Path


def test_shards_merged_in_any_order_give_the_tokenizer_of_a_whole_fit(
    meds: Path, tmp_path: Path
) -> None:
    whole = fit(meds, tmp_path / "whole.json").read_bytes()
    shards = [
        fit(meds, tmp_path / f"counts-{i}", shard_index=i, num_shards=2, temp_dir=tmp_path)
        for i in range(2)
    ]
    merge(shards, tmp_path / "a.json")
    merge(shards[::-1], tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes() == whole
    assert (tokenize(meds, tmp_path / "tokens").tokenizer_path).read_bytes() == whole
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"whole.json", "counts-0", "counts-1", "a.json", "b.json", "tokens"}


def test_counts_for_different_specs_are_not_merged(meds: Path, tmp_path: Path) -> None:
    first = fit(meds, tmp_path / "a", shard_index=0, num_shards=2)
    spec = TokenizerSpec(preset="events", values="none")
    second = fit(meds, tmp_path / "b", shard_index=1, num_shards=2, spec=spec)
    with pytest.raises(ConfigError, match="another tokenizer spec"):
        merge([first, second], tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_files_that_are_no_counts_are_format_errors(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not counts")
    with pytest.raises(FormatError, match="not a file of counts"):
        merge([tmp_path / "x"], tmp_path / "out.json")
    with pytest.raises(ConfigError, match="no files"):
        merge([], tmp_path / "out.json")


@pytest.mark.parametrize(
    ("index", "n_shards", "message"),
    [(2, 2, "must be in"), (-1, 2, "must be in"), (0, 0, "must be in"), (0, None, "together")],
)
def test_a_shard_out_of_range_is_refused(
    meds: Path, tmp_path: Path, index: int, n_shards: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(meds, tmp_path / "a", shard_index=index, num_shards=n_shards)
