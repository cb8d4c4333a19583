"""`tokenize --append`: a store brought up to date with its source, by its own tokenizer.

The source is mended and sorted as always (that scan is what an append costs at least); subjects
whose fingerprint the store has are then passed over, the others encoded into new shards. Nothing of
the store is touched until the manifest, which comes last.

A subject that the source no longer has is kept, so a source may as well hold tonight's subjects
only, each of them whole. One who is excluded counts no more; its bytes go when the store is written
anew. Nobody changes split: what was held out must never be trained on.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from chronoward import files
from chronoward.data.assemble import excluded_ids, read_excluded
from chronoward.errors import ConfigError, FormatError
from chronoward.schema import SPLITS
from chronoward.store import StoreWriter, TokenStore
from chronoward.store.append import (
    next_folder,
    remove_strays,
    rows_of,
    write_manifest,
    write_superseded,
)
from chronoward.store.codes import code_table, known_codes, with_newer, write_codes
from chronoward.store.fingerprints import Fingerprints, read_fingerprints
from chronoward.store.layout import FINGERPRINTS
from chronoward.tokenize.job import job_on, scratch_folder
from chronoward.tokenize.reading import Observation, check_tokenizer
from chronoward.tokenize.reports import REPORT, copy_ledger
from chronoward.tokenize.splitting import choose_rule, make_split
from chronoward.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.data import PreparedEvents
    from chronoward.tokenize.reading import Reading


@dataclass(frozen=True, eq=False)
class _Known:
    """The subjects that a store has, ascending: split number and fingerprint of each, (n,)."""

    subject_id: NDArray[np.int64]
    split: NDArray[np.uint8]
    fingerprint: NDArray[np.uint64]

    @classmethod
    def of(cls, store: TokenStore) -> _Known:
        ids = [store.split(name).subject_id for name in SPLITS]
        numbers = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), [len(part) for part in ids])
        subject_id = np.concatenate(ids)
        order = np.argsort(subject_id, kind="stable")
        listed, fingerprints = read_fingerprints(store.fingerprint_paths)
        if not np.isin(subject_id, listed).all():
            message = f"{store.path} has subjects without a fingerprint"
            raise FormatError(message)
        place = np.searchsorted(listed, subject_id[order])
        return cls(subject_id[order], numbers[order], fingerprints[place])

    def find(self, subject_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Place of each subject, -1 where the store lacks it."""
        place = np.searchsorted(self.subject_id, subject_id)
        place[place == len(self.subject_id)] = 0
        found = len(self.subject_id) > 0 and self.subject_id[place] == subject_id
        return np.where(found, place, -1)


@dataclass(eq=False)
class _Update:
    """What an append has found so far.

    Attributes:
        subjects: how many are new, changed, unchanged, gone, excluded, or kept in another split
            than the source would have them in.
        counts: what encoding dropped, clamped and rolled up, of the subjects encoded.
        replaced: subjects of the store that count no more as they were.
        is_seen: bool, the subjects of `_Known` that the source has.
    """

    is_seen: NDArray[np.bool_]
    subjects: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    replaced: list[NDArray[np.int64]] = field(default_factory=list)
    fingerprints: Fingerprints = field(default_factory=Fingerprints)

    def changes_nothing(self) -> bool:
        return not any(self.subjects[name] for name in ("new", "changed", "excluded"))


class _Append:
    """The stages of one append."""

    def __init__(
        self, store: TokenStore, tokenizer: Tokenizer, prepared: PreparedEvents, reading: Reading
    ) -> None:
        self.store = store
        self.tokenizer = tokenizer
        self.prepared = prepared
        self.reading = reading
        self.known = _Known.of(store)
        self.split_of = make_split(prepared, choose_rule(prepared, store.manifest["split_rule"]))
        shards = {name: store.manifest["splits"][name]["shards"] for name in SPLITS}
        self.writer = StoreWriter(store.path, tokenizer_hash=tokenizer.hash, shards=shards)

    def encode(self) -> _Update:
        """Encodes new and changed subjects into new shards; passes over the others."""
        update = _Update(np.zeros(len(self.known.subject_id), np.bool_))
        codes, observation = self.prepared.codes, Observation(self.prepared.observation)
        n_seen = 0
        with self.writer as writer:
            for table in self.prepared.batches():
                if len(table):
                    self._encode_table(table, observation.of(table), codes, update)
                n_seen += len(table)
                self.reading.progress("encode", n_seen, self.prepared.n_events)
            writer.flush()
        return update

    def _encode_table(
        self, table: pa.Table, periods: pa.Table, codes: pa.Table, update: _Update
    ) -> None:
        given = self.tokenizer.input_of(table, periods, codes)
        found = self.tokenizer.fingerprints(given)
        place = self.known.find(given.subject_id)
        is_known = place >= 0
        update.is_seen[place[is_known]] = True
        is_same = is_known.copy()
        is_same[is_known] = self.known.fingerprint[place[is_known]] == found[is_known]
        split = self.split_of(given.subject_id)
        own = self.known.split[place[is_known]]
        update.subjects["kept_in_split"] += int((split[is_known] != own).sum())
        split[is_known] = own
        changed = is_known & ~is_same
        update.subjects["new"] += int((~is_known).sum())
        update.subjects["changed"] += int(changed.sum())
        update.subjects["unchanged"] += int(is_same.sum())
        if is_same.all():
            return
        if is_same.any():
            rows = np.repeat(~is_same, np.diff(given.row_offsets))
            given = self.tokenizer.input_of(table.filter(pa.array(rows)), periods, codes)
        batch = self.tokenizer.encode_input(given, self.reading.threads)
        self.writer.add(batch, split[~is_same])
        update.replaced.append(batch.subject_id[changed[~is_same]])
        update.fingerprints.add(batch.subject_id, found[~is_same])
        update.counts.update(batch.counts)

    def leave_out(self, update: _Update, excluded: NDArray[np.int64]) -> None:
        """Counts those whom the source lacks; the excluded ones among them count no more."""
        is_excluded = np.isin(self.known.subject_id, excluded)
        update.subjects["gone"] = int((~update.is_seen & ~is_excluded).sum())
        update.subjects["excluded"] = int(is_excluded.sum())
        update.replaced.append(self.known.subject_id[is_excluded])

    def finish(self, update: _Update) -> None:
        """What lies beside the new shards, then the manifest; nothing where nothing changed."""
        table = code_table(self.store.path, self.tokenizer)
        newer = with_newer(table, known_codes(self.prepared.codes, self.tokenizer))
        if update.changes_nothing() and newer.equals(table):
            return
        folder = next_folder(self.store)
        if not newer.equals(table):
            write_codes(folder, newer, self.tokenizer)
        superseded = self._superseded(np.concatenate(update.replaced))
        if any(superseded.values()):
            write_superseded(folder, [row for rows in superseded.values() for row in rows])
        update.fingerprints.write(folder / FINGERPRINTS)
        said = {
            "subjects": dict(sorted(update.subjects.items())),
            "counts": dict(sorted(update.counts.items())),
        }
        files.write_json(folder / REPORT, {**self.prepared.report, "append": said})
        copy_ledger(self.prepared, folder)
        write_manifest(self.store, self.writer.flush(), superseded, said)

    def _superseded(self, subject_id: NDArray[np.int64]) -> dict[str, list[tuple[str, int, int]]]:
        split = self.known.split[self.known.find(subject_id)]
        return {
            name: rows_of(self.store.split(name), subject_id[split == number])
            for number, name in enumerate(SPLITS)
        }


def _open(out: Path) -> TokenStore:
    """The store to append to.

    Raises:
        ConfigError: its splits are by time.
        FormatError: not a finished store, or one without fingerprints.
    """
    store = TokenStore.open(out)
    if store.manifest["split_rule"] == "temporal":
        message = f"{out} was split by time, which new subjects would change: write it anew"
        raise ConfigError(message)
    if not store.fingerprint_paths:
        message = f"{out} has no fingerprints to tell what changed: write it anew"
        raise FormatError(message)
    return store


def append(reading: Reading, out: Path) -> TokenStore:
    """Brings a store up to date with its source (see `chronoward.tokenize.tokenize`).

    Args:
        reading: the source.
        out: the store.

    Raises:
        ConfigError, DataError, FormatError, StateError, OSError: see `tokenize`.
    """
    store = _open(out)
    description = {"verb": "append", "store": store.manifest["checksum"], **reading.description()}
    with job_on(out, description):
        remove_strays(store)
        scratch = scratch_folder(out, reading.temp_dir)
        prepared = reading.prepare(scratch)
        tokenizer = Tokenizer.load(store.tokenizer_path)
        check_tokenizer(tokenizer, prepared)
        stages = _Append(store, tokenizer, prepared, reading)
        update = stages.encode()
        excluded = excluded_ids(read_excluded(reading.exclude_subjects))
        stages.leave_out(update, excluded.to_numpy())
        stages.finish(update)
        if reading.temp_dir is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return TokenStore.open(out)
