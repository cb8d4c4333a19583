"""Writing a token store: record batches as they fill, the manifest last."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from chronoward import files
from chronoward.ahead import Behind
from chronoward.errors import DataError, LimitError, StateError
from chronoward.schema import SPLITS
from chronoward.store.layout import (
    BATCH_TOKENS,
    CODES,
    FINGERPRINTS,
    FORMAT,
    MANIFEST,
    MAX_SHARD_TOKENS,
    TOKENIZER,
    VERSION,
    checksum,
    shard_schema,
)
from chronoward.store.pending import Pending
from chronoward.store.shard_writer import ShardWriter, n_tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    import pyarrow as pa
    from numpy.typing import NDArray

    from chronoward.store.pending import Timelines


class _Turn:
    """Lets one record batch be written at a time, whatever its split: they are megabytes each."""

    def __init__(self) -> None:
        self._busy: ShardWriter | None = None

    def pass_to(self, shard: ShardWriter | None) -> None:
        """Waits for the record batch before; None: nobody writes one."""
        before, self._busy = self._busy, shard
        if before is not None:
            before.wait()


class _SplitWriter:
    """Writes one split's shards, numbered on from those that are there.

    Args:
        folder: of the split; made with the first shard.
        schema: of the shards.
        entries: the manifest's, of shards that are there.
        turn: what all splits have in common.
        max_tokens, batch_tokens: see `StoreWriter`.
    """

    def __init__(
        self,
        folder: Path,
        schema: pa.Schema,
        entries: Iterable[Mapping[str, Any]],
        turn: _Turn,
        *,
        max_tokens: int,
        batch_tokens: int,
    ) -> None:
        self.entries = [dict(entry) for entry in entries]
        self._folder = folder
        self._turn = turn
        self._schema = schema
        self._max_tokens = max_tokens
        self._pending = Pending(schema, min(batch_tokens, max_tokens))
        self._shard: ShardWriter | None = None
        self._n_shards = len(self.entries)
        self._ending = Behind()
        weakref.finalize(self, self._ending.close)  # who drops a writer finds no unfinished file
        self._last: int | None = None

    def add(self, batch: Timelines, rows: NDArray[np.int64]) -> None:
        """Takes some of a batch's timelines; what of them fills a record batch is written."""
        subjects = batch.subject_id[rows]
        ascends = bool((subjects[1:] > subjects[:-1]).all())
        if not ascends or (self._last is not None and subjects[0] <= self._last):
            message = f"{self._folder}: subjects do not come in ascending order"
            raise DataError(message)
        longest = int(np.diff(batch.offsets)[rows].max())
        if longest > self._max_tokens:
            message = f"a timeline has {longest} tokens; a shard holds at most {self._max_tokens}"
            raise LimitError(message)
        for record in self._pending.add(batch, rows):
            self._write(record)
        self._last = int(subjects[-1])

    def _write(self, record: pa.RecordBatch) -> None:
        if self._shard and self._shard.n_tokens + n_tokens_of(record) > self._max_tokens:
            self._end(self._shard)
        if self._shard is None:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._shard = ShardWriter(self._folder / f"{self._n_shards}.arrow", self._schema)
            self._n_shards += 1
        self._turn.pass_to(self._shard)
        self._shard.write(record)

    def _end(self, shard: ShardWriter) -> None:
        """Finishes a shard while others are written: that waits for the disk."""
        self._turn.pass_to(None)  # from now on it is the other thread's
        self._ending.wait()
        entries = self.entries
        self._ending.do(lambda: entries.append(shard.finish()))
        self._shard = None

    def flush(self) -> None:
        """Hands over what is left; it is written after `wait`."""
        if len(self._pending):
            self._write(self._pending.take())
        if self._shard:
            self._end(self._shard)

    def wait(self) -> None:
        """Waits until all shards have their names; removes those that are not this writer's."""
        self._ending.wait()
        known = {Path(entry["file"]).name for entry in self.entries}
        for path in self._folder.glob("*.arrow"):
            if path.name not in known:
                path.unlink()

    def close(self) -> None:
        """Removes what is not finished."""
        self._pending.clear()
        self._ending.close()
        if self._shard:
            self._shard.abort()
            self._shard = None


class StoreWriter:
    """Writes a token store from batches of timelines; the manifest comes last.

    Which subjects share a record batch and a shard depends on their order and lengths only, not on
    the batches that are added.

    An error and the end of a `with` block remove what is not finished. Timelines that are lost by
    that make `flush` and `finish` fail, so that no store lacks some.

    Args:
        out: the store's folder; it holds `tokenizer.json` and nothing but this store's own files.
        tokenizer_hash: `Tokenizer.hash` of that tokenizer; every shard carries it.
        max_tokens: tokens a shard at most.
        batch_tokens: tokens a record batch at most, but for a longer timeline.
        shards: the manifest's shards of each split, where the folder is a store already: they stay,
            and new ones are numbered after them.

    Raises:
        OSError: the disk is full; no file is then half-written under its final name.
    """

    def __init__(
        self,
        out: Path,
        *,
        tokenizer_hash: str,
        max_tokens: int = MAX_SHARD_TOKENS,
        batch_tokens: int = BATCH_TOKENS,
        shards: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    ) -> None:
        self.out = Path(out)
        self.tokenizer_hash = tokenizer_hash
        schema, earlier, turn = shard_schema(tokenizer_hash), shards or {}, _Turn()
        self._splits = {
            name: _SplitWriter(
                self.out / name,
                schema,
                earlier.get(name, ()),
                turn,
                max_tokens=max_tokens,
                batch_tokens=batch_tokens,
            )
            for name in SPLITS
        }
        self._is_flushed, self._has_lost = True, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes what is not finished: nothing, after `flush`."""
        self._has_lost |= not self._is_flushed
        for split in self._splits.values():
            split.close()

    def add(self, batch: Timelines, split: NDArray[np.uint8]) -> None:
        """Appends timelines.

        Args:
            batch: subjects in ascending order, all above those added before in the same split.
            split: uint8 (n,), index into `SPLITS`.

        Raises:
            DataError: subjects do not ascend.
            LimitError: one timeline alone passes the size of a shard.
            OSError: the disk is full.
        """
        if len(split) != len(batch.subject_id) or (len(split) and int(split.max()) >= len(SPLITS)):
            message = f"split must give 0..{len(SPLITS) - 1} for each of the batch's subjects"
            raise ValueError(message)
        self._is_flushed = False
        try:
            for index, name in enumerate(SPLITS):
                rows = np.flatnonzero(split == index)
                if len(rows):
                    self._splits[name].add(batch, rows)
        except BaseException:
            self.close()
            raise

    def flush(self) -> dict[str, list[dict[str, Any]]]:
        """Writes what is left; the manifest's shards of each split. Other shards are removed.

        Raises:
            StateError: timelines were lost, see `StoreWriter`.
            OSError: the disk is full.
        """
        if self._has_lost:
            message = f"{self.out}: timelines were lost, as writing them failed or was left early"
            raise StateError(message)
        try:
            for split in self._splits.values():
                split.flush()
            for split in self._splits.values():
                split.wait()
        except BaseException:
            self.close()
            raise
        self._is_flushed = True
        return {name: split.entries for name, split in self._splits.items()}

    def finish(
        self, *, calendar: str, observation: str, split_rule: str, counts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Writes what is left and then the manifest, which makes the folder a token store.

        Args:
            calendar: "real" or "shifted".
            observation: the rule that made the observation periods.
            split_rule: "source", "hash", "temporal" or "site".
            counts: what encoding dropped, clamped and rolled up.

        Returns:
            The manifest.
        """
        splits = {
            name: {
                "n_subjects": sum(entry["n_subjects"] for entry in entries),
                "n_tokens": sum(entry["n_tokens"] for entry in entries),
                "shards": entries,
            }
            for name, entries in self.flush().items()
        }
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "tokenizer": self.tokenizer_hash,
            "tokenizer_sha256": files.sha256_file(self.out / TOKENIZER),
            "calendar": calendar,
            "observation": observation,
            "split_rule": split_rule,
            "splits": splits,
            "counts": dict(counts),
        }
        for key, name in (("codes_sha256", CODES), ("fingerprints_sha256", FINGERPRINTS)):
            if (self.out / name).is_file():
                manifest[key] = files.sha256_file(self.out / name)
        manifest["checksum"] = checksum(manifest)
        files.write_json(self.out / MANIFEST, manifest)
        return manifest
