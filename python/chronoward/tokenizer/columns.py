"""Arrow event tables as flat arrays: strings become small keys once a batch, never per event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from chronoward._core import KeyIndex, subject_offsets
from chronoward.dictionary import encoded
from chronoward.errors import DataError
from chronoward.nulls import without_nulls
from chronoward.schema import Role, event_schema

if TYPE_CHECKING:
    from numpy.typing import NDArray

NULL_US: Final = -(2**63)

Key = tuple[int, str, str, "str | None"]  # role, table, code, unit


@dataclass(frozen=True, eq=False)
class EventColumns:
    """Events of n whole subjects, (N,) each; `key` indexes `keys`, `text` indexes `texts` (-1
    none); both are the reader's, which grow. Subject i owns rows row_offsets[i] to
    row_offsets[i + 1].

    Times are microseconds since 1970, `NULL_US` where there is none; visit_id likewise; `value` is
    NaN where there is no number.
    """

    subject_id: NDArray[np.int64]
    row_offsets: NDArray[np.int64]
    time_us: NDArray[np.int64]
    available_us: NDArray[np.int64]
    role: NDArray[np.uint8]
    key: NDArray[np.int32]
    value: NDArray[np.float32]
    text: NDArray[np.int32]
    visit_id: NDArray[np.int64]
    end_us: NDArray[np.int64]
    keys: list[Key]
    texts: list[str]

    def __len__(self) -> int:
        return len(self.subject_id)


class _Constants:
    """Columns of one value each, of any length: nobody writes to them, so they are made once."""

    def __init__(self) -> None:
        self._made: dict[Any, NDArray[Any]] = {}

    def of(self, value: Any, n: int) -> NDArray[Any]:
        """`value`, a NumPy scalar, n times."""
        made = self._made.get(value)
        if made is None or len(made) < n:
            made = self._made[value] = np.full(n, value)
        return made[:n]


class EventReader:
    """Reads batches of one event table; numbers of keys and texts mean the same in all of them."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.texts: list[str] = []
        self._index = KeyIndex()
        self._constants = _Constants()
        self._numbers = {name: _TextNumbers() for name in ("table", "code", "unit", "text_value")}

    def read(self, events: pa.Table, threads: int = 1) -> EventColumns:
        """Flat arrays of an event table.

        Args:
            events: columns of `chronoward.schema.event_schema`; strings may be dictionary-encoded.
            threads: worker threads; the result does not depend on it.

        Raises:
            DataError: a column is missing, or subjects do not ascend (not whole and contiguous).
        """
        missing = [name for name in event_schema().names if name not in events.column_names]
        if missing:
            message = f"event table lacks the columns {missing}"
            raise DataError(message)
        subject_id = self._integers(events, "subject_id")
        row_offsets = subject_offsets(subject_id)
        role = self._plain(events.column("role"), np.uint8(0))
        if len(role) and role.max() > max(Role):
            message = f"events row {int(np.argmax(role > max(Role)))}: unknown role"
            raise DataError(message)
        numbers = {name: self._numbered(events[name], name) for name in self._numbers}
        table, code, unit, text = numbers.values()
        key = self._index.number(role, table, code, unit, threads)
        self._name_keys()
        self.texts = self._numbers["text_value"].texts
        time_us, available_us = (
            self._integers(events, name) for name in ("time", "available_time")
        )
        if events["available_time"].null_count:
            available_us = np.where(available_us == NULL_US, time_us, available_us)
        return EventColumns(
            subject_id=subject_id,
            row_offsets=row_offsets,
            time_us=time_us,
            available_us=available_us,
            role=role,
            key=key,
            value=self._plain(events.column("numeric_value"), np.float32(np.nan)),
            text=text,
            visit_id=self._integers(events, "visit_id"),
            end_us=self._integers(events, "end_time"),
            keys=self.keys,
            texts=self.texts,
        )

    def _integers(self, events: pa.Table, name: str) -> NDArray[np.int64]:
        column = events.column(name)
        if pa.types.is_timestamp(column.type) and column.type.unit != "us":
            column = column.cast(pa.timestamp("us"))
        return self._plain(column, np.int64(NULL_US))

    def _plain(self, column: pa.ChunkedArray, null: np.generic) -> NDArray[Any]:
        """A column of numbers as an array of `null`'s type, which stands for nulls."""
        if column.null_count == len(column):
            return self._constants.of(null, len(column))
        return without_nulls(column, null)

    def _numbered(self, column: pa.ChunkedArray, name: str) -> NDArray[np.int32]:
        if column.null_count == len(column):
            return self._constants.of(np.int32(-1), len(column))
        return self._numbers[name].of(column)

    def _name_keys(self) -> None:
        tables, codes, units = (self._numbers[name].texts for name in ("table", "code", "unit"))
        for role, table, code, unit in self._index.keys(len(self.keys)):
            name = None if unit < 0 else units[unit]
            self.keys.append((role, tables[table], codes[code], name))


class _TextNumbers:
    """Numbers of a column's texts in order of first sight; a dictionary is looked through once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._number: dict[str, int] = {}
        self._last: tuple[pa.Array, NDArray[np.int32] | None] | None = None

    def of(self, column: pa.ChunkedArray) -> NDArray[np.int32]:
        """Numbers of a column, -1 for null."""
        indices, texts = encoded(column)
        number = self._translation(texts)
        return indices if number is None else np.asarray(number[indices])

    def _translation(self, dictionary: pa.Array) -> NDArray[np.int32] | None:
        """The number of each text of a dictionary, its last element serves -1; None where the
        numbers are the places in the dictionary, as in the first one."""
        if self._last is not None and _is_same(self._last[0], dictionary):
            return self._last[1]
        number = np.full(len(dictionary) + 1, -1, np.int32)
        for i, text in enumerate(dictionary.to_pylist()):
            if text not in self._number:
                self._number[text] = len(self.texts)
                self.texts.append(text)
            number[i] = self._number[text]
        is_place = bool((number[:-1] == np.arange(len(dictionary))).all())
        self._last = (dictionary, None if is_place else number)
        return self._last[1]


def _is_same(a: pa.Array, b: pa.Array) -> bool:
    """Whether two dictionaries lie at the same place in memory, as those of a file's batches do."""

    def place(array: pa.Array) -> list[Any]:
        buffers = (None if b is None else (b.address, b.size) for b in array.buffers())
        return [len(array), array.offset, *buffers]

    return place(a) == place(b)
