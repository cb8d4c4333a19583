"""How a source is read: what `tokenize` and an append share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward import files
from chronoward.data import CEHRGPT_DIALS, IngestConfig, prepare, recognize
from chronoward.data.report import check_strict
from chronoward.errors import ConfigError
from chronoward.tokenize.job import fingerprint
from chronoward.tokenize.turns import in_turn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

    from chronoward.data import PreparedEvents
    from chronoward.data.origin import Source
    from chronoward.tokenizer import Tokenizer, TokenizerSpec

    Progress = Callable[[str, int, int], None]


def silent(_stage: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A source and the options of reading it (see `chronoward.tokenize.tokenize`)."""

    src: Source
    as_: str | None
    exclude_subjects: Path | None
    ingest: IngestConfig
    strict: bool = False
    threads: int
    memory_limit: str
    temp_dir: Path | None
    events_dir: Path | None = None
    progress: Progress

    def description(self) -> dict[str, Any]:
        """What a job must share with the one it goes on from, as JSON values."""
        excluded = self.exclude_subjects
        return {
            "source": fingerprint(self.src),
            "as": self.as_ or recognize(self.src),
            "ingest": self.ingest.to_json(),
            "exclude": None if excluded is None else files.sha256_file(excluded),
        }

    def prepare(self, scratch: Path) -> PreparedEvents:
        """The source's sorted events, from where an earlier run left them if it did.

        Args:
            scratch: the job's folder of intermediate files.

        Raises:
            DataError: the source's structure is faulty, or with `strict` a record.
            StateError: `events_dir` holds another source's.
        """
        with in_turn(self.events_dir):
            prepared = prepare(
                self.src,
                self.events_dir or scratch / "events",
                config=self.ingest,
                as_=self.as_,
                threads=self.threads,
                memory_limit=self.memory_limit,
                exclude_subjects=self.exclude_subjects,
                progress=lambda line: self.progress(line, 0, 0),
            )
        if self.strict:
            check_strict(prepared.report)
        return prepared


class Observation:
    """Observation periods, those of a table's subjects at a time."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()
        self._subject_id = self._table["subject_id"].to_numpy()

    def of(self, events: pa.Table) -> pa.Table:
        """Periods of the subjects from the first to the last of an event table."""
        first, last = events["subject_id"][0].as_py(), events["subject_id"][-1].as_py()
        low = int(np.searchsorted(self._subject_id, first, side="left"))
        high = int(np.searchsorted(self._subject_id, last, side="right"))
        return self._table.slice(low, high - low)


def default_dials(spec: TokenizerSpec | None) -> IngestConfig:
    """Dials of ingestion where none are given: CEHR-GPT's for preset cehr."""
    return CEHRGPT_DIALS if spec is not None and spec.preset == "cehr" else IngestConfig()


def check_tokenizer(tokenizer: Tokenizer, prepared: PreparedEvents) -> None:
    """Refuses a tokenizer for dates of another kind than the source's.

    Raises:
        ConfigError: the calendars differ.
    """
    if tokenizer.spec.calendar != prepared.calendar:
        message = (
            f"the tokenizer is for a {tokenizer.spec.calendar} calendar, the source's dates are "
            f"{prepared.calendar}"
        )
        raise ConfigError(message)
