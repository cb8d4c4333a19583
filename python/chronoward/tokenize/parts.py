"""A token store made by several tasks: each encodes a share of the subjects, `merge_parts` joins.

A part is a token store of its own, with `part.json` beside its manifest, so it is resumed and
verified like any other. Shares are ranges of subjects in ascending order; joined they are packed
into shards anew, so the bytes are those of a run in one piece, whatever the number of parts.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward import files
from chronoward.data import PreparedEvents
from chronoward.errors import ConfigError, FormatError, StateError
from chronoward.schema import SPLITS
from chronoward.store import StoreWriter, TokenStore
from chronoward.store.fingerprints import Fingerprints, read_fingerprints
from chronoward.store.layout import CODES, FINGERPRINTS, MANIFEST, TOKENIZER
from chronoward.tokenize.job import job
from chronoward.tokenize.reports import LEDGER, REPORT, SUBJECT_IDS, copy_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

PART = "part.json"


def check_shard(index: int | None, n_shards: int | None) -> tuple[int, int] | None:
    """(index, number) of a share of the work; None where none is asked for.

    Raises:
        ConfigError: only one of them is given, or the index is out of range.
    """
    if index is None and n_shards is None:
        return None
    if index is None or n_shards is None:
        message = "shard_index and num_shards go together"
        raise ConfigError(message)
    if not 0 <= index < n_shards:
        message = f"shard_index must be in 0..{n_shards - 1}, got {index}"
        raise ConfigError(message)
    return index, n_shards


class EventShare(PreparedEvents):
    """The subjects whose first events lie in one of n equal shares of a source's events.

    Args:
        whole: the source.
        index: of the share, 0 .. n_shares − 1.
        n_shares: their number.
    """

    def __init__(self, whole: PreparedEvents, index: int, n_shares: int) -> None:
        super().__init__(whole.path, whole.manifest)
        self.index, self.n_shares = index, n_shares

    def batches(self, max_events: int | None = None) -> Iterator[pa.Table]:
        """Yields the share's subjects as `PreparedEvents.batches` does."""
        begin = 0
        for table in super().batches(max_events):
            ids = table["subject_id"].to_numpy()
            starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1))
            bounds = np.append(starts, len(ids))
            share = (begin + starts) * self.n_shares // max(self.n_events, 1)
            mine = np.flatnonzero(share == self.index)
            if len(mine):
                first, last = bounds[mine[0]], bounds[mine[-1] + 1]
                yield table.slice(first, last - first)
            begin += len(table)


def write_source_files(out: Path, prepared: PreparedEvents) -> None:
    """Copies the ledger and the map of ids to a store; of several parts the first has them.

    A part also gets the file that says of what it is a part.
    """
    if isinstance(prepared, EventShare):
        identity = prepared.manifest["identity"]
        said = {"index": prepared.index, "n_parts": prepared.n_shares, "source": identity}
        files.write_json(out / PART, said)
        if prepared.index:
            return
    copy_ledger(prepared, out)


def _open_parts(paths: Sequence[Path]) -> list[TokenStore]:
    """All parts of one store in order.

    Raises:
        FormatError: a folder is no finished part.
        ConfigError: parts of different stores, or not each of them once.
    """
    found: dict[int, TokenStore] = {}
    whole: set[tuple[Any, ...]] = set()
    for path in paths:
        store = TokenStore.open(path)
        if not (path / PART).is_file():
            message = f"{path} is a whole token store, not a part that `--shard-index` made"
            raise FormatError(message)
        part = files.read_json(path / PART)
        if part["index"] in found:
            message = f"{path} is the same part as {found[part['index']].path}"
            raise ConfigError(message)
        found[part["index"]] = store
        whole.add(
            (part["n_parts"], part["source"], store.tokenizer_hash, store.manifest["split_rule"])
        )
        if len(whole) > 1:
            message = f"{path} is a part of another store than {paths[0]}"
            raise ConfigError(message)
    n_parts = max((n for n, *_ in whole), default=0)
    missing = sorted(set(range(n_parts)) - set(found))
    if missing or not found:
        message = f"parts {missing} of {n_parts} are missing" if found else "there are no parts"
        raise ConfigError(message)
    return [found[index] for index in range(n_parts)]


def merge_parts(paths: Sequence[Path], out: Path | str) -> TokenStore:
    """Joins the parts of a token store; their order does not matter. Run again, it goes on.

    Args:
        paths: folders that `tokenize` wrote with `shard_index`.
        out: folder of the store; new, empty, or left unfinished by the same call. Made 0700.

    Returns:
        The store, opened: byte for byte that of a run in one piece.

    Raises:
        ConfigError: a part is missing, there twice, or of another store.
        FormatError: a folder is no finished part, or is damaged.
        StateError: `out` holds something else.
        OSError: a file cannot be read or written.
    """
    parts = _open_parts([Path(path) for path in paths])
    folder = Path(out)
    if any(folder.resolve() == part.path.resolve() for part in parts):
        message = f"{folder} is one of the parts; choose another folder"
        raise StateError(message)
    sums = [files.sha256_file(part.path / MANIFEST) for part in parts]
    with job(folder, {"verb": "merge", "parts": sums}):
        if not (folder / MANIFEST).is_file():
            _join(parts, folder)
    return TokenStore.open(folder)


def _join(parts: list[TokenStore], folder: Path) -> None:
    first = parts[0]
    copied = [TOKENIZER, CODES, *(f"{LEDGER}/{p.name}" for p in (first.path / LEDGER).iterdir())]
    copied += [SUBJECT_IDS] if (first.path / SUBJECT_IDS).is_file() else []
    (folder / LEDGER).mkdir(mode=0o700, exist_ok=True)
    for name in copied:
        with files.atomic_path(folder / name) as temporary:
            shutil.copyfile(first.path / name, temporary)
    counts: Counter[str] = Counter()
    with StoreWriter(folder, tokenizer_hash=first.tokenizer_hash) as writer:
        for number, name in enumerate(SPLITS):
            for part in parts:
                for shard in part.split(name).shards:
                    writer.add(shard, np.full(len(shard.subject_id), number, np.uint8))
        writer.flush()
    for part in parts:
        counts.update(part.manifest["counts"])
    fingerprints = Fingerprints()
    for part in parts:
        fingerprints.add(*read_fingerprints(part.fingerprint_paths))
    fingerprints.write(folder / FINGERPRINTS)
    summed = dict(sorted(counts.items()))
    report = files.read_json(first.path / REPORT)
    report["tokenizer"]["counts"] = summed
    files.write_json(folder / REPORT, report)
    said = {name: first.manifest[name] for name in ("calendar", "observation", "split_rule")}
    writer.finish(counts=summed, **said)
