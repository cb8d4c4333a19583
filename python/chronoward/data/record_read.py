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

from chronoward._core import RecordCensus
from chronoward.data.meds_rows import NULL_US
from chronoward.data.meds_tables import sentinel_years_us
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
        self.subjects = subjects
        self.numberings = RecordNumberings()
        self.census = RecordCensus(
            subjects=subjects,
            excluded=np.sort(excluded),
            sentinel_us=sentinel_years_us(config),
            border_us=border_us,
            zero=self.numberings.ids.of(0),
            uses_source_concept=config.concept_policy == "source",
        )
        self.tables: list[ReadTable] = []

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
        with (
            pq.ParquetWriter(self.text_keys(table.name), _text_key_schema()) as text_keys,
            self.spool.behind,
        ):
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
        subject, gone, n_known = self.census.take(
            rows.subject, rows.columns, table=number, is_drug=table.name == "drug_exposure"
        )
        self._append("keys", rows.key)
        self._append("gone", gone)
        spooled = {**rows.columns, "place": place, "subject": subject}
        if n_known < n:
            known = gone == 0
            spooled = {name: column[known] for name, column in spooled.items()}
        self.spool.add(spooled)
        return int(np.count_nonzero(rows.key == NULL_US)) - n_text

    def _append(self, name: str, column: NDArray[Any]) -> None:
        """Adds to a file of the records' keys or fates, by place."""
        with (self._scratch / name).open("ab") as file:
            column.tofile(file)

    def date_types(self) -> set[tuple[int, int]]:
        """(table, concept number of a type or -1) whose 00:00:00 means a date without a time."""
        share = self._config.midnight_share
        return {
            found
            for found, (n, n_midnight) in self.census.midnights.items()
            if n_midnight / n >= share
        }

    def concepts(self) -> set[int]:
        """Ids of concepts that name events, values or units."""
        ids = self.numberings.ids.values()
        found = {ids[number] for number in (*self.census.names(), *self.census.values())}
        units = {unit for unit, _ in self.numberings.unit_pairs() if unit is not None}
        return found | units

    def drugs(self) -> set[int]:
        """Ids of the standard concepts of drug records."""
        ids = self.numberings.ids.values()
        return {ids[number] for number in self.census.drugs()}

    def finish(self) -> None:
        """Ends reading; records can be taken from then on."""
        self.spool.finish()


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
