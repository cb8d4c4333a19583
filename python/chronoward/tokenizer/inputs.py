"""What encode reads: flat event columns, keys found in a vocabulary, observation periods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from chronoward.errors import DataError
from chronoward.tokenizer.columns import EventColumns, EventReader
from chronoward.tokenizer.fingerprint import key_hashes, text_hashes
from chronoward.tokenizer.fit import kind_of, nearest_kept
from chronoward.tokenizer.vocabulary import UNKNOWN_CODE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.tokenizer.vocabulary import Vocabulary

UNKNOWN: Final = -1
NOT_IN_PRESET: Final = -2
NO_TEXT: Final = -1
UNKNOWN_TEXT: Final = -2
ROLLED_UP: Final = 0  # how a key got its entry: an ancestor's, or another unit's
EXACT: Final = 1
PLACED: Final = 2  # that of a code whose concept embedding is near

CodeRows = dict[tuple[str, str], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class EncodeInput:
    """Events of n subjects with keys resolved.

    Attributes:
        columns: the events; subject i owns rows row_offsets[i] to row_offsets[i + 1].
        key_entry: int32 (K,), code entry per key, `UNKNOWN` or `NOT_IN_PRESET`.
        key_exact: uint8 (K,), `EXACT`, or how else the entry came to stand for the key.
        text_number: int32 (texts + 1,), number of each text; the last element serves text -1.
        key_hash: uint64 (K,), of each key and what it is encoded as (`fingerprint.key_hashes`).
        text_hash: uint64 (texts,) (`fingerprint.text_hashes`).
        subject_id: int64 (n,).
        row_offsets: int64 (n + 1,).
        obs_offsets: int64 (n + 1,), bounds in the observation periods.
        obs_start_us: int64, microseconds since 1970.
        obs_end_us: int64, microseconds since 1970.
    """

    columns: EventColumns
    key_entry: NDArray[np.int32]
    key_exact: NDArray[np.uint8]
    text_number: NDArray[np.int32]
    key_hash: NDArray[np.uint64]
    text_hash: NDArray[np.uint64]
    subject_id: NDArray[np.int64]
    row_offsets: NDArray[np.int64]
    obs_offsets: NDArray[np.int64]
    obs_start_us: NDArray[np.int64]
    obs_end_us: NDArray[np.int64]


class Resolver:
    """Finds the code entries of a source's keys; remembers what it found.

    Attributes:
        reader: of the source's event tables.
        key_hash: of the reader's keys and what they were found to be (`fingerprint.key_hashes`).
        text_hash: of the reader's texts (`fingerprint.text_hashes`).
    """

    def __init__(self, vocabulary: Vocabulary, code_rows: CodeRows) -> None:
        self._vocabulary = vocabulary
        self._code_rows = code_rows
        self._known = set(vocabulary.dominant_entry)
        self.reader = EventReader()
        self.key_hash = np.zeros(0, np.uint64)
        self.text_hash = np.zeros(0, np.uint64)
        self._entry = np.zeros(0, np.int32)
        self._match = np.zeros(0, np.uint8)
        self._text = np.full(1, NO_TEXT, np.int32)
        self._anywhere = {  # sex and death are the same thing in any table
            (e.kind, e.code): i
            for i, e in reversed(list(enumerate(vocabulary.codes)))
            if e.kind in ("sex", "death", "birth")
        }
        self._default = {
            kind: i for kind, code in UNKNOWN_CODE.items() for i in self._entries(kind, code)
        }

    def _entries(self, kind: str, code: str) -> list[int]:
        return [
            i for i, e in enumerate(self._vocabulary.codes) if e.kind == kind and e.code == code
        ]

    def entries(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Of each of the reader's keys: its entry, and how it was found."""
        keys = self.reader.keys
        if len(keys) > len(self._entry):
            found = [self.find(*key) for key in keys[len(self._entry) :]]
            self._entry = np.append(self._entry, [entry for entry, _ in found]).astype(np.int32)
            self._match = np.append(self._match, [match for _, match in found]).astype(np.uint8)
        return self._entry, self._match

    def text_numbers(self) -> NDArray[np.int32]:
        """The number of each of the reader's texts; the last element serves text -1."""
        texts = self.reader.texts
        if len(texts) >= len(self._text):
            vocabulary = self._vocabulary
            unknown = NO_TEXT if vocabulary.spec.values == "none" else UNKNOWN_TEXT
            numbers = [vocabulary.text_index.get(text, unknown) for text in texts]
            self._text = np.array([*numbers, NO_TEXT], np.int32)
        return self._text

    def find(self, role: int, table: str, code: str, unit: str | None) -> tuple[int, int]:
        """The entry of a key; `EXACT` for exactly this code and unit, `ROLLED_UP` or `PLACED`."""
        kind = kind_of(role, self._vocabulary.spec)
        if kind is None:
            return NOT_IN_PRESET, EXACT
        has_unit = kind == "code" and self._vocabulary.spec.keeps_units
        exact = self._vocabulary.entry_index.get((kind, table, code, unit if has_unit else None))
        if exact is not None:
            return exact, EXACT
        if (kind, code) in self._anywhere:
            return self._anywhere[kind, code], EXACT
        if kind == "death":  # whatever the source calls it
            death = self._vocabulary.codes[self._only("death")].code
            return self._entries("death", death)[0], EXACT
        target = nearest_kept(kind, table, code, self._known, self._code_rows.get((table, code)))
        if target is not None:
            return self._vocabulary.dominant_entry[kind, table, target], ROLLED_UP
        near = self._vocabulary.placed.get((table, code)) if kind == "code" else None
        if near is not None:
            return self._vocabulary.dominant_entry[kind, table, near], PLACED
        return self._default.get(kind, UNKNOWN), ROLLED_UP

    def _only(self, kind: str) -> int:
        return next(i for i, e in enumerate(self._vocabulary.codes) if e.kind == kind)


def prepare_input(
    events: pa.Table, observation: pa.Table, resolver: Resolver, threads: int = 1
) -> EncodeInput:
    """Flat arrays for encode.

    Args:
        events: event table of whole subjects, ascending.
        observation: observation periods; those of other subjects are ignored.
        resolver: for the tokenizer's vocabulary and the source's code table.
        threads: worker threads; the result does not depend on it.

    Raises:
        DataError: a table does not have its schema, or subjects do not ascend.
    """
    columns = resolver.reader.read(events, threads)
    key_entry, key_exact = resolver.entries()
    subject_id = columns.subject_id[columns.row_offsets[:-1]]
    obs_offsets, obs_start, obs_end = _observation(observation, subject_id)
    return EncodeInput(
        columns=columns,
        key_entry=key_entry,
        key_exact=key_exact,
        text_number=resolver.text_numbers(),
        key_hash=key_hashes(resolver),
        text_hash=text_hashes(resolver),
        subject_id=subject_id,
        row_offsets=columns.row_offsets,
        obs_offsets=obs_offsets,
        obs_start_us=obs_start,
        obs_end_us=obs_end,
    )


def _observation(
    observation: pa.Table, subject_id: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    missing = {"subject_id", "start_time", "end_time"} - set(observation.column_names)
    if missing:
        message = f"observation table lacks the columns {sorted(missing)}"
        raise DataError(message)
    who = observation.column("subject_id").to_numpy()
    start, end = (
        observation.column(name).cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
        for name in ("start_time", "end_time")
    )
    ours = np.isin(who, subject_id)
    who, start, end = who[ours], start[ours], end[ours]
    order = np.lexsort((end, start, who))
    offsets = np.append(np.searchsorted(who[order], subject_id), len(who))
    return offsets.astype(np.int64), start[order], end[order]
