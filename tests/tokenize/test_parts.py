from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.tokenize.conftest import content
from tests.tokenize.test_interruption import start

from chronoward.errors import ConfigError, FormatError, StateError
from chronoward.store import TokenStore
from chronoward.tokenize import merge_parts, tokenize, verify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def whole(meds: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """A store made in one piece with the tokenizer of `fitted`, beside the events it is made of."""
    folder = tmp_path_factory.mktemp("whole")
    fitted = tokenize(meds, folder / "fitted", events_dir=folder / "events")
    tokenizer = fitted.tokenizer_path
    return tokenize(meds, folder / "tokens", tokenizer=tokenizer, events_dir=folder / "events")


def make_parts(meds: Path, whole: TokenStore, folder: Path, n: int) -> list[Path]:
    return [
        tokenize(
            meds,
            folder / f"part-{n}-{i}",
            tokenizer=whole.tokenizer_path,
            events_dir=whole.path.parent / "events",
            shard_index=i,
            num_shards=n,
        ).path
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def parts(meds: Path, whole: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_parts(meds, whole, tmp_path_factory.mktemp("parts"), 3)


def test_parts_joined_in_any_order_are_the_store_of_one_piece(
    parts: list[Path], whole: TokenStore, tmp_path: Path
) -> None:
    sizes = [TokenStore.open(part).manifest["splits"]["train"]["n_subjects"] for part in parts]
    assert all(sizes)
    for name, order in (("a", parts), ("b", parts[::-1])):
        joined = merge_parts(order, tmp_path / name)
        assert content(joined.path) == content(whole.path)
        verify(joined.path)


@pytest.mark.parametrize("n", [1, 2, 70])
def test_the_number_of_parts_does_not_change_a_byte(
    meds: Path, whole: TokenStore, tmp_path: Path, n: int
) -> None:
    """Of 70 parts of 60 subjects some are empty."""
    joined = merge_parts(make_parts(meds, whole, tmp_path, n), tmp_path / "tokens")
    assert content(joined.path) == content(whole.path)


def test_a_part_verifies_and_only_the_first_has_the_ledger(parts: list[Path]) -> None:
    for index, part in enumerate(parts):
        verify(part)
        assert (part / "ledger").exists() == (index == 0)
        assert json.loads((part / "part.json").read_bytes())["index"] == index


def test_tasks_that_share_a_folder_of_events_prepare_it_once(
    meds: Path, whole: TokenStore, tmp_path: Path
) -> None:
    shared = ["--tokenizer", whole.tokenizer_path, "--events-dir", tmp_path / "events"]
    tasks = [
        start(
            *("tokenize", meds, "--out", tmp_path / f"part-{i}", *shared),
            *("--shard-index", str(i), "--num-shards", "2"),
        )
        for i in range(2)
    ]
    said = [task.communicate()[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert sum("rules on records" in text for text in said) == 1
    joined = merge_parts([tmp_path / "part-1", tmp_path / "part-0"], tmp_path / "tokens")
    assert content(joined.path) == content(whole.path)


def test_parts_that_do_not_make_a_store_are_refused(
    meds: Path, parts: list[Path], whole: TokenStore, tmp_path: Path
) -> None:
    out = tmp_path / "tokens"
    with pytest.raises(ConfigError, match=r"parts \[1\] of 3 are missing"):
        merge_parts([parts[0], parts[2]], out)
    with pytest.raises(ConfigError, match="same part as"):
        merge_parts([*parts, parts[1]], out)
    other = make_parts(meds, whole, tmp_path, 2)
    with pytest.raises(ConfigError, match="part of another store"):
        merge_parts([parts[0], other[1]], out)
    with pytest.raises(FormatError, match="not a part"):
        merge_parts([whole.path], out)
    with pytest.raises(ConfigError, match="no parts"):
        merge_parts([], out)
    with pytest.raises(StateError, match="one of the parts"):
        merge_parts(parts, parts[0])
    assert not out.exists()


def test_a_share_needs_a_tokenizer_of_all_subjects(meds: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a tokenizer"):
        tokenize(meds, tmp_path / "tokens", shard_index=0, num_shards=2)
    with pytest.raises(ConfigError, match="go together"):
        tokenize(meds, tmp_path / "tokens", shard_index=0)
