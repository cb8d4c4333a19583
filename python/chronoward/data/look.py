"""A quick look at a source: what is there, which traps show, and what tokenizing it will take.

Tables are scanned once and nothing is sorted or written, so it costs a fraction of an ingestion;
what it says of traps is what a scan can see. Exact counts by rule are the ingest report's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from chronoward.data.source import Form

BYTES_PER_TOKEN = 14
"""Of the token store: token_id, time_min, event_min (int32 each), n_prior (uint8); the ledger."""
TOKENS_PER_SUBJECT, TOKENS_PER_VISIT, TOKENS_PER_DETAIL = 6, 5, 2
"""Prompt and end; gap, start, type, stay and end; start and end."""
CPU_SECONDS: dict[str, tuple[float, float]] = {
    "meds": (2.0, 2.5),
    "parquet": (1.9, 16.1),
    "duckdb": (1.9, 16.1),
    "text": (2.3, 16.8),
    "postgresql": (1.9, 19.0),
}
"""CPU-seconds of `tokenize` on any source, and more a million rows, by `storage`. Measured on
simulated clinics of 500 and 18,000 subjects (`meds`: 500 and 5,000), one thread, on a busy machine
of two cores (docs/sources.md); `duckdb` is taken as `parquet`, `postgresql` as `parquet` after a
copy of the tables.
"""


@dataclass(frozen=True, kw_only=True)
class TableLook:
    """One table.

    Attributes:
        name: of the table.
        n_rows: None where counting them would mean reading a table that is not used.
        n_columns: of the source.
        mapped: share of the rows whose concept id is another than 0 (MEDS: whose code
            metadata/codes.parquet knows); None where that means nothing.
        first, last: earliest and latest start, "unknown" years left out.
    """

    name: str
    n_rows: int | None
    n_columns: int
    mapped: float | None = None
    first: datetime | None = None
    last: datetime | None = None


@dataclass(frozen=True)
class Trap:
    """Something that `n` of `of` records have and that ingestion will have to decide about.

    Attributes:
        what: in a few words.
        n: records that have it; from a sketch or a sample of subjects where `is_estimate`.
        of: records looked at.
    """

    what: str
    n: int
    of: int
    is_estimate: bool = False


@dataclass(frozen=True, kw_only=True)
class SourceLook:
    """What a look at a source found.

    Attributes:
        form: OMOP or MEDS.
        storage: `meds`, `parquet`, `text`, `duckdb` or `postgresql`.
        described: the files or the server, in words.
        tables: in order of their names.
        n_subjects, n_records, n_visits, n_details, n_deaths: rows that become events.
        calendar: `real` or `shifted`.
        follow_up_years: quartiles by subject; None: not known before ingestion.
        follow_up_from: what it was read from.
        traps: those that occur.
        notes: what else decides about the result.
    """

    form: Form
    storage: str
    described: str
    tables: list[TableLook]
    n_subjects: int
    n_records: int
    n_visits: int
    n_details: int
    n_deaths: int
    calendar: str
    follow_up_years: tuple[float, float, float] | None
    follow_up_from: str
    traps: list[Trap]
    notes: list[str]

    @property
    def n_tokens(self) -> int:
        """Tokens to expect of preset compact: a code and its value are one."""
        return (
            self.n_records
            + TOKENS_PER_SUBJECT * self.n_subjects
            + TOKENS_PER_VISIT * self.n_visits
            + TOKENS_PER_DETAIL * self.n_details
        )

    @property
    def store_bytes(self) -> int:
        """Size of the token store to expect."""
        return self.n_tokens * BYTES_PER_TOKEN

    @property
    def tokenize_seconds(self) -> float:
        """Seconds of `chronoward tokenize` to expect on one core."""
        n_rows = self.n_records
        if self.form == "omop":  # visits are rows of MEDS's one table
            n_rows += self.n_visits + self.n_details
        start, per_million = CPU_SECONDS[self.storage]
        return start + per_million * n_rows / 1e6
