"""A MEDS source made into the event table: read once, mended by the core subject by subject.

Passes over the spooled rows: facts about visits, units and texts (where there may be any of them),
then events in canonical order. What a pass finds out about the whole source goes into small tables
of the workspace, so that the code table, observation periods and the report come from the same SQL
as an OMOP source's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from chronoward._core import REMOVALS, put_rows
from chronoward.ahead import side_by_side
from chronoward.data.meds_rows import NONE, NULL_US, Numbering
from chronoward.data.meds_tables import DAY_US, make_mending
from chronoward.data.value_rules import ValueRules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.data.config import IngestConfig
    from chronoward.data.meds_spool import MedsSpool, SubjectRows

    Columns = dict[str, NDArray[Any]]

FACTS = ("n_explicit", "n_overlaps", "n_staged", "n_midnight", "n_visits")
_REMOVAL = {name: number for number, name in enumerate(REMOVALS)}


class MedsMender:
    """Mends a spooled source.

    Args:
        spool: its rows.
        config: the dials.
        calendar: real or shifted.
        excluded: ids of subjects to leave out.
        inpatient_codes: visit codes that the source's metadata calls inpatient.
        scratch: folder for the fates of rows.
        threads: that take pieces side by side; the result does not depend on them.
    """

    def __init__(
        self,
        spool: MedsSpool,
        config: IngestConfig,
        *,
        calendar: str,
        excluded: set[int],
        inpatient_codes: set[str],
        scratch: Path,
        threads: int,
    ) -> None:
        self.spool, self.config = spool, config
        self.codes = Numbering()
        """Codes of events, by number."""
        extract = config.extract_date
        future_us = None
        if extract is not None and calendar == "real":
            future_us = int(np.datetime64(extract, "us").astype(np.int64)) + DAY_US
        self._mending, has_patterns = make_mending(
            spool.numberings,
            self.codes,
            config,
            future_us=future_us,
            inpatient_codes=inpatient_codes,
        )
        self._threads = threads
        self._excluded = np.array(sorted(excluded), np.int64)
        self._facts = dict.fromkeys(FACTS, 0)
        is_surveyed = self._may_be_explicit()
        is_explicit = is_surveyed and self._survey(is_explicit=True)
        is_midnight = False
        if not is_explicit and (has_patterns or (self._has_values() and not is_surveyed)):
            self._survey(is_explicit=False)
        if not is_explicit or self._facts["n_overlaps"]:
            n = self._facts["n_staged"]
            is_midnight = bool(n) and self._facts["n_midnight"] / n >= config.midnight_share
        if is_midnight and not is_explicit:
            self._survey(is_explicit=False, is_midnight_date=True)
        self.has_visits = is_explicit or self._facts["n_visits"] > 0
        self._decide_values()
        self._mending.set_facts(
            is_explicit=is_explicit,
            is_disjoint=not self._facts["n_overlaps"],
            has_visits=self.has_visits,
            is_midnight_date=is_midnight,
        )
        n_rows = sum(spool.n_rows)
        self._gone = _mapped(scratch / "gone", np.uint8, n_rows)
        self._changes = _mapped(scratch / "changes", np.uint32, n_rows)
        for first, last in spool.orphans.tolist():
            self._gone[first:last] = _REMOVAL["missing_subject"]

    def _may_be_explicit(self) -> bool:
        numberings = self.spool.numberings
        return "visit_occurrence" in numberings.tables.texts and any(
            code.startswith("Visit/") for code in numberings.codes.texts
        )

    def _survey(self, *, is_explicit: bool, is_midnight_date: bool = False) -> bool:
        """Sums facts over all subjects; whether any row is a visit of its own.

        The core counts units and texts on the way. Which events have them does not depend on
        whether there are visits and whether they overlap: that changes rows of visits only.
        """
        self._mending.set_facts(
            is_explicit=is_explicit,
            is_disjoint=True,
            has_visits=True,
            is_midnight_date=is_midnight_date,
        )

        def surveyed(rows: SubjectRows) -> NDArray[np.int64]:
            return self._mending.survey(**self._given(rows))

        sums = np.zeros(len(FACTS), np.int64)
        for part in side_by_side(surveyed, self.spool.batches(), self._threads):
            sums += part
        self._facts = dict(zip(FACTS, sums.tolist(), strict=True))
        return self._facts["n_explicit"] > 0

    def _has_values(self) -> bool:
        """Whether there are units or texts, of which some things are known of all of them only."""
        return bool(self.spool.numberings.units.texts or self.spool.numberings.texts.texts)

    def _given(self, rows: SubjectRows) -> dict[str, Any]:
        """Rows as the core takes them."""
        is_excluded = np.isin(rows.subject_id, self._excluded).astype(np.uint8)
        columns = self.spool.columns(rows)
        return {"offsets": rows.offsets, "is_excluded": is_excluded, "rows": columns}

    def _decide_values(self) -> None:
        """Tells the core what becomes of units and texts, by what it has counted."""
        numberings = self.spool.numberings
        units = [(None, text) for text in numberings.units.texts]
        values = ValueRules(units, {}, self.codes.texts)
        values.decide(
            self._mending,
            map(self._given, self.spool.batches()),
            n_tables=len(numberings.tables.texts),
            texts=numberings.texts.texts,
            config=self.config,
            threads=self._threads,
        )
        self.texts = {
            "table": SortedTexts(numberings.tables.texts),
            "code": SortedTexts(self.codes.texts),
            "unit": SortedTexts(values.units.texts),
            "text": SortedTexts(numberings.texts.texts),
        }
        code = self.texts["code"]
        self._mending.set_values(
            **values.decided(),
            table_rank=self.texts["table"].rank,
            unit_rank=self.texts["unit"].rank,
            text_rank=self.texts["text"].rank,
            female=code.place("Gender/F"),
            male=code.place("Gender/M"),
            artificial=code.place("Visit/0"),
        )

    def pieces(self) -> Iterator[pa.Table]:
        """Yields the event table in canonical order."""

        def mended(rows: SubjectRows) -> pa.Table:
            piece = self._mending.piece(subject_id=rows.subject_id, **self._given(rows))
            fates = ((piece["gone"], self._gone), (piece["changes"], self._changes))
            for values, kept in fates:
                if values.any():  # mostly none: then no page is touched
                    put_rows(self.spool.run_offsets, rows.run, values, kept)
            return event_table(piece, self.texts)

        yield from side_by_side(mended, self.spool.batches(), self._threads)

    def fates(self) -> Iterator[tuple[Path, NDArray[np.uint8], NDArray[np.uint32]]]:
        """Of each shard: what became of its rows (numbers of `REMOVALS`, bits of `CHANGES`)."""
        first = 0
        for file, n in zip(self.spool.files, self.spool.n_rows, strict=True):
            yield file, self._gone[first : first + n], self._changes[first : first + n]
            first += n

    def facts(self) -> Columns:
        """Facts about the events of all pieces (`chronoward.data.meds_facts`)."""
        return self._mending.facts()


def _mapped(path: Path, dtype: type[Any], n: int) -> NDArray[Any]:
    """A new file as an array of zeros; its blocks are there, so a full disk is an error now.

    A hole would be one when it is written to: not an error then but a signal (SIGBUS).
    """
    if not n:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    n_bytes = n * np.dtype(dtype).itemsize
    with path.open("xb") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, n_bytes)
        except OSError as error:
            error.filename = str(path)
            raise
    return np.memmap(path, dtype, "r+")


class SortedTexts:
    """Texts in byte order.

    Attributes:
        values: string (n,), ascending.
        rank: int32 (n,), place of each text there, by the number it came with.
    """

    def __init__(self, texts: list[str]) -> None:
        order = sorted(range(len(texts)), key=lambda i: texts[i].encode())
        self.values = pa.array([texts[i] for i in order], pa.string())
        self.rank = np.empty(len(texts), np.int32)
        self.rank[order] = np.arange(len(order), dtype=np.int32)

    def place(self, text: str) -> int:
        """Where a text is, -1 where it is not."""
        return int(pa.compute.index(self.values, text).as_py())


def event_table(piece: Columns, texts: dict[str, SortedTexts]) -> pa.Table:
    """A piece as Arrow (`stored_event_schema`, without the columns that nobody has)."""

    def nullable(column: NDArray[Any], kind: pa.DataType, is_known: NDArray[np.bool_]) -> pa.Array:
        n_null = len(column) - int(np.count_nonzero(is_known))
        valid = pa.py_buffer(np.packbits(is_known, bitorder="little")) if n_null else None
        return pa.Array.from_buffers(kind, len(column), [valid, pa.py_buffer(column)], n_null)

    def integers(name: str, kind: pa.DataType) -> pa.Array:
        return nullable(piece[name], kind, piece[name] != NULL_US)

    def words(name: str) -> pa.Array:
        number = nullable(piece[name], pa.int32(), piece[name] != NONE)
        return pa.DictionaryArray.from_arrays(number, texts[name].values, safe=False)

    time = pa.timestamp("us")
    columns = {
        "subject_id": pa.array(piece["subject_id"]),
        "time": integers("time", time),
        "available_time": integers("available", time),
        "role": pa.array(piece["role"]),
        "table": words("table"),
        "code": words("code"),
        "numeric_value": nullable(piece["number"], pa.float32(), ~np.isnan(piece["number"])),
    }
    if len(piece["text"]):
        columns["text_value"] = words("text")
    if len(piece["unit"]):
        columns["unit"] = words("unit")
    if len(piece["visit_id"]):
        columns["visit_id"] = integers("visit_id", pa.int64())
        columns["end_time"] = integers("end_time", time)
    return pa.table(columns)
