"""Reading a token store: checked, mapped, never copied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chronoward import files
from chronoward.errors import FormatError
from chronoward.schema import SPLITS
from chronoward.store.append import live_runs, read_superseded
from chronoward.store.layout import (
    APPENDED_NAME,
    APPENDED_VERSION,
    CODES,
    FINGERPRINTS,
    FORMAT,
    MANIFEST,
    PERIOD_COLUMNS,
    SHARD_NAME,
    TOKEN_COLUMNS,
    TOKENIZER,
    VERSION,
    checksum,
)
from chronoward.store.shard import Shard, open_shard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


_MANIFEST_PARTS = {"tokenizer": str, "tokenizer_sha256": str, "splits": dict, "counts": dict}
_MANIFEST_PARTS |= dict.fromkeys(("calendar", "observation", "split_rule"), str)
_SPLIT_PARTS = {"n_subjects": int, "n_tokens": int, "shards": list}
_SHARD_PARTS = {"file": str, "n_subjects": int, "n_tokens": int, "n_bytes": int, "sha256": str}


@dataclass(frozen=True, eq=False)
class Timeline:
    """One subject's tokens; the arrays are read-only views of the mapped file."""

    subject_id: int
    origin_us: int
    token_id: NDArray[np.int32]
    time_min: NDArray[np.int32]
    event_min: NDArray[np.int32]
    n_prior: NDArray[np.uint8]
    obs_start_min: NDArray[np.int32]
    obs_end_min: NDArray[np.int32]


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        if not folder.is_dir():
            raise FileNotFoundError(2, "no such token store", str(folder))
        message = f"{folder} has no {MANIFEST}: not a token store, or one that was not finished"
        raise FormatError(message)
    manifest = files.read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        message = f"{path} does not describe a token store"
        raise FormatError(message)
    if manifest.get("version") not in (VERSION, APPENDED_VERSION):
        message = (
            f"{path} has format version {manifest.get('version')}, this release reads {VERSION} "
            f"and {APPENDED_VERSION}; write the store again with `chronoward tokenize`"
        )
        raise FormatError(message)
    try:
        is_whole = manifest.get("checksum") == checksum(manifest)
    except ValueError:  # NaN or infinity, which Python's JSON reads
        is_whole = False
    if not is_whole:
        message = f"{path} does not match its own checksum: it was edited or is corrupt"
        raise FormatError(message)
    if not _is_manifest(manifest):
        message = f"{path} lacks a part, or has one of another type"
        raise FormatError(message)
    return manifest


def _files(append: Mapping[str, Any]) -> list[dict[str, str]]:
    """The files of one append, as the manifest names them."""
    return list(append["files"].values())


def _is_manifest(manifest: dict[str, Any]) -> bool:
    return _has(manifest, _MANIFEST_PARTS) and all(
        _has(split := manifest["splits"].get(name), _SPLIT_PARTS)
        and all(_has(entry, _SHARD_PARTS) for entry in split["shards"])
        for name in SPLITS
    )


def _has(value: object, parts: Mapping[str, type]) -> bool:
    return isinstance(value, dict) and all(type(value.get(k)) is t for k, t in parts.items())


class StoreSplit:
    """The timelines of one split, numbered 0..n−1: by ascending subject, what was appended last.

    Attributes:
        name: "train", "tuning" or "held_out".
        shards: the record batches of the mapped files, or runs of their rows that count.
        first_row: int64 (n_shards + 1,), number of the first timeline of each shard.
        subject_id: int64 (n,), each once; ascending where nothing was appended.
        origin_us: int64 (n,), microseconds since 1970.
        offsets: int64 (n + 1,), of tokens, over all shards.
    """

    def __init__(self, name: str, shards: tuple[Shard, ...]) -> None:
        self.name = name
        self.shards = shards
        empty = np.zeros(0, np.int64)
        self.first_row = np.zeros(len(shards) + 1, np.int64)
        np.cumsum([len(shard.subject_id) for shard in shards], out=self.first_row[1:])
        self.subject_id = np.concatenate([empty, *(shard.subject_id for shard in shards)])
        self.origin_us = np.concatenate([empty, *(shard.origin_us for shard in shards)])
        lengths = [np.diff(shard.offsets) for shard in shards]
        is_sorted = bool((np.diff(self.subject_id) >= 0).all())
        self._order = None if is_sorted else np.argsort(self.subject_id, kind="stable")
        self.offsets = np.zeros(len(self.subject_id) + 1, np.int64)
        np.cumsum(np.concatenate([empty, *lengths]), out=self.offsets[1:])

    def __len__(self) -> int:
        return len(self.subject_id)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each timeline, int64 (n,)."""
        return np.diff(self.offsets)

    @property
    def n_tokens(self) -> int:
        """Tokens of the whole split."""
        return int(self.offsets[-1])

    def timeline(self, index: int) -> Timeline:
        """One timeline as zero-copy views.

        Raises:
            IndexError: no such timeline.
        """
        if not 0 <= index < len(self):
            message = f"timeline {index} of a split with {len(self)}"
            raise IndexError(message)
        number = int(np.searchsorted(self.first_row, index, side="right")) - 1
        shard, row = self.shards[number], index - int(self.first_row[number])
        begin, end = int(shard.offsets[row]), int(shard.offsets[row + 1])
        first, last = int(shard.obs_offsets[row]), int(shard.obs_offsets[row + 1])
        return Timeline(
            subject_id=int(shard.subject_id[row]),
            origin_us=int(shard.origin_us[row]),
            **{name: getattr(shard, name)[begin:end] for name in TOKEN_COLUMNS},
            **{name: getattr(shard, name)[first:last] for name in PERIOD_COLUMNS},
        )

    def find(self, subject_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of each subject's timeline, −1 where the split does not hold the subject."""
        places = np.searchsorted(self.subject_id, subject_id, sorter=self._order)
        places[places == len(self)] = 0
        if self._order is not None:
            places = self._order[places]
        found = len(self) > 0 and self.subject_id[places] == subject_id
        return np.where(found, places, -1)

    def index_of(self, subject_id: int) -> int:
        """Number of one subject's timeline.

        Raises:
            KeyError: the split does not hold the subject.
        """
        index = int(self.find(np.array([subject_id], np.int64))[0])
        if index < 0:
            message = f"the subject is not in split {self.name}"
            raise KeyError(message)
        return index


class TokenStore:
    """A token store on disk; open one with `TokenStore.open`.

    Attributes:
        path: its folder.
        manifest: the content of `store.json`.
        tokenizer_hash: `Tokenizer.hash` of the tokenizer that encoded it.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.tokenizer_hash: str = manifest["tokenizer"]
        self._splits: dict[str, StoreSplit] = {}
        self._superseded = read_superseded(path, manifest)

    @classmethod
    def open(cls, path: Path | str, *, verify: Literal["size", "full"] = "size") -> TokenStore:
        """Opens a store after checking it.

        Args:
            path: the folder that `tokenize` wrote.
            verify: "size" compares the shards' sizes; "full" also their SHA-256.

        Raises:
            FormatError: not a finished store, another version, a truncated or changed file, or
                a tokenizer that belongs to another store.
            OSError: the folder or a file of it cannot be read.
        """
        folder = Path(path)
        store = cls(folder, _read_manifest(folder))
        if files.sha256_file(store.tokenizer_path) != store.manifest["tokenizer_sha256"]:
            message = f"{store.tokenizer_path} is not the tokenizer that encoded this store"
            raise FormatError(message)
        codes, listed = folder / CODES, store.manifest.get("codes_sha256")
        if codes.is_file() != bool(listed) or (listed and files.sha256_file(codes) != listed):
            message = f"{codes} is not the code table that {MANIFEST} states"
            raise FormatError(message)
        store._check_appends(fully=verify == "full")
        for entry in store._entries():
            shard = folder / entry["file"]
            size = shard.stat().st_size
            if size != entry["n_bytes"]:
                message = f"{shard} has {size} bytes, {MANIFEST} states {entry['n_bytes']}"
                raise FormatError(message)
            if verify == "full" and files.sha256_file(shard) != entry["sha256"]:
                message = f"{shard} does not match its SHA-256: it was changed or is corrupt"
                raise FormatError(message)
        return store

    def _entries(self) -> list[dict[str, Any]]:
        entries = [e for name in SPLITS for e in self.manifest["splits"][name]["shards"]]
        for entry in entries:
            if not SHARD_NAME.fullmatch(entry["file"]):  # no path out of the folder
                message = f"{self.path / MANIFEST} names a shard outside the store's layout"
                raise FormatError(message)
        return entries

    def _check_appends(self, *, fully: bool) -> None:
        """Checks the files beside the shards; fingerprints `fully` only."""
        listed = [e for append in self.manifest.get("appends", ()) for e in _files(append)]
        if own := self.manifest.get("fingerprints_sha256"):
            listed.append({"file": FINGERPRINTS, "sha256": own})
        for entry in listed:
            name = entry["file"]
            if name != FINGERPRINTS and not APPENDED_NAME.fullmatch(name):
                message = f"{self.path / MANIFEST} names a file outside the store's layout"
                raise FormatError(message)
            path = self.path / name
            if (fully or path.name != FINGERPRINTS) and files.sha256_file(path) != entry["sha256"]:
                message = f"{path} does not match its SHA-256: it was changed or is corrupt"
                raise FormatError(message)

    @property
    def fingerprint_paths(self) -> list[Path]:
        """Files of fingerprints, the latest last; none where the store was written without."""
        appended = [e["file"] for a in self.manifest.get("appends", ()) for e in _files(a)]
        names = [name for name in appended if name.endswith(FINGERPRINTS)]
        if "fingerprints_sha256" in self.manifest:
            names.insert(0, FINGERPRINTS)
        return [self.path / name for name in names]

    @property
    def n_superseded(self) -> int:
        """Rows of the shards that no longer count, because an append replaced them."""
        return sum(len(rows) for rows in self._superseded.values())

    @property
    def tokenizer_path(self) -> Path:
        """Where the tokenizer lies."""
        return self.path / TOKENIZER

    @property
    def calendar(self) -> str:
        """ "real", or "shifted" when dates were moved to protect the subjects."""
        return str(self.manifest["calendar"])

    def split(self, name: str) -> StoreSplit:
        """The timelines of a split (mapped on first use).

        Raises:
            ValueError: no such split.
            FormatError: a shard is corrupt or belongs to another store.
        """
        if name not in SPLITS:
            message = f"split must be one of {', '.join(SPLITS)}, got {name!r}"
            raise ValueError(message)
        if name not in self._splits:
            nothing = np.zeros(0, np.int64)
            shards = [
                run
                for entry in self.manifest["splits"][name]["shards"]
                for batch in open_shard(self.path / entry["file"], entry, self.tokenizer_hash)
                for run in live_runs(batch, self._superseded.get(entry["file"], nothing))
            ]
            self._splits[name] = StoreSplit(name, tuple(shards))
        return self._splits[name]
