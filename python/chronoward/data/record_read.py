"""The clinical tables of an OMOP source, read once: every record becomes numbers.

Casts are counted as `chronoward.data.omop_tables` says. Records of nobody known are settled here;
the others go to the spool, and what the rules need to know about all of them is counted on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chronoward._core import RECORD_REMOVALS
from chronoward.data.meds_rows import NONE, NULL_US
from chronoward.data.meds_tables import DAY_US, sentinel_years_us
from chronoward.data.omop_tables import (
    CLINICAL,
    check_times,
    table_number,
)
from chronoward.data.record_numbers import RecordNumberings
from chronoward.data.record_spool import RecordSpool
from chronoward.data.record_sql import read_by_sql
from chronoward.data.record_text import read_as_text
from chronoward.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.data.config import IngestConfig
    from chronoward.data.record_rows import ReadRecords
    from chronoward.data.source import SourceTable
    from chronoward.data.workspace import Workspace

    Ints = NDArray[np.int64]
    Numbers = dict[str, NDArray[Any]]

_REMOVAL = {name: number for number, name in enumerate(RECORD_REMOVALS)}
_BYTES_A_ROW = 48
"""Of text, to guess how many rows there are."""


@dataclass
class ReadTable:
    """A clinical table as it was read.

    Attributes:
        name: the table.
        first: place of its first record among those of all tables.
        n_rows: how many it has.
        n_text_keys: how many of its keys are not written as an integer of 64 bits.
    """

    name: str
    first: int
    n_rows: int = 0
    n_text_keys: int = 0


class RecordReader:
    """Reads clinical tables.

    Args:
        work: the database.
        config: the dials.
        scratch: folder for what is spooled; made.
        subjects: int64, ids of the subjects whose records count, ascending.
        excluded: int64, ids of subjects that are left out.
        border_us: times after it make a calendar `shifted`.
        n_rows: how many records to expect (`expected_rows`).
    """

    def __init__(
        self,
        work: Workspace,
        config: IngestConfig,
        scratch: Path,
        *,
        subjects: Ints,
        excluded: Ints,
        border_us: int,
        n_rows: int,
    ) -> None:
        self._work, self._config = work, config
        self.spool = RecordSpool(scratch, len(subjects), n_rows)
        self._scratch = scratch
        self.subjects, self._excluded, self._border_us = subjects, excluded, border_us
        self._years = sentinel_years_us(config)
        self.numberings = RecordNumberings()
        self.tables: list[ReadTable] = []
        self.n_dated = self.n_late = 0
        """Times outside of sentinel years, and those of them after the border."""
        self._midnight: dict[tuple[int, int], list[int]] = {}
        self.is_name = _Marks()
        """By concept number: whether it stands where concepts name events."""
        self.is_value = _Marks()
        self.is_drug = _Marks()
        self.is_source_code = _Marks()
        """By source value: whether it names events."""

    @property
    def n_rows(self) -> int:
        """Records read so far."""
        return sum(table.n_rows for table in self.tables)

    def read(self, table: SourceTable, person: str, *, as_text: bool, threads: int) -> None:
        """Reads a table.

        Args:
            table: the source table.
            person: SQL expression of the subject's id.
            as_text: read the files' text as it is, not by SQL.
            threads: of reading; nothing depends on them.

        Raises:
            DataError: a required column is missing, a time column is none, or a key is null.
            IrregularTextError: text that only SQL can read.
        """
        spec = CLINICAL[table.name]
        table.require("person_id", spec.concept)
        if spec.day not in table.columns and spec.at not in table.columns:
            table.require(spec.day)
        check_times(self._work, table, (spec.day, spec.at, spec.end_day, spec.end_at))
        mine = ReadTable(table.name, self.n_rows)
        self.tables.append(mine)
        if as_text:
            batches = read_as_text(self._work, table, person, self.numberings, threads)
        else:
            batches = read_by_sql(self._work, table, person, self.numberings)
        n_keyless = 0
        with pq.ParquetWriter(self.text_keys(table.name), _text_key_schema()) as text_keys:
            for rows in batches:
                n_keyless += self._take(mine, rows, text_keys)
        if n_keyless:
            message = f"{table.origin}: {n_keyless} rows have no {spec.key}"
            raise DataError(message)

    def text_keys(self, table: str) -> Path:
        """File of the keys of a table that are no integers: place and key."""
        return self._scratch / f"{table}.keys.parquet"

    def _take(self, table: ReadTable, rows: ReadRecords, text_keys: pq.ParquetWriter) -> int:
        """Takes some rows; how many of them have no key."""
        n, number = len(rows), table_number(table.name)
        place = np.arange(n, dtype=np.int64) + (table.first + table.n_rows)
        table.n_rows += n
        n_text = len(rows.text_keys)
        if n_text:
            table.n_text_keys += n_text
            columns = [pa.array(place[rows.text_key_row]), rows.text_keys.cast(pa.string())]
            text_keys.write_table(pa.Table.from_arrays(columns, schema=_text_key_schema()))
        self._append("keys", rows.key)
        columns_of = {
            **rows.columns,
            "place": place,
            "order": rows.key,
            "table": np.full(n, number, np.uint16),
        }
        self._count(number, columns_of)
        self._settle(rows, columns_of)
        return int(np.count_nonzero(rows.key == NULL_US)) - n_text

    def _count(self, table: int, rows: Numbers) -> None:
        """What the rules need to know about all records."""
        none = np.full(len(rows["flags"]), NULL_US, np.int64)
        moment, day = rows.get("moment", none), rows.get("day", none)
        timed = moment != NULL_US
        start = np.where(timed, moment, day)
        counts = (start != NULL_US) & (np.abs(start) < _INFINITE_US)
        for begin, end in self._years.T.tolist():
            counts &= (start < begin) | (start >= end)
        self.n_dated += int(np.count_nonzero(counts))
        self.n_late += int(np.count_nonzero(counts & (start > self._border_us)))
        if timed.any():
            kind = rows.get("type", np.full(len(start), NONE, np.int32))[timed] + 1
            seen = np.bincount(kind)
            midnight = np.bincount(kind[moment[timed] % DAY_US == 0], minlength=len(seen))
            for place in np.flatnonzero(seen).tolist():
                sums = self._midnight.setdefault((table, place), [0, 0])
                sums[0] += int(seen[place])
                sums[1] += int(midnight[place])
        self._count_names(table, rows)

    def _count_names(self, table: int, rows: Numbers) -> None:
        nothing = np.full(len(rows["flags"]), NONE, np.int32)
        concept, source = rows["concept"], rows.get("source_concept", nothing)
        value = rows.get("source_value", nothing)
        self.is_name.mark(concept, source)
        if table == table_number("drug_exposure"):
            self.is_drug.mark(concept)
        self.is_value.mark(rows.get("value_concept", nothing))
        zero = self.numberings.ids.of(0)
        no_standard, no_source = (((c == NONE) | (c == zero)) for c in (concept, source))
        if self._config.concept_policy == "source":
            self.is_source_code.mark(value[no_source])
        else:
            self.is_source_code.mark(value[no_standard & no_source])

    def _append(self, name: str, column: NDArray[Any]) -> None:
        """Adds to a file of the records' keys or fates, by place."""
        with (self._scratch / name).open("ab") as file:
            column.tofile(file)

    def _settle(self, read: ReadRecords, rows: Numbers) -> None:
        """Spools the rows of known subjects; notes why the others are removed."""
        has_id, ids = read.has_subject, read.subject
        found = np.searchsorted(self.subjects, ids)
        inside = np.minimum(found, max(len(self.subjects) - 1, 0))
        known = has_id & (self.subjects[inside] == ids) if len(self.subjects) else has_id & False
        gone = np.zeros(len(ids), np.uint8)
        if not known.all():
            gone[~known] = _REMOVAL["unknown_person"]
            gone[has_id & np.isin(ids, self._excluded)] = _REMOVAL["excluded_subject"]
            gone[~has_id] = _REMOVAL["missing_subject"]
            rows = {name: column[known] for name, column in rows.items()}
            found = found[known]
        self._append("gone", gone)
        self.spool.add({**rows, "subject": found.astype(np.int32)})

    def date_types(self) -> set[tuple[int, int]]:
        """(table, concept number of a type or -1) whose 00:00:00 means a date without a time."""
        share = self._config.midnight_share
        return {
            (table, place + NONE)
            for (table, place), (n, n_midnight) in self._midnight.items()
            if n_midnight / n >= share
        }

    def concepts(self) -> set[int]:
        """Ids of concepts that name events, values or units."""
        ids = self.numberings.ids.values()
        found = {ids[number] for number in (*self.is_name.numbers(), *self.is_value.numbers())}
        units = {unit for unit, _ in self.numberings.unit_pairs() if unit is not None}
        return found | units

    def drugs(self) -> set[int]:
        """Ids of the standard concepts of drug records."""
        ids = self.numberings.ids.values()
        return {ids[number] for number in self.is_drug.numbers()}

    def finish(self) -> None:
        """Ends reading; records can be taken from then on."""
        self.spool.finish()


_INFINITE_US = 2**63 - 2


class _Marks:
    """A growing set of small numbers."""

    def __init__(self) -> None:
        self._seen = np.zeros(1 << 10, np.bool_)

    def mark(self, *columns: NDArray[np.int32]) -> None:
        """Adds numbers, -1 aside."""
        for column in columns:
            top = int(column.max(initial=NONE)) + 2
            if top > len(self._seen):
                self._seen = np.concatenate([self._seen, np.zeros(2 * top, np.bool_)])
            self._seen[column + 1] = True

    def numbers(self) -> list[int]:
        """Those that were marked, ascending."""
        found: list[int] = (np.flatnonzero(self._seen[1:])).tolist()
        return found


def _text_key_schema() -> pa.Schema:
    return pa.schema([("place", pa.int64()), ("key", pa.string())])


def expected_rows(work: Workspace, tables: list[SourceTable]) -> int:
    """About how many rows tables have: exact but for text, which is judged by its size."""
    n = 0
    for table in tables:
        if table.is_text:
            for file in table.files:
                packed = 8 if file.suffix.lower() == ".gz" else 1
                n += packed * file.stat().st_size // _BYTES_A_ROW
        else:
            n += int(work.value(f"SELECT count(*) FROM {table.scan}"))
    return n
