"""A MEDS source made into the event table: read once, mended by the core subject by subject.

Passes over the spooled rows: facts about visits (where there may be any), values (where there are
units or texts), then events in canonical order. What a pass finds out about the whole source goes
into small tables of the workspace, so that the code table, observation periods and the report come
from the same SQL as an OMOP source's.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from chronoward._core import REMOVALS, canonical_order, count_keys, distinct_keys
from chronoward.data.meds_rows import NONE, NULL_US, Numbering
from chronoward.data.meds_tables import DAY_US, make_mending
from chronoward.data.meds_values import CodeEvents, ResolvedValues, ValueRules
from chronoward.schema import Role, stored_event_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.data.config import IngestConfig
    from chronoward.data.meds_spool import MedsSpool, SubjectRows
    from chronoward.data.workspace import Workspace

    Ints = NDArray[np.int64]
    Columns = dict[str, NDArray[Any]]

NEVER_US = np.iinfo(np.int64).max
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
        threads: of the core; the result does not depend on them.
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
        self._is_explicit = self._may_be_explicit() and self._survey(is_explicit=True)
        is_midnight = False
        if not self._is_explicit and has_patterns:
            self._survey(is_explicit=False)
        if not self._is_explicit or self._facts["n_overlaps"]:
            n = self._facts["n_staged"]
            is_midnight = bool(n) and self._facts["n_midnight"] / n >= config.midnight_share
        if is_midnight and not self._is_explicit:
            self._survey(is_explicit=False, is_midnight_date=True)
        self.has_visits = self._is_explicit or self._facts["n_visits"] > 0
        self._set_facts(
            is_explicit=self._is_explicit,
            is_disjoint=not self._facts["n_overlaps"],
            has_visits=self.has_visits,
            is_midnight_date=is_midnight,
        )
        numberings = spool.numberings
        self._values = ValueRules(self.codes, numberings.units, numberings.texts, config)
        if numberings.units.texts or numberings.texts.texts:
            for rows, made in self._mended():
                self._values.count(self._code_events(rows, made)[1])
        self._values.finish()
        self._fates = [
            (
                _mapped(scratch / f"gone.{i}", np.uint8, n),
                _mapped(scratch / f"changes.{i}", np.uint32, n),
            )
            for i, n in enumerate(spool.n_rows)
        ]
        for shard, first, last in spool.orphans:
            self._fates[shard][0][first:last] = _REMOVAL["missing_subject"]

    def _may_be_explicit(self) -> bool:
        numberings = self.spool.numberings
        return "visit_occurrence" in numberings.tables.texts and any(
            code.startswith("Visit/") for code in numberings.codes.texts
        )

    def _set_facts(self, **facts: bool) -> None:
        names = ("is_explicit", "is_disjoint", "has_visits", "is_midnight_date")
        self._mending.set_facts(**{name: facts.get(name, False) for name in names})

    def _survey(self, **facts: bool) -> bool:
        """Sums facts over all subjects; whether any row is a visit of its own."""
        self._set_facts(**facts)
        sums = np.zeros(len(FACTS), np.int64)
        for _, made in self._mended():
            sums += made["facts"]
        self._facts = dict(zip(FACTS, sums.tolist(), strict=True))
        return self._facts["n_explicit"] > 0

    def _mended(self) -> Iterator[tuple[SubjectRows, Columns]]:
        for rows in self.spool.batches():
            is_excluded = np.isin(rows.subject_id, self._excluded).astype(np.uint8)
            yield (
                rows,
                self._mending.mend(
                    offsets=rows.offsets,
                    is_excluded=is_excluded,
                    **rows.columns,
                    n_threads=self._threads,
                ),
            )

    @staticmethod
    def _code_events(rows: SubjectRows, made: Columns) -> tuple[Ints, CodeEvents]:
        place = np.flatnonzero(made["role"] == Role.CODE)
        columns = {name: made[name][place] for name in ("table", "code", "unit", "text", "number")}
        return place, CodeEvents(rows.subject_id[made["subject"][place]], **columns)

    def pieces(self, seen: Callable[[SubjectRows, Columns], None]) -> Iterator[pa.Table]:
        """Yields the event table in canonical order; `seen` is shown each piece's columns."""
        numberings = self.spool.numberings
        dictionaries = {
            "table": _Dictionary(numberings.tables.texts),
            "code": _Dictionary(self.codes.texts),
            "unit": _Dictionary(self._values.units.texts),
            "text": _Dictionary(numberings.texts.texts),
        }
        for rows, made in self._mended():
            place, events = self._code_events(rows, made)
            values = self._values.resolve(events)
            self._keep_fates(rows, made, place, values)
            columns = _columns(rows, made, place, values, dictionaries)
            seen(rows, columns)
            yield _table(columns, dictionaries)

    def _keep_fates(
        self, rows: SubjectRows, made: Columns, place: Ints, values: ResolvedValues
    ) -> None:
        made["changes"][made["row"][place]] |= values.changes
        for shard in np.unique(rows.shard).tolist():
            mine = rows.shard == shard
            gone, changes = self._fates[shard]
            gone[rows.row[mine]] = made["gone"][mine]
            changes[rows.row[mine]] = made["changes"][mine]

    def fates(self) -> Iterator[tuple[Path, NDArray[np.uint8], NDArray[np.uint32]]]:
        """Of each shard: what became of its rows (numbers of `REMOVALS`, bits of `CHANGES`)."""
        for file, n, (gone, changes) in zip(
            self.spool.files, self.spool.n_rows, self._fates, strict=True
        ):
            yield file, gone[:n], changes[:n]


def _mapped(path: Path, dtype: type[Any], n: int) -> NDArray[Any]:
    """A new file as an array of zeros; its blocks are there, so a full disk is an error now.

    A hole would be one when it is written to: not an error then but a signal (SIGBUS).
    """
    n_bytes = max(n, 1) * np.dtype(dtype).itemsize
    with path.open("xb") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, n_bytes)
        except OSError as error:
            error.filename = str(path)
            raise
    return np.memmap(path, dtype, "r+")


class _Dictionary:
    """Texts in byte order, and the place of each number there."""

    def __init__(self, texts: list[str]) -> None:
        order = sorted(range(len(texts)), key=lambda i: texts[i].encode())
        self.values = pa.array([texts[i] for i in order], pa.string())
        self._rank = np.full(len(texts) + 1, NONE, np.int32)  # the last one serves -1
        self._rank[order] = np.arange(len(order), dtype=np.int32)

    def ranks(self, numbers: NDArray[Any]) -> NDArray[np.int32]:
        return self._rank[numbers.astype(np.int64)]


def _columns(
    rows: SubjectRows,
    made: Columns,
    place: Ints,
    values: ResolvedValues,
    dictionaries: dict[str, _Dictionary],
) -> Columns:
    """The piece's columns in canonical order, texts as ranks in byte order."""
    n = len(made["role"])
    number = np.full(n, np.nan, np.float32)
    unit, text = np.full(n, NONE, np.int32), np.full(n, NONE, np.int32)
    number[place], unit[place], text[place] = values.number, values.unit, values.text
    columns: Columns = {
        "subject": made["subject"],
        **{name: made[name] for name in ("available", "role", "time", "visit_id", "end_time")},
        "table": dictionaries["table"].ranks(made["table"]),
        "code": dictionaries["code"].ranks(made["code"]),
        "unit": dictionaries["unit"].ranks(unit),
        "text": dictionaries["text"].ranks(text),
        "number": number,
    }
    order = canonical_order(**columns)
    columns = {name: column[order] for name, column in columns.items()}
    columns["subject_id"] = rows.subject_id[columns["subject"]]
    return columns


def _table(columns: Columns, dictionaries: dict[str, _Dictionary]) -> pa.Table:
    def times(name: str) -> pa.Array:
        us = columns[name]
        return pa.array(us, pa.int64(), mask=us == NULL_US).cast(pa.timestamp("us"))

    def texts(name: str) -> pa.Array:
        ranks = columns[name]
        number = pa.array(ranks, pa.int32(), mask=ranks == NONE)
        return pa.DictionaryArray.from_arrays(number, dictionaries[name].values)

    number, visit = columns["number"], columns["visit_id"]
    arrays = [
        pa.array(columns["subject_id"]),
        times("time"),
        times("available"),
        pa.array(columns["role"]),
        texts("table"),
        texts("code"),
        pa.array(number, pa.float32(), mask=np.isnan(number)),
        texts("text"),
        texts("unit"),
        pa.array(visit, pa.int64(), mask=visit == NULL_US),
        times("end_time"),
    ]
    return pa.Table.from_arrays(arrays, schema=stored_event_schema())


class SourceFacts:
    """What the code table, the observation periods and the report ask of all events."""

    def __init__(self, mender: MedsMender) -> None:
        self._codes = sorted(mender.codes.texts, key=str.encode)
        tables = sorted(mender.spool.numberings.tables.texts, key=str.encode)
        self.tables = tuple(tables)
        self._code_rank = {code: rank for rank, code in enumerate(self._codes)}
        self._kinds: set[tuple[int, int, int]] = set()  # (table, code, role) by rank
        self._of_sex: dict[str, Counter[tuple[int, int]]] = {"F": Counter(), "M": Counter()}
        self._count = np.zeros((2, len(self._codes)), np.int64)  # events, subjects
        self._visits = Counter[str]()
        self._life: list[tuple[Ints, Ints, Ints]] = []
        self._death: list[tuple[Ints, Ints]] = []

    def add(self, rows: SubjectRows, columns: Columns) -> None:
        """Takes a piece of events in canonical order into account."""
        n_tables, n_codes = len(self.tables), len(self._codes)
        no_unit = np.full(len(columns["role"]), NONE, np.int32)
        present, number = distinct_keys(
            columns["role"], columns["table"], columns["code"], no_unit, n_tables, n_codes, 0
        )
        pairs = []
        for packed in present.tolist():
            role, pair = divmod(packed, n_tables * n_codes)
            pairs.append(divmod(pair, n_codes))
            self._kinds.add((*pairs[-1], role))
        is_code = columns["role"] == Role.CODE
        code, subject = columns["code"][is_code], columns["subject"][is_code]
        self._count += np.stack(count_keys(code, subject, len(self._codes)))
        self._add_times(rows, columns)
        self._add_sexes(columns, is_code, pairs, number)
        self._add_visits(columns, is_code)

    def _add_times(self, rows: SubjectRows, columns: Columns) -> None:
        timed = np.flatnonzero(columns["time"] != NULL_US)
        place = columns["subject"][timed]
        starts = np.flatnonzero(np.diff(place, prepend=-1))
        if not len(starts):
            return
        time = columns["time"][timed]
        late = np.maximum.reduce([columns[n][timed] for n in ("available", "time", "end_time")])
        is_birth = columns["role"][timed] == Role.BIRTH
        first = np.minimum.reduceat(np.where(is_birth, NEVER_US, time), starts)
        any_time = np.minimum.reduceat(time, starts)
        first = np.where(first == NEVER_US, any_time, first)
        self._life.append(
            (rows.subject_id[place[starts]], first, np.maximum.reduceat(late, starts))
        )
        died = columns["role"] == Role.DEATH
        self._death.append((columns["subject_id"][died], columns["time"][died]))

    def _add_sexes(
        self,
        columns: Columns,
        is_code: NDArray[np.bool_],
        pairs: list[tuple[int, int]],
        number: NDArray[np.int32],
    ) -> None:
        for sex, found in self._of_sex.items():
            rank = self._code_rank.get(f"Gender/{sex}")
            if rank is None:
                continue
            has = (columns["role"] == Role.SEX) & (columns["code"] == rank)
            is_of_sex = np.zeros(int(columns["subject"][-1]) + 1, np.bool_)
            is_of_sex[columns["subject"][has]] = True
            mine = is_of_sex[columns["subject"]] & is_code
            _, subjects = count_keys(number[mine], columns["subject"][mine], len(pairs))
            for i in np.flatnonzero(subjects).tolist():
                found[pairs[i]] += int(subjects[i])

    def _add_visits(self, columns: Columns, is_code: NDArray[np.bool_]) -> None:
        is_visit = columns["role"] == Role.VISIT
        is_made = is_visit & (columns["code"] == self._code_rank["Visit/0"])
        n_artificial = 0
        if is_made.any():
            inside = is_code & (columns["visit_id"] != NULL_US)
            visit = (columns["subject"] << 32) | np.maximum(columns["visit_id"], 0)
            n_artificial = int(np.isin(visit[inside], visit[is_made]).sum())
        self._visits.update(
            n_visits=int(is_visit.sum()),
            n_made=int(is_made.sum()),
            n_code=int(is_code.sum()),
            n_artificial=n_artificial,
        )

    def register(self, work: Workspace, config: IngestConfig, inpatient: Iterable[str]) -> None:
        """Makes the tables of `chronoward.data.codes.describe_events`, and `subject`'s deaths."""
        kinds = sorted(self._kinds)
        work.add_rows(
            "event_kind",
            pa.table(
                {
                    "tbl": pa.array([t for t, _, _ in kinds], pa.uint16()),
                    "code": pa.array([self._codes[c] for _, c, _ in kinds], pa.string()),
                    "role": pa.array([r for _, _, r in kinds], pa.uint8()),
                }
            ),
        )
        least = config.sex_specific_min_subjects
        female, male = self._of_sex["F"], self._of_sex["M"]
        rows = [(key, "F", n) for key, n in female.items() if key not in male]
        rows += [(key, "M", n) for key, n in male.items() if key not in female]
        kept = sorted((key, sex) for key, sex, n in rows if n >= least)
        work.add_rows(
            "code_sex",
            pa.table(
                {
                    "tbl": pa.array([t for (t, _), _ in kept], pa.uint16()),
                    "code": pa.array([self._codes[c] for (_, c), _ in kept], pa.string()),
                    "sex": pa.array([sex for _, sex in kept], pa.string()),
                }
            ),
        )
        work.add_rows("inpatient_code", pa.table({"code": pa.array(list(inpatient), pa.string())}))
        seen = np.flatnonzero(self._count[0])
        work.add_rows(
            "code_count",
            pa.table(
                {
                    "code": pa.array([self._codes[i] for i in seen], pa.string()),
                    "n_events": self._count[0][seen],
                    "n_subjects": self._count[1][seen],
                }
            ),
        )
        names = ("n_visits", "n_made", "n_code", "n_artificial")
        work.add_rows("visit_count", pa.table({name: [self._visits[name]] for name in names}))
        subject, first, last = (_joined(parts) for parts in _transposed(self._life, 3))
        work.add_rows(
            "times", pa.table({"subject_id": subject, "first": _us(first), "last": _us(last)})
        )
        died, death = (_joined(parts) for parts in _transposed(self._death, 2))
        work.add_rows("death_time", pa.table({"subject_id": died, "death": _us(death)}))


def _transposed(pieces: Sequence[tuple[Ints, ...]], n: int) -> list[list[Ints]]:
    """The n columns of pieces, of which there may be none."""
    return [[piece[i] for piece in pieces] for i in range(n)]


def _joined(parts: Iterable[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _us(values: Ints) -> pa.Array:
    return pa.array(values, pa.int64()).cast(pa.timestamp("us"))
