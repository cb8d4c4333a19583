"""Writing a token store: shards as they fill, the manifest last."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from chronoward import files
from chronoward.errors import DataError, LimitError
from chronoward.schema import SPLITS
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

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


class Timelines(Protocol):
    """What `StoreWriter.add` takes: token timelines, one after the other (`TokenBatch`)."""

    @property
    def subject_id(self) -> NDArray[np.int64]: ...  # (n,)
    @property
    def origin_us(self) -> NDArray[np.int64]: ...  # (n,)
    @property
    def offsets(self) -> NDArray[np.int64]: ...  # (n + 1,)
    @property
    def token_id(self) -> NDArray[np.int32]: ...  # (n_tokens,)
    @property
    def time_min(self) -> NDArray[np.int32]: ...
    @property
    def event_min(self) -> NDArray[np.int32]: ...
    @property
    def n_prior(self) -> NDArray[np.uint8]: ...
    @property
    def obs_offsets(self) -> NDArray[np.int64]: ...  # (n + 1,)
    @property
    def obs_start_min(self) -> NDArray[np.int32]: ...
    @property
    def obs_end_min(self) -> NDArray[np.int32]: ...


class _Pending:
    """Subjects of one split that wait for their shard; owns copies, so batches can be freed."""

    def __init__(self) -> None:
        self.subject_id: list[NDArray[np.int64]] = []
        self.origin_us: list[NDArray[np.int64]] = []
        self.lengths: list[NDArray[np.int64]] = []
        self.n_periods: list[NDArray[np.int64]] = []
        self.values: dict[str, list[NDArray[Any]]] = {
            name: [] for name in (*TOKEN_COLUMNS, *PERIOD_COLUMNS)
        }
        self.n_tokens = 0

    def append(self, batch: Timelines, chosen: NDArray[np.bool_]) -> None:
        lengths, n_periods = np.diff(batch.offsets), np.diff(batch.obs_offsets)
        of_tokens, of_periods = np.repeat(chosen, lengths), np.repeat(chosen, n_periods)
        self.subject_id.append(batch.subject_id[chosen])
        self.origin_us.append(batch.origin_us[chosen])
        self.lengths.append(lengths[chosen])
        self.n_periods.append(n_periods[chosen])
        for name in TOKEN_COLUMNS:
            self.values[name].append(getattr(batch, name)[of_tokens])
        for name in PERIOD_COLUMNS:
            self.values[name].append(getattr(batch, name)[of_periods])
        self.n_tokens += int(lengths[chosen].sum())

    def take(self, max_tokens: int) -> tuple[int, int, dict[str, NDArray[Any]]]:
        """Removes the longest run of subjects that fits; its counts and its columns."""
        whole = {"subject_id": self.subject_id, "origin_us": self.origin_us}
        whole |= {"lengths": self.lengths, "n_periods": self.n_periods}
        columns: dict[str, NDArray[Any]] = {k: np.concatenate(v) for k, v in whole.items()}
        ends = np.cumsum(columns["lengths"])
        n = int(np.searchsorted(ends, max_tokens, side="right"))
        if n == 0 and len(ends):
            message = f"a timeline has {ends[0]} tokens; a shard holds at most {max_tokens}"
            raise LimitError(message)
        n_tokens = int(ends[n - 1]) if n else 0
        n_periods = int(columns["n_periods"][:n].sum())
        taken = {name: column[:n] for name, column in columns.items()}
        for name in whole:
            getattr(self, name)[:] = [columns[name][n:].copy()]
        for name, parts in self.values.items():
            joined = np.concatenate(parts)
            cut = n_tokens if name in TOKEN_COLUMNS else n_periods
            taken[name] = joined[:cut]
            parts[:] = [joined[cut:].copy()]
        self.n_tokens -= n_tokens
        return n, n_tokens, taken


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
        self._pending = {name: _Pending() for name in SPLITS}
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
            pending = self._pending[name]
            pending.append(batch, chosen)
            while pending.n_tokens > self._max_tokens:
                self._write_shard(name)

    def _write_shard(self, split: str) -> None:
        n, n_tokens, columns = self._pending[split].take(self._max_tokens)
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
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                writer.write_batch(record)
            entry = {
                "file": name,
                "n_subjects": n,
                "n_tokens": n_tokens,
                "n_bytes": temporary.stat().st_size,
                "sha256": files.sha256_file(temporary),
            }
        self._shards[split].append(entry)

    def flush(self) -> dict[str, list[dict[str, Any]]]:
        """Writes what is left; the manifest's shards of each split. Other shards are removed."""
        for name in SPLITS:
            if self._pending[name].n_tokens or self._pending[name].subject_id:
                self._write_shard(name)
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
