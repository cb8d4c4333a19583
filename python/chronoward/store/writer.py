"""Writing a token store: shards as they fill, the manifest last."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from chronoward import files
from chronoward.errors import DataError
from chronoward.schema import SPLITS
from chronoward.store.hashed_file import HashedFile
from chronoward.store.layout import (
    CODES,
    FINGERPRINTS,
    FORMAT,
    MANIFEST,
    MAX_SHARD_TOKENS,
    PERIOD_COLUMNS,
    TOKEN_COLUMNS,
    TOKENIZER,
    VERSION,
    checksum,
    shard_schema,
)
from chronoward.store.pending import Pending

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from chronoward.store.pending import Timelines


class StoreWriter:
    """Writes a token store from batches of timelines; the manifest comes last.

    Which subjects share a shard depends on their order and lengths only, not on the batches.

    Args:
        out: the store's folder; it holds `tokenizer.json` and nothing but this store's own files.
        tokenizer_hash: `Tokenizer.hash` of that tokenizer; every shard carries it.
        max_tokens: tokens a shard at most.
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
        shards: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    ) -> None:
        self.out = Path(out)
        self.tokenizer_hash = tokenizer_hash
        self._max_tokens = max_tokens
        self._pending: dict[str, Pending] = {}
        self._last: dict[str, int | None] = dict.fromkeys(SPLITS)
        earlier = shards or {}
        self._shards: dict[str, list[dict[str, Any]]] = {
            name: [dict(entry) for entry in earlier.get(name, ())] for name in SPLITS
        }

    def add(self, batch: Timelines, split: NDArray[np.uint8]) -> None:
        """Appends timelines.

        Args:
            batch: subjects in ascending order, all above those added before in the same split.
            split: uint8 (n,), index into `SPLITS`.

        Raises:
            DataError: subjects do not ascend.
            LimitError: one timeline alone passes the size of a shard.
        """
        if len(split) != len(batch.subject_id) or (len(split) and int(split.max()) >= len(SPLITS)):
            message = f"split must give 0..{len(SPLITS) - 1} for each of the batch's subjects"
            raise ValueError(message)
        for index, name in enumerate(SPLITS):
            chosen = split == index
            subjects = batch.subject_id[chosen]
            if not len(subjects):
                continue
            last = self._last[name]
            ascends = bool((subjects[1:] > subjects[:-1]).all())
            if not ascends or (last is not None and subjects[0] <= last):
                message = f"{self.out / name}: subjects do not come in ascending order"
                raise DataError(message)
            self._last[name] = int(subjects[-1])
            if name not in self._pending:
                self._pending[name] = Pending(self.out)
            pending = self._pending[name]
            pending.append(batch, chosen)
            while pending.n_tokens > self._max_tokens:
                self._write_shard(name, pending)

    def _write_shard(self, split: str, pending: Pending) -> None:
        n, n_tokens, columns = pending.take(self._max_tokens)
        schema = shard_schema(self.tokenizer_hash)
        origin = pa.array(columns["origin_us"]).view(pa.timestamp("us"))
        arrays = [pa.array(columns["subject_id"]), origin]
        for names, lengths in ((TOKEN_COLUMNS, "lengths"), (PERIOD_COLUMNS, "n_periods")):
            offsets = np.zeros(n + 1, np.int32)
            np.cumsum(columns[lengths], out=offsets[1:])
            arrays += [
                pa.ListArray.from_arrays(
                    pa.array(offsets), pa.array(columns[name]), type=schema.field(name).type
                )
                for name in names
            ]
        record = pa.RecordBatch.from_arrays(arrays, schema=schema)
        folder = self.out / split
        folder.mkdir(mode=0o700, exist_ok=True)
        name = f"{split}/{len(self._shards[split])}.arrow"
        with files.atomic_path(self.out / name) as temporary:
            with HashedFile(temporary) as sink:
                with pa.ipc.new_file(sink, schema) as writer:
                    writer.write_batch(record)
                sha256 = sink.sha256()
            entry = {
                "file": name,
                "n_subjects": n,
                "n_tokens": n_tokens,
                "n_bytes": temporary.stat().st_size,
                "sha256": sha256,
            }
        self._shards[split].append(entry)

    def flush(self) -> dict[str, list[dict[str, Any]]]:
        """Writes what is left; the manifest's shards of each split. Other shards are removed."""
        for name in SPLITS:
            pending = self._pending.pop(name, None)
            if pending is not None:
                if len(pending):
                    self._write_shard(name, pending)
                pending.close()
            known = {entry["file"] for entry in self._shards[name]}
            for path in (self.out / name).glob("*.arrow"):
                if f"{name}/{path.name}" not in known:
                    path.unlink()
        return self._shards

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
