"""Adding to a finished store: its shards stay byte for byte, and some of their rows stop counting.

The g-th append writes new shards, numbered on, and a folder:

| `appends/<g>/` | what |
|---|---|
| `superseded.arrow` | rows that no longer count: `file` string, `row` int64, ascending |
| `fingerprints.arrow` | of the subjects that were added or changed |
| `codes.parquet` | the store's code table, where it has changed |

The manifest comes last and names them all by their SHA-256, so that until then the store is what it
was, and whatever was killed can be done again. Its `splits` count what is alive, their shards say
what the files hold; `counts` are those of the first writing, each append has its own. A store with
appends has manifest version 3, so that a release which does not know of superseded rows refuses it.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronoward import files
from chronoward.errors import FormatError
from chronoward.schema import SPLITS
from chronoward.store.layout import (
    APPENDED_VERSION,
    APPENDS,
    CODES,
    FINGERPRINTS,
    MANIFEST,
    SUPERSEDED,
    checksum,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.store.reader import StoreSplit, TokenStore
    from chronoward.store.shard import Shard

_SCHEMA = pa.schema(
    [pa.field("file", pa.string(), nullable=False), pa.field("row", pa.int64(), nullable=False)]
)


def live_runs(shard: Shard, superseded: NDArray[np.int64]) -> Iterator[Shard]:
    """The rows of a record batch that still count: views of it between the superseded ones.

    Args:
        shard: the whole record batch.
        superseded: int64, ascending rows of its file.
    """
    n = len(shard.subject_id)
    first, last = np.searchsorted(superseded, (shard.file_row, shard.file_row + n))
    gone = superseded[first:last] - shard.file_row
    begins = np.concatenate([np.zeros(1, np.int64), gone + 1])
    ends = np.append(gone, n)
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if end > begin:
            yield shard if end - begin == n else shard.rows(begin, end)


def read_superseded(folder: Path, manifest: Mapping[str, Any]) -> dict[str, NDArray[np.int64]]:
    """Rows that no longer count, by shard file, ascending.

    Raises:
        FormatError: a list is changed or corrupt, or names rows that are not there.
        OSError: a file cannot be read.
    """
    tables = []
    for append in manifest.get("appends", ()):
        entry = append["files"].get(SUPERSEDED)
        if entry is None:
            continue
        path = folder / entry["file"]
        payload = path.read_bytes()
        if files.sha256_bytes(payload) != entry["sha256"]:
            message = f"{path} does not match its SHA-256: it was changed or is corrupt"
            raise FormatError(message)
        tables.append(pa.ipc.open_file(payload).read_all())
    if not tables:
        return {}
    table = pa.concat_tables(tables)
    sizes = {e["file"]: e["n_subjects"] for name in SPLITS for e in _shards(manifest, name)}
    found: dict[str, NDArray[np.int64]] = {}
    for name in sorted(pc.unique(table["file"]).to_pylist()):
        rows = np.sort(table.filter(pc.equal(table["file"], name))["row"].to_numpy())
        if name not in sizes or rows[0] < 0 or rows[-1] >= sizes[name] or not np.diff(rows).all():
            message = f"{folder}: the superseded rows of {name} are not rows of that file"
            raise FormatError(message)
        found[name] = rows
    return found


def _shards(manifest: Mapping[str, Any], split: str) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = manifest["splits"][split]["shards"]
    return found


def rows_of(split: StoreSplit, subject_id: NDArray[np.int64]) -> list[tuple[str, int, int]]:
    """Where the timelines of some subjects of a split lie: shard file, row in it, tokens.

    Args:
        split: of the store.
        subject_id: int64, all of them in the split.
    """
    index = split.find(subject_id)
    number = np.searchsorted(split.first_row, index, side="right") - 1
    row = index - split.first_row[number]
    lengths = split.lengths[index]
    return [
        (f"{split.name}/{split.shards[n].path.name}", split.shards[n].file_row + r, length)
        for n, r, length in zip(number.tolist(), row.tolist(), lengths.tolist(), strict=True)
    ]


def next_folder(store: TokenStore) -> Path:
    """`appends/<g>` of the next append, made empty: what is there was never finished."""
    folder = store.path / APPENDS / str(len(store.manifest.get("appends", ())) + 1)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, parents=True)
    return folder


def write_superseded(folder: Path, rows: Sequence[tuple[str, int, int]]) -> None:
    """Writes the rows (of `rows_of`) that no longer count once the manifest says so."""
    ordered = sorted(rows)
    table = pa.table(
        [pa.array([r[0] for r in ordered], pa.string()), pa.array([r[1] for r in ordered])],
        schema=_SCHEMA,
    )
    with files.atomic_path(folder / SUPERSEDED) as path, pa.ipc.new_file(path, _SCHEMA) as sink:
        sink.write_table(table)


def write_manifest(
    store: TokenStore,
    shards: Mapping[str, Sequence[Mapping[str, Any]]],
    superseded: Mapping[str, Sequence[tuple[str, int, int]]],
    append: Mapping[str, Any],
) -> None:
    """Makes the append count: the store's manifest with the new shards and what they supersede.

    Args:
        store: as it was.
        shards: of each split, old and new (`StoreWriter.flush`).
        superseded: rows (of `rows_of`) by split that count no more from now on.
        append: what to say of this append; the files of its folder are added.
    """
    manifest = store.manifest
    earlier = list(manifest.get("appends", ()))
    folder = store.path / APPENDS / str(len(earlier) + 1)
    splits = {}
    for name in SPLITS:
        before, gone = manifest["splits"][name], superseded.get(name, ())
        new = shards[name][len(before["shards"]) :]
        splits[name] = {
            "n_subjects": before["n_subjects"] + sum(e["n_subjects"] for e in new) - len(gone),
            "n_tokens": before["n_tokens"]
            + sum(e["n_tokens"] for e in new)
            - sum(n_tokens for _, _, n_tokens in gone),
            "shards": list(shards[name]),
        }
    named = {
        name: {
            "file": f"{APPENDS}/{folder.name}/{name}",
            "sha256": files.sha256_file(folder / name),
        }
        for name in (SUPERSEDED, FINGERPRINTS, CODES)
        if (folder / name).is_file()
    }
    changed = {
        **manifest,
        "version": APPENDED_VERSION,
        "splits": splits,
        "appends": [*earlier, {**append, "files": named}],
    }
    changed["checksum"] = checksum(changed)
    files.write_json(store.path / MANIFEST, changed)


def remove_strays(store: TokenStore) -> None:
    """Removes what an append that was never finished left behind."""
    listed = {entry["file"] for name in SPLITS for entry in _shards(store.manifest, name)}
    for name in SPLITS:
        for path in (store.path / name).glob("*.arrow"):
            if f"{name}/{path.name}" not in listed:
                path.unlink()
    folder = store.path / APPENDS / str(len(store.manifest.get("appends", ())) + 1)
    if folder.exists():
        shutil.rmtree(folder)
    if (store.path / APPENDS).is_dir() and not any((store.path / APPENDS).iterdir()):
        (store.path / APPENDS).rmdir()
