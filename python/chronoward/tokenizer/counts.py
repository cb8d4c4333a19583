"""What `fit` needs to know of the train split: mergeable, the same for any sharding or order.

Numbers of events and subjects are exact (a subject lies wholly in one table). Values, durations and
starts are bottom-k samples by a hash of the event itself, so that the sample of a union is made
from the samples. The counts hold rare codes: they are working files, not for publication.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from chronoward import files
from chronoward._core import count_keys
from chronoward.errors import DataError, FormatError
from chronoward.schema import Role
from chronoward.tokenizer.columns import NULL_US, EventColumns, read_events
from chronoward.tokenizer.grammar import US_PER_DAY, US_PER_MIN
from chronoward.tokenizer.sampling import Sample, Sampler

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

COUNTS_VERSION: Final = 1
NEVER_US: Final = np.iinfo(np.int64).max
CODE_COLUMNS: Final = ("table", "code")

Key = tuple[int, str, str, "str | None"]


def _first_per_subject(group: NDArray[np.int64], subject: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True at one row per distinct (group, subject)."""
    order = np.lexsort((subject, group))
    g, s = group[order], subject[order]
    is_new = np.ones(len(g), np.bool_)
    is_new[1:] = (g[1:] != g[:-1]) | (s[1:] != s[:-1])
    mask = np.zeros(len(g), np.bool_)
    mask[order[is_new]] = True
    return mask


def _year_of(us: NDArray[np.int64]) -> NDArray[np.int64]:
    return us.astype("datetime64[us]").astype("datetime64[Y]").astype(np.int64) + 1970


def _distinct_moments(
    group: NDArray[np.int64], minute: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct (group, minute), sorted; minutes of years 1 to 9999 fit in 34 bits."""
    if not len(group):
        return group, minute
    least = int(minute.min())
    packed = np.sort((group.astype(np.int64) << 34) | (minute - least))
    packed = packed[np.diff(packed, prepend=-1) != 0]  # np.unique hashes these badly
    return packed >> 34, (packed & ((1 << 34) - 1)) + least


@dataclass(frozen=True, eq=False)
class Watched:
    """Since when subjects are observed.

    Attributes:
        subject_id: int64 (n,), ascending.
        start_us: int64 (n,), microseconds since 1970.
    """

    subject_id: NDArray[np.int64]
    start_us: NDArray[np.int64]

    @classmethod
    def by_nobody(cls) -> Watched:
        """Nothing is known of anybody's observation."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def from_table(cls, observation: pa.Table) -> Watched:
        """From observation periods (`chronoward.schema.observation_schema`)."""
        subject_id, first = np.unique(observation["subject_id"].to_numpy(), return_index=True)
        start_us = observation["start_time"].cast(pa.int64()).to_numpy()
        return cls(subject_id, start_us[first])  # a subject's periods ascend

    def since_us(self, subjects: NDArray[np.int64]) -> NDArray[np.int64]:
        """The start of some subjects' observation, `NEVER_US` where it is not known."""
        found = np.full(len(subjects), NEVER_US)
        place = np.searchsorted(self.subject_id, subjects)
        known = place < len(self.subject_id)
        known[known] = self.subject_id[place[known]] == subjects[known]
        found[known] = self.start_us[place[known]]
        return found


@dataclass(eq=False)
class FitCounts:
    """Counts and samples of some subjects of the train split.

    Attributes:
        n_events: events per key (role, table, code, unit).
        n_subjects: subjects per key.
        n_text_subjects: subjects per (key, text).
        years: subjects with an event per calendar year.
        values: sampled numbers per key (group = position in `key_order`).
        durations: sampled minutes; group 0 between visits, 1 inside, 2 between moments (events).
        starts: sampled first moments; group 0 day of the year by year (value = year * 1000 + day),
            1 days since birth, 2 minute of the day.
        key_order: keys by group number of `values`.
        codes: rows of the code table by (table, code).
    """

    n_events: dict[Key, int] = field(default_factory=dict)
    n_subjects: dict[Key, int] = field(default_factory=dict)
    n_text_subjects: dict[tuple[Key, str], int] = field(default_factory=dict)
    years: dict[int, int] = field(default_factory=dict)
    values: Sampler = field(default_factory=Sampler)
    durations: Sampler = field(default_factory=Sampler)
    starts: Sampler = field(default_factory=Sampler)
    key_order: list[Key] = field(default_factory=list)
    codes: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    _group_of: dict[Key, int] = field(default_factory=dict)
    _texts: dict[Key, dict[str, int]] = field(default_factory=dict)

    def add(self, events: pa.Table, watched: Watched | None = None) -> None:
        """Counts a table of whole subjects.

        Args:
            events: `chronoward.schema.event_schema`.
            watched: since when subjects are observed, where timelines begin with that.

        Raises:
            DataError: not an event table, or subjects not contiguous.
        """
        columns = read_events(events)
        if len(columns):
            self._add_keys(columns)
            self._add_texts(columns)
            self._add_values(columns)
            self._add_times(columns)
            self._add_starts(columns, watched or Watched.by_nobody())

    def add_codes(self, codes: pa.Table) -> None:
        """Takes over the rows of a code table; a code that is already there keeps its row."""
        for row in codes.to_pylist():
            self.codes.setdefault((row["table"], row["code"]), row)

    def merge(self, other: FitCounts) -> None:
        """Adds the counts of other subjects; the result does not depend on the order."""
        pairs: list[tuple[dict[Any, int], dict[Any, int]]] = [
            (self.n_events, other.n_events),
            (self.n_subjects, other.n_subjects),
            (self.n_text_subjects, other.n_text_subjects),
            (self.years, other.years),
        ]
        for mine, theirs in pairs:
            for key, n in theirs.items():
                mine[key] = mine.get(key, 0) + n
        groups = np.array([self._group(key) for key in other.key_order], np.int64)
        values = other.values.sample()
        renamed = values.renamed(groups) if len(groups) else values
        self.values = Sampler(Sample.union([self.values.sample(), renamed]))
        for name in ("durations", "starts"):
            both = [getattr(self, name).sample(), getattr(other, name).sample()]
            setattr(self, name, Sampler(Sample.union(both)))
        self._texts.clear()
        for key, row in other.codes.items():
            self.codes.setdefault(key, row)

    def _group(self, key: Key) -> int:
        if key not in self._group_of:
            self._group_of[key] = len(self.key_order)
            self.key_order.append(key)
        return self._group_of[key]

    def sampled_values(self, key: Key) -> tuple[NDArray[np.float64], NDArray[np.uint64]]:
        """(values, subjects) sampled for a key."""
        return self.values.sample().of_group(self._group_of.get(key, -1))

    def texts_of(self, key: Key) -> dict[str, int]:
        """Subjects per text category of a key."""
        if not self._texts:
            for (name, text), n in self.n_text_subjects.items():
                self._texts.setdefault(name, {})[text] = n
        return self._texts.get(key, {})

    def _add_keys(self, c: EventColumns) -> None:
        events, subjects = count_keys(c.key, c.subject_id, len(c.keys))
        for i, name in enumerate(c.keys):
            self.n_events[name] = self.n_events.get(name, 0) + int(events[i])
            self.n_subjects[name] = self.n_subjects.get(name, 0) + int(subjects[i])

    def _add_texts(self, c: EventColumns) -> None:
        rows = np.flatnonzero((c.text >= 0) & (c.role == Role.CODE))
        pair = c.key[rows].astype(np.int64) * max(len(c.texts), 1) + c.text[rows]
        pair = pair[_first_per_subject(pair, c.subject_id[rows])]
        for number, n in zip(*np.unique(pair, return_counts=True), strict=True):
            key, text = divmod(int(number), len(c.texts))
            name = (c.keys[key], c.texts[text])
            self.n_text_subjects[name] = self.n_text_subjects.get(name, 0) + int(n)

    def _add_values(self, c: EventColumns) -> None:
        rows = np.flatnonzero(np.isfinite(c.value) & (c.role == Role.CODE))
        present, group = np.unique(c.key[rows], return_inverse=True)
        new = np.array([self._group(c.keys[k]) for k in present], np.int64)
        if len(new):
            self.values.add(
                new[group],
                c.subject_id[rows],
                c.available_us[rows],
                c.value[rows].astype(np.float64),
            )
        self._texts.clear()

    def _add_times(self, c: EventColumns) -> None:
        timed = np.flatnonzero((c.role >= Role.VISIT) & (c.available_us != NULL_US))
        subject, us = c.subject_id[timed], c.available_us[timed]
        year = _year_of(us)
        self._add_years(year[_first_per_subject(year, subject)])
        minute = -(-us // US_PER_MIN)
        visit = c.role[timed] == Role.VISIT
        end = -(-c.end_us[timed] // US_PER_MIN)
        end = np.where(c.end_us[timed] == NULL_US, minute, np.maximum(end, minute))
        self._add_durations(0, subject[visit], minute[visit], end[visit])
        self._add_inner(c, timed, minute, end)
        run = np.cumsum(np.diff(subject, prepend=subject[:1]) != 0)
        who, moment = _distinct_moments(run, minute)
        row_of_run = np.flatnonzero(np.diff(run, prepend=-1))
        self._add_durations(2, subject[row_of_run][who], moment, moment)

    def _add_starts(self, c: EventColumns, watched: Watched) -> None:
        """Where timelines start: with the first event, or with observation a day or more before."""
        timed = (c.role >= Role.VISIT) & (c.available_us != NULL_US)
        who, where = np.unique(c.subject_id, return_inverse=True)
        event = np.full(len(who), NEVER_US)
        np.minimum.at(event, where[timed], c.available_us[timed])
        since = watched.since_us(who)
        waits = (since != NEVER_US) & (event >= since + US_PER_DAY)
        self._add_waits(who, since, event, waits & (event != NEVER_US))
        first = np.where(waits, since, event)
        starts = first != NEVER_US
        who, first = who[starts], first[starts]
        birth = np.full(len(who), NULL_US)
        rows = np.flatnonzero((c.role == Role.BIRTH) & np.isin(c.subject_id, who))
        birth[np.searchsorted(who, c.subject_id[rows])] = c.time_us[rows]
        day = first.astype("datetime64[us]").astype("datetime64[D]")
        year = day.astype("datetime64[Y]")
        of_year = (day - year.astype("datetime64[D]")).astype(np.int64)
        minute = np.minimum(-(-(first % US_PER_DAY) // US_PER_MIN), 1439)
        age = np.maximum(first // US_PER_DAY - birth // US_PER_DAY, 0)
        known = birth != NULL_US
        parts = [
            ((year.astype(np.int64) + 1970) * 1000 + of_year, np.ones(len(who), np.bool_)),
            (age, known),
            (minute, np.ones(len(who), np.bool_)),
        ]
        for group, (value, kept) in enumerate(parts):
            groups = np.full(int(kept.sum()), group, np.int64)
            self.starts.add(groups, who[kept], groups, value[kept].astype(np.float64))

    def _add_waits(
        self,
        who: NDArray[np.int64],
        since: NDArray[np.int64],
        event: NDArray[np.int64],
        waits: NDArray[np.bool_],
    ) -> None:
        """Waits from the start of observation to the first event, of both kinds of gaps."""
        who, begun = who[waits], since[waits] // US_PER_MIN
        minutes = -(-event[waits] // US_PER_MIN) - begun
        for group in (0, 2):
            self._sample_durations(group, who, begun, minutes)
        year = _year_of(since[waits])
        self._add_years(year[year < _year_of(event[waits])])

    def _add_years(self, years: NDArray[np.int64]) -> None:
        for year, n in zip(*np.unique(years, return_counts=True), strict=True):
            self.years[int(year)] = self.years.get(int(year), 0) + int(n)

    def _add_inner(
        self,
        c: EventColumns,
        timed: NDArray[np.int64],
        minute: NDArray[np.int64],
        end: NDArray[np.int64],
    ) -> None:
        """Durations between the moments of a visit, its start and end among them."""
        inside = c.visit_id[timed] != NULL_US
        is_visit = (c.role[timed] == Role.VISIT) & inside
        subject = np.concatenate([c.subject_id[timed][inside], c.subject_id[timed][is_visit]])
        visit = np.concatenate([c.visit_id[timed][inside], c.visit_id[timed][is_visit]])
        at = np.concatenate([minute[inside], end[is_visit]])
        if not len(at):
            return
        _, run = np.unique(subject, return_inverse=True)
        _, visit_number = np.unique(visit, return_inverse=True)
        _, first, stay = np.unique(
            run.astype(np.int64) * (int(visit_number.max()) + 1) + visit_number,
            return_index=True,
            return_inverse=True,
        )
        which, moment = _distinct_moments(stay, at)
        rows = np.flatnonzero(which[1:] == which[:-1])
        owner = subject[first][which[rows]]
        self._sample_durations(1, owner, moment[rows], moment[rows + 1] - moment[rows])

    def _add_durations(
        self,
        group: int,
        subject: NDArray[np.int64],
        start: NDArray[np.int64],
        end: NDArray[np.int64],
    ) -> None:
        order = np.lexsort((end, start, subject))
        subject, start, end = subject[order], start[order], end[order]
        same = np.flatnonzero(subject[1:] == subject[:-1])
        gaps = np.maximum(start[same + 1] - end[same], 0)
        self._sample_durations(group, subject[same], start[same], gaps)

    def _sample_durations(
        self,
        kind: int,
        subject: NDArray[np.int64],
        start: NDArray[np.int64],
        minutes: NDArray[np.int64],
    ) -> None:
        # a group per kind and power of two, so that rare long durations keep a sample of their own
        group = kind * 64 + np.frexp(minutes.astype(np.float64))[1].astype(np.int64)
        self.durations.add(group, subject, start, minutes.astype(np.float64))

    def sampled_durations(self, kind: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """(minutes, subjects) of one kind, over all magnitudes."""
        minutes, subjects = self.durations.sample().of_group(kind * 64, 64)
        return minutes.astype(np.int64), subjects

    def save(self, path: Path) -> None:
        """Writes the counts as an Arrow IPC file (contains rare codes: keep it private)."""
        head = {
            "version": COUNTS_VERSION,
            "n_events": [[*k, n] for k, n in self.n_events.items()],
            "n_subjects": [[*k, n] for k, n in self.n_subjects.items()],
            "texts": [[*k, t, n] for (k, t), n in self.n_text_subjects.items()],
            "years": [[y, n] for y, n in self.years.items()],
            "key_order": [list(k) for k in self.key_order],
            "codes": list(self.codes.values()),
        }
        samples = [s.sample() for s in (self.values, self.durations, self.starts)]
        columns = {
            name: np.concatenate([getattr(s, name) for s in samples])
            for name in ("group", "priority", "subject", "value")
        }
        section = np.repeat(np.arange(3, dtype=np.uint8), [len(s.group) for s in samples])
        table = pa.table({"section": section, **columns})
        table = table.replace_schema_metadata({"chronoward-counts": json.dumps(head)})
        with files.atomic_path(path) as temporary, pa.ipc.new_file(temporary, table.schema) as sink:
            sink.write_table(table)

    @classmethod
    def load(cls, path: Path) -> FitCounts:
        """Reads what `save` wrote.

        Raises:
            FormatError: not a counts file, or of another version.
        """
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            head = json.loads((table.schema.metadata or {})[b"chronoward-counts"])
        except (pa.ArrowInvalid, KeyError, json.JSONDecodeError):
            message = f"{path} is not a file of fit counts"
            raise FormatError(message) from None
        if head["version"] != COUNTS_VERSION:
            message = f"{path} has counts version {head['version']}, expected {COUNTS_VERSION}"
            raise FormatError(message)
        samples = []
        for number in range(3):
            part = table.filter(pa.compute.equal(table["section"], number))
            names = ("group", "priority", "subject", "value")
            samples.append(Sampler(Sample(*(part[n].to_numpy() for n in names))))
        order = [_as_key(k) for k in head["key_order"]]
        return cls(
            n_events={_as_key(k): n for *k, n in head["n_events"]},
            n_subjects={_as_key(k): n for *k, n in head["n_subjects"]},
            n_text_subjects={(_as_key(k), t): n for *k, t, n in head["texts"]},
            years={int(y): int(n) for y, n in head["years"]},
            values=samples[0],
            durations=samples[1],
            starts=samples[2],
            key_order=order,
            codes={(r["table"], r["code"]): r for r in head["codes"]},
            _group_of={k: i for i, k in enumerate(order)},
        )


def _as_key(parts: list[Any]) -> Key:
    role, table, code, unit = parts
    return (int(role), table, code, unit)


def count(
    tables: Iterable[pa.Table], codes: pa.Table, observation: pa.Table | None = None
) -> FitCounts:
    """Counts event tables of the train split; each subject must lie wholly in one table.

    Args:
        tables: event tables (`chronoward.schema.event_schema`).
        codes: the code table (`chronoward.schema.code_schema`).
        observation: periods of observation, where timelines begin with them.

    Raises:
        DataError: not event tables, or no events in them at all.
    """
    counts = FitCounts()
    counts.add_codes(codes)
    watched = None if observation is None else Watched.from_table(observation)
    for table in tables:
        counts.add(table, watched)
    if not counts.n_events:
        message = "there are no events to fit a tokenizer on"
        raise DataError(message)
    return counts
