"""Arrays of a sample of subjects, read once from prepared events, for comparing two populations.

Comparisons are between samples of equal size, since nearly every distance depends on it. The sample
is the subjects with the smallest hash of (seed, subject_id): it does not depend on file order.
Where one of the sources has no visits, a visit is all events of a subject on one day.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronoward.dictionary import pair_numbers
from chronoward.philox import splitmix64
from chronoward.schema import Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

US_PER_DAY = 86_400_000_000
DAYS_PER_YEAR = 365.25
NO_TIME = np.iinfo(np.int64).min
FACTS = (Role.VISIT, Role.CODE, Role.DISCHARGE, Role.DEATH)


class Codebook:
    """Numbers codes in order of first sight, over all the corpora that are compared."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str], int] = {}
        self.keys: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self.keys)

    def number(self, table: str, code: str) -> int:
        """The number of a code; a new one for a new code."""
        key = (table, code)
        if key not in self.numbers:
            self.numbers[key] = len(self.keys)
            self.keys.append(key)
        return self.numbers[key]


@dataclass(frozen=True)
class Corpus:
    """A sample of n subjects: v visits and e code events, both in order of subject and time."""

    sex: NDArray[Any]  # (n,) F, M or U
    race: NDArray[Any]  # (n,)
    start_age: Floats  # (n,) years at the first visit, NaN where unknown
    died: NDArray[np.bool_]  # (n,)
    visit_subject: Ints  # (v,)
    visit_start: Floats  # (v,) days since 1970
    visit_end: Floats  # (v,)
    event_visit: Ints  # (e,) visit of each code event
    event_code: Ints  # (e,)
    fact_subject: Ints  # (f,) codes, visit types, discharges and deaths
    fact_code: Ints  # (f,)
    lab_subject: Ints  # (l,)
    lab_code: Ints  # (l,) number of (code, unit)
    lab_value: Floats  # (l,)

    @property
    def n_subjects(self) -> int:
        """Number of subjects."""
        return len(self.sex)

    @property
    def event_subject(self) -> Ints:
        """Subject of each code event, int64[e]."""
        return self.visit_subject[self.event_visit]


def sample_ids(batches: Iterable[pa.Table], n: int, seed: int, allowed: Ints | None) -> Ints:
    """The n subjects with the smallest hash of (seed, subject_id).

    Args:
        batches: event tables.
        n: how many.
        seed: of the hash.
        allowed: int64, only these subjects; None for all.

    Returns:
        int64, ascending, at most n.
    """
    found = [np.unique(np.asarray(batch["subject_id"].to_numpy())) for batch in batches]
    ids = np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
    if allowed is not None:
        ids = ids[np.isin(ids, allowed)]
    priority = splitmix64(splitmix64(ids) ^ np.uint64(seed))
    return np.sort(ids[np.argsort(priority, kind="stable")[:n]]).astype(np.int64)


def _microseconds(batch: pa.Table, name: str) -> Ints:
    column = pc.fill_null(pc.cast(batch[name], pa.int64()), NO_TIME)
    return np.asarray(column.to_numpy(), dtype=np.int64)


class CorpusReader:
    """Collects batches of events of sampled subjects into a `Corpus`."""

    def __init__(
        self, ids: Ints, codes: Codebook, labs: Codebook, *, use_visits: bool, use_table: bool
    ) -> None:
        self.ids, self.codes, self.labs = ids, codes, labs
        self.use_visits, self.use_table = use_visits, use_table
        self.sex = np.full(len(ids), "U", dtype=object)
        self.race = np.full(len(ids), "unknown", dtype=object)
        self.birth = np.full(len(ids), NO_TIME, dtype=np.int64)
        self.died = np.zeros(len(ids), dtype=bool)
        self.parts: dict[str, list[NDArray[Any]]] = {}

    def _add(self, **columns: NDArray[Any]) -> None:
        for name, column in columns.items():
            self.parts.setdefault(name, []).append(column)

    def read(self, batch: pa.Table) -> None:
        """Adds one event table (whole subjects)."""
        wanted = np.isin(np.asarray(batch["subject_id"].to_numpy()), self.ids)
        if not wanted.any():
            return
        batch = batch.filter(pa.array(wanted))
        subject = np.searchsorted(self.ids, np.asarray(batch["subject_id"].to_numpy()))
        role = np.asarray(batch["role"].to_numpy())
        time = _microseconds(batch, "time")
        self._read_static(batch, subject, role, time)
        visit_id = pc.fill_null(batch["visit_id"], -1).to_numpy().astype(np.int64)
        if not self.use_visits:
            visit_id = np.where(time == NO_TIME, -1, time // US_PER_DAY)
        number = pair_numbers(
            batch,
            ("table", "code"),
            lambda table, code: self.codes.number(table if self.use_table else "", code),
        )
        fact = np.isin(role, FACTS)
        self._add(fact_subject=subject[fact], fact_code=number[fact])
        timed = visit_id >= 0 if self.use_visits else time != NO_TIME
        timed &= time != NO_TIME
        end = _microseconds(batch, "end_time")
        stay = timed & ((role == Role.VISIT) if self.use_visits else (role == Role.CODE))
        self._add(
            visit_subject=subject[stay],
            visit_key=visit_id[stay],
            visit_start=time[stay],
            visit_end=np.maximum(time[stay], end[stay]),
        )
        event = timed & (role == Role.CODE)
        self._add(event_subject=subject[event], event_key=visit_id[event], event_code=number[event])
        self._read_labs(batch, subject, role)

    def _read_static(self, batch: pa.Table, subject: Ints, role: Ints, time: Ints) -> None:
        for kind, target in ((Role.SEX, self.sex), (Role.RACE, self.race)):
            rows = np.flatnonzero(role == kind)
            names = batch["code"].take(pa.array(rows)).to_pylist()
            target[subject[rows]] = [name.rpartition("/")[2] for name in names]
        born = (role == Role.BIRTH) & (time != NO_TIME)
        self.birth[subject[born]] = time[born]
        self.died[subject[role == Role.DEATH]] = True

    def _read_labs(self, batch: pa.Table, subject: Ints, role: Ints) -> None:
        value = pc.fill_null(batch["numeric_value"], np.nan).to_numpy().astype(np.float64)
        rows = np.flatnonzero((role == Role.CODE) & np.isfinite(value))
        part = batch.take(rows)
        number = pair_numbers(part, ("code", "unit"), self.labs.number)
        self._add(lab_subject=subject[rows], lab_code=number, lab_value=value[rows])

    def _column(self, name: str, dtype: Any) -> NDArray[Any]:
        parts = self.parts.get(name, [])
        return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype=dtype)

    def finish(self) -> Corpus:
        """The corpus of everything read."""
        subject = self._column("visit_subject", np.int64)
        key, start = self._column("visit_key", np.int64), self._column("visit_start", np.int64)
        end = self._column("visit_end", np.int64)
        pairs = np.column_stack([subject, key])
        unique, index = np.unique(pairs, axis=0, return_inverse=True)
        first = np.full(len(unique), np.iinfo(np.int64).max)
        last = np.full(len(unique), np.iinfo(np.int64).min)
        np.minimum.at(first, index.ravel(), start)
        np.maximum.at(last, index.ravel(), end)
        order = np.lexsort((unique[:, 1], first, unique[:, 0]))
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        owner = unique[order, 0]
        place = _find_pairs(
            unique, self._column("event_subject", np.int64), self._column("event_key", np.int64)
        )
        known = place >= 0
        event_visit = rank[place[known]]
        by_visit = np.argsort(event_visit, kind="stable")
        return Corpus(
            sex=self.sex,
            race=self.race,
            start_age=self._start_age(owner, first[order]),
            died=self.died,
            visit_subject=owner,
            visit_start=first[order] / US_PER_DAY,
            visit_end=last[order] / US_PER_DAY,
            event_visit=event_visit[by_visit],
            event_code=self._column("event_code", np.int64)[known][by_visit],
            fact_subject=self._column("fact_subject", np.int64),
            fact_code=self._column("fact_code", np.int64),
            lab_subject=self._column("lab_subject", np.int64),
            lab_code=self._column("lab_code", np.int64),
            lab_value=self._column("lab_value", np.float64),
        )

    def _start_age(self, owner: Ints, start: Ints) -> Floats:
        ages = np.full(len(self.ids), np.nan)
        subjects, first = np.unique(owner, return_index=True)
        known = self.birth[subjects] != NO_TIME
        elapsed = start[first[known]] - self.birth[subjects[known]]
        ages[subjects[known]] = elapsed / US_PER_DAY / DAYS_PER_YEAR
        return ages


def _find_pairs(unique: NDArray[np.int64], subject: Ints, key: Ints) -> Ints:
    """Row of each (subject, key) in the sorted `unique`, -1 where there is none."""
    if len(unique) == 0 or len(subject) == 0:
        return np.full(len(subject), -1, dtype=np.int64)
    base = min(int(unique[:, 1].min()), int(key.min()))
    width = max(int(unique[:, 1].max()), int(key.max())) - base + 1
    codes = unique[:, 0] * width + (unique[:, 1] - base)
    wanted = subject * width + (key - base)
    place = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return np.where(codes[place] == wanted, place, -1)


def shuffled(corpus: Corpus, seed: int) -> Corpus:
    """Independent marginals: codes are dealt out anew over all events, lab values over all labs.

    Visits, gaps and lengths stay; what codes have to do with each other, with the subject and with
    time is gone. A generator must be better than this.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    deal = generator.permutation(len(corpus.event_code))
    facts = generator.permutation(len(corpus.fact_code))
    labs = generator.permutation(len(corpus.lab_value))
    return replace(
        corpus,
        event_code=corpus.event_code[deal],
        fact_code=corpus.fact_code[facts],
        lab_value=corpus.lab_value[labs],
    )


def commonest_codes(corpus: Corpus, n: int) -> Ints:
    """The n codes that most subjects have, ascending by number."""
    pairs = np.unique(np.column_stack([corpus.event_subject, corpus.event_code]), axis=0)
    counts = Counter(pairs[:, 1].tolist())
    ranked = sorted(counts, key=lambda code: (-counts[code], code))
    return np.array(sorted(ranked[:n]), dtype=np.int64)
