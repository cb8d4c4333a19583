"""What `fit` needs to know of the train split: mergeable, the same for any sharding or order.

Numbers of events and subjects are exact (a subject lies wholly in one table). Values, durations and
starts are bottom-k samples by a hash of the event itself, so that the sample of a union is made
from the samples. The counts hold rare codes: they are working files, not for publication.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from chronoward import files
from chronoward._core import DURATION_GROUPS, FitScan
from chronoward.errors import DataError, FormatError
from chronoward.tokenizer.columns import EventReader
from chronoward.tokenizer.sampling import SAMPLE_SIZE, Sample, Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from chronoward.tokenizer.columns import EventColumns

COUNTS_VERSION: Final = 1
_MOST_GROUPS: Final = 1 << 12  # of durations and of starts in a file of counts
NEVER_US: Final = np.iinfo(np.int64).max

Key = tuple[int, str, str, "str | None"]


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
    _group_of: dict[Key, int] = field(default_factory=dict, init=False)
    _texts: dict[Key, dict[str, int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._group_of.update((key, i) for i, key in enumerate(self.key_order))

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
        self.values.merge(other.values.sample(), groups)
        self.durations.merge(other.durations.sample())
        self.starts.merge(other.starts.sample())
        self._texts.clear()
        for key, row in other.codes.items():
            self.codes.setdefault(key, row)

    def _group(self, key: Key) -> int:
        if key not in self._group_of:
            self._group_of[key] = len(self.key_order)
            self.key_order.append(key)
        return self._group_of[key]

    def texts_of(self, key: Key) -> dict[str, int]:
        """Subjects per text category of a key."""
        if not self._texts:
            for (name, text), n in self.n_text_subjects.items():
                self._texts.setdefault(name, {})[text] = n
        return self._texts.get(key, {})

    def sampled_durations(self, kind: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """(minutes, subjects) of one kind, over all magnitudes."""
        first = kind * DURATION_GROUPS  # a group per kind and number of bits
        minutes, subjects = self.durations.sample().of_group(first, DURATION_GROUPS)
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
        content = Path(path).read_bytes()  # not mapped: it may be truncated while it is read
        try:
            table = pa.ipc.open_file(content).read_all()
            table.validate(full=True)
            head = json.loads((table.schema.metadata or {})[b"chronoward-counts"])
            version = head["version"]
            if version == COUNTS_VERSION:
                return cls._from_parts(head, table)
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, MemoryError):
            message = f"{path} is not a file of fit counts, or is damaged"
            raise FormatError(message) from None
        message = f"{path} has counts version {version}, expected {COUNTS_VERSION}"
        raise FormatError(message)

    @classmethod
    def _from_parts(cls, head: dict[str, Any], table: pa.Table) -> FitCounts:
        order = [_as_key(k) for k in head["key_order"]]
        samples = []
        for number, n_groups in enumerate((len(order), _MOST_GROUPS, _MOST_GROUPS)):
            part = table.filter(pa.compute.equal(table["section"], number))
            names = ("group", "priority", "subject", "value")
            if part.select(names).schema.types != [
                pa.int64(),
                pa.uint64(),
                pa.uint64(),
                pa.float64(),
            ]:
                raise KeyError(number)
            group = part["group"].to_numpy()  # memory is taken up to the largest one
            if len(group) and not 0 <= group.min() <= group.max() < n_groups:
                raise KeyError(number)
            sampler = Sampler()
            sampler.merge(Sample(*(part[n].to_numpy() for n in names)))
            samples.append(sampler)
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
        )


def _as_key(parts: list[Any]) -> Key:
    role, table, code, unit = parts
    return (int(role), table, code, unit)


class CountingScan:
    """Counts event tables of whole subjects, of which some belong to the train split.

    Args:
        codes: the code table (`chronoward.schema.code_schema`).
        observation: periods of observation, where timelines begin with them.
        scratch: folder where sampled values lie, in a file without a name; in memory where none
            is given.
    """

    def __init__(
        self,
        codes: pa.Table,
        observation: pa.Table | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._codes = codes
        self._watched = (
            Watched.by_nobody() if observation is None else Watched.from_table(observation)
        )
        self._reader = EventReader()
        self._scan = FitScan(SAMPLE_SIZE, "" if scratch is None else str(scratch))

    def add(
        self,
        events: pa.Table,
        is_counted: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None,
    ) -> None:
        """Takes a table of whole subjects into account.

        Args:
            events: `chronoward.schema.event_schema`.
            is_counted: tells of subjects, (n,) ids, whether they count; None: all do.

        Raises:
            DataError: not an event table, or subjects not contiguous.
        """
        self.add_columns(self.read(events), is_counted)

    def read(self, events: pa.Table) -> EventColumns:
        """A table as `add_columns` takes it; tables must be read in one thread.

        Raises:
            DataError: not an event table, or subjects not contiguous.
        """
        return self._reader.read(events)

    def add_columns(
        self,
        c: EventColumns,
        is_counted: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None,
    ) -> None:
        """As `add`, of what `read` made of a table."""
        subject_id = c.subject_id[c.row_offsets[:-1]]
        chosen = (
            np.ones(len(subject_id), np.bool_) if is_counted is None else is_counted(subject_id)
        )
        self._scan.add(
            offsets=c.row_offsets,
            subject_id=subject_id,
            is_counted=chosen.astype(np.uint8),
            since_us=self._watched.since_us(subject_id),
            role=c.role,
            key=c.key,
            text=c.text,
            value=c.value,
            time_us=c.time_us,
            available_us=c.available_us,
            end_us=c.end_us,
            visit_id=c.visit_id,
            n_keys=len(c.keys),
        )

    def counts(self) -> FitCounts:
        """What was counted.

        Raises:
            DataError: no events at all.
        """
        keys, texts = self._reader.keys, self._reader.texts
        n_events, n_subjects = (column.tolist() for column in self._scan.key_counts())
        seen = [i for i, n in enumerate(n_events) if n]
        if not seen:
            message = "there are no events to fit a tokenizer on"
            raise DataError(message)
        of_text = zip(*(column.tolist() for column in self._scan.text_counts()), strict=True)
        counts = FitCounts(
            n_events={keys[i]: n_events[i] for i in seen},
            n_subjects={keys[i]: n_subjects[i] for i in seen},
            n_text_subjects={(keys[key], texts[text]): n for key, text, n in of_text},
            years=self._scan.years(),
            values=Sampler(self._scan.values),
            durations=Sampler(self._scan.durations),
            starts=Sampler(self._scan.starts),
            key_order=list(keys),
        )
        counts.add_codes(self._codes)
        return counts


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
    scan = CountingScan(codes, observation)
    for table in tables:
        scan.add(table)
    return scan.counts()
