from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.store.test_store import rebatch

from chronoward.errors import FormatError
from chronoward.store import StoreWriter, TokenStore
from chronoward.store.layout import TOKENIZER
from chronoward.tokenize import tokenize, verify
from chronoward.tokenizer import TokenBatch, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def store(omop: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return tokenize(omop, tmp_path_factory.mktemp("stores") / "tokens")


def batch_of(store: TokenStore) -> TokenBatch:
    """The train split as one batch of copies."""
    shard = store.split("train").shards[0]
    names = [field.name for field in dataclasses.fields(TokenBatch) if field.name != "counts"]
    return TokenBatch(**{name: getattr(shard, name).copy() for name in names})


def rewritten(store: TokenStore, out: Path, batch: TokenBatch, **tokens: int) -> Path:
    """A store with right checksums whose content was changed before."""
    out.mkdir()
    shutil.copy(store.tokenizer_path, out / TOKENIZER)
    writer = StoreWriter(out, tokenizer_hash=store.tokenizer_hash, **tokens)
    writer.add(batch, np.zeros(len(batch), np.uint8))
    writer.finish(calendar="real", observation="none", split_rule="hash", counts={})
    return out


def swap_tokens(batch: TokenBatch, tokenizer: Tokenizer) -> None:
    batch.token_id[[4, 5]] = batch.token_id[[5, 4]]


def drop_end(batch: TokenBatch, tokenizer: Tokenizer) -> None:
    batch.token_id[batch.offsets[1] - 1] = 0


def outside(batch: TokenBatch, tokenizer: Tokenizer) -> None:
    batch.token_id[7] = tokenizer.vocab_size


def backwards(batch: TokenBatch, tokenizer: Tokenizer) -> None:
    batch.time_min[9] -= 1
    batch.event_min[9] = 0


def too_early(batch: TokenBatch, tokenizer: Tokenizer) -> None:
    batch.event_min[9] = batch.time_min[9] + 1


def miscounted(batch: TokenBatch, tokenizer: Tokenizer) -> None:
    batch.n_prior[batch.offsets[1] - 2] += 1


def overlapping(batch: TokenBatch, tokenizer: Tokenizer) -> None:
    batch.obs_end_min[0] = batch.obs_start_min[0] - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_tokens, "row 0: the grammar refuses a token"),
        (drop_end, "row 0: the grammar refuses a token"),
        (outside, "row 0: token outside vocabulary"),
        (backwards, "row 0: the clock runs backwards"),
        (too_early, "row 0: an event after it was available"),
        (miscounted, "row 0: n_prior is wrong"),
        (overlapping, "row 0: observation periods are not ascending"),
    ],
)
def test_content_that_makes_no_sense_is_found_and_named_by_row(
    store: TokenStore,
    tmp_path: Path,
    change: Callable[[TokenBatch, Tokenizer], None],
    message: str,
) -> None:
    batch = batch_of(store)
    change(batch, Tokenizer.load(store.tokenizer_path))
    with pytest.raises(FormatError, match=message):
        verify(rewritten(store, tmp_path / "tokens", batch))


def test_record_batches_in_another_order_are_found(store: TokenStore, tmp_path: Path) -> None:
    batch = batch_of(store)
    out = rewritten(store, tmp_path / "tokens", batch, batch_tokens=batch.n_tokens // 3)
    assert len(TokenStore.open(out).split("train").shards) > 2
    assert verify(out).n_subjects == len(batch)
    rebatch(out, lambda batches: batches[::-1])
    with pytest.raises(FormatError, match=r"0\.arrow: subjects do not ascend"):
        verify(out)


def test_the_tokenizer_of_another_store_is_found(
    store: TokenStore, meds: Path, tmp_path: Path
) -> None:
    other = tokenize(meds, tmp_path / "other")
    copied = rewritten(store, tmp_path / "tokens", batch_of(store))
    shutil.copy(other.tokenizer_path, copied / TOKENIZER)
    with pytest.raises(FormatError, match="not the tokenizer that encoded this store"):
        verify(copied)
    writer = StoreWriter(copied, tokenizer_hash=store.tokenizer_hash)
    writer.add(batch_of(store), np.zeros(len(batch_of(store)), np.uint8))
    writer.finish(calendar="real", observation="none", split_rule="hash", counts={})
    with pytest.raises(FormatError, match="tokenizer of another store"):
        verify(copied)


def test_a_subject_in_two_splits_is_found(store: TokenStore, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    out.mkdir()
    shutil.copy(store.tokenizer_path, out / TOKENIZER)
    writer = StoreWriter(out, tokenizer_hash=store.tokenizer_hash)
    batch = batch_of(store)
    for number in (0, 2):
        writer.add(batch, np.full(len(batch), number, np.uint8))
    writer.finish(calendar="real", observation="none", split_rule="hash", counts={})
    with pytest.raises(FormatError, match="subjects of held_out are in another split, too"):
        verify(out)
