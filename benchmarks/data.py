"""D1: events encoded per CPU-second. D2: the whole command, MEDS to token store. D5: its memory.

The data are made up: subjects of about 500 events, 5,000 codes with Zipf frequencies, codes as a
string column, a number in 30 % of the rows, no visits.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.process import chronoward
from benchmarks.record import Measurement, Stopwatch

from chronoward.ahead import side_by_side
from chronoward.data import prepare
from chronoward.philox import uniforms
from chronoward.process_memory import keep_freed_memory
from chronoward.store import TokenStore
from chronoward.tokenize import tokenize, verify
from chronoward.tokenizer import TokenClass, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

N_CODES = 5_000
EVENTS_A_SUBJECT = 500
VALUE_SHARE = 0.3
_SHARD_ROWS = 1_000_000
_REPEATS = 9
_HASHED_BYTES = 64 << 20
_DAY_US = 86_400_000_000


def write_meds(folder: Path, n_rows: int) -> None:
    """Writes a MEDS dataset of `n_rows` events, sorted as MEDS asks for."""
    weights = 1.0 / np.arange(1, N_CODES + 1)
    edges = np.cumsum(weights) / weights.sum()
    names = pa.array([f"CODE//{i:05d}" for i in range(N_CODES)])
    (folder / "data").mkdir(parents=True)
    first_subject = 1
    for number, begin in enumerate(range(0, n_rows, _SHARD_ROWS)):
        n = min(_SHARD_ROWS, n_rows - begin)
        n_subjects = -(-n // EVENTS_A_SUBJECT)
        subject = first_subject + np.minimum(np.arange(n) // EVENTS_A_SUBJECT, n_subjects - 1)
        first_subject += n_subjects
        u, v, w = (uniforms(10 * number + k, n) for k in range(3))
        gaps = np.exp(8 * u) * 60_000_000  # a minute to two days
        clock = (
            np.cumsum(gaps) - np.repeat(np.cumsum(gaps)[::EVENTS_A_SUBJECT], EVENTS_A_SUBJECT)[:n]
        )
        time = (subject % 15_000) * _DAY_US + clock.astype(np.int64) // 60_000_000 * 60_000_000
        code = np.searchsorted(edges, v)
        has_value = uniforms(10 * number + 3, n) < VALUE_SHARE
        values = np.where(has_value, np.exp(w * 5), np.nan).astype(np.float32)
        table = pa.table(
            {
                "subject_id": pa.array(subject),
                "time": pa.array(time).cast(pa.timestamp("us")),
                "code": names.take(pa.array(code)),
                "numeric_value": pa.array(values, mask=~has_value),
            }
        )
        pq.write_table(table, folder / "data" / f"{number}.parquet")


def _check(store: TokenStore) -> None:
    """The store makes sense, and each event is a token or is counted as what became of it."""
    verify(store.path)
    tokenizer = Tokenizer.load(store.tokenizer_path)
    is_code = tokenizer.token_class == TokenClass.CODE
    n_codes = sum(
        int(is_code[shard.token_id].sum())
        for name in ("train", "tuning", "held_out")
        for shard in store.split(name).shards
    )
    counts = store.manifest["counts"]
    lost = sum(counts.get(rule, 0) for rule in ("unknown_code", "duplicate_token"))
    report = (store.path / "ingest_report.json").read_text()
    n_events = int(report.split('"n_events": ')[1].split(",")[0].strip())
    if n_codes + lost != n_events:
        message = f"{n_events} events, but {n_codes} code tokens and {lost} counted as lost"
        raise AssertionError(message)


@dataclass(frozen=True)
class Encoding:
    """What `_REPEATS` times encoding a source's events took, in memory touched before."""

    n_events: int
    n_tokens: int
    one: Stopwatch
    two: Stopwatch
    """The same with two threads."""
    machine_ratio: float
    """What two threads gain in the same minutes at arithmetic that shares no memory."""

    @property
    def rate(self) -> float:
        """Events per CPU-second, one thread."""
        return self.n_events / self.one.cpu


def time_encoding(meds: Path, folder: Path) -> Encoding:
    """Encodes a MEDS source over and over, in memory that stays with the process, as the command.

    Args:
        meds: the source.
        folder: for what is made on the way.

    Raises:
        AssertionError: the tokens are not those of the token store.
    """
    keep_freed_memory()
    store = tokenize(meds, folder / "tokens")
    tokenizer = Tokenizer.load(store.tokenizer_path)
    prepared = prepare(meds, folder / "work")
    tables = list(prepared.batches())
    codes, observation = prepared.codes, prepared.observation

    def encode(threads: int) -> int:
        given = (tokenizer.input_of(table, observation, codes) for table in tables)
        batches = side_by_side(tokenizer.encode_input, given, threads)
        return sum(batch.n_tokens for batch in batches)

    n_tokens = encode(1)
    if n_tokens != sum(s["n_tokens"] for s in store.manifest["splits"].values()):
        message = "encoding twice gave another number of tokens"
        raise AssertionError(message)
    encode(2)
    hashed = bytes(_HASHED_BYTES)

    def hash_twice(threads: int) -> None:
        for _ in side_by_side(hashlib.sha256, (hashed, hashed), threads):
            pass

    one, two, hash_one, hash_two = (Stopwatch() for _ in range(4))
    for _ in range(_REPEATS):  # in turn, so that a slow minute is everybody's
        with one:
            encode(1)
        with two:
            encode(2)
        with hash_one:
            hash_twice(1)
        with hash_two:
            hash_twice(2)
    machine_ratio = hash_one.wall / hash_two.wall
    return Encoding(_REPEATS * prepared.n_events, n_tokens, one, two, machine_ratio)


def measure_encode(quick: bool) -> Iterator[Measurement]:
    """The lines of D1: one thread, in memory that was touched before, and two threads beside it."""
    n_rows = 100_000 if quick else 4_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_meds(folder / "meds", n_rows)
        took = time_encoding(folder / "meds", folder)
        _check(TokenStore.open(folder / "tokens"))
    extra = {"n_rows": n_rows, "n_tokens": took.n_tokens, "n_codes": N_CODES}
    yield Measurement(
        id="D1",
        metric="two_threads",
        value=took.n_events / took.two.wall,
        unit="events/s",
        against="one thread, wall time",
        baseline=round(took.n_events / took.one.wall),
        ratio=round(took.one.wall / took.two.wall, 3),
        seconds=took.two.wall,
        extra=extra | {"machine_ratio": round(took.machine_ratio, 3)},
    )
    yield Measurement(
        id="D1",
        metric="encode",
        value=took.rate,
        unit="events/CPU-s",
        seconds=took.one.wall,
        extra=extra,
    )


def measure_command(quick: bool) -> Iterator[Measurement]:
    """The lines of D2: CPU rate, then events per wall second."""
    n_rows = 100_000 if quick else 10_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_meds(folder / "small", 50_000)
        _check(tokenize(folder / "small", folder / "small_tokens"))
        write_meds(folder / "meds", n_rows)
        used = chronoward("tokenize", folder / "meds", "--out", folder / "tokens", "--threads", "2")
    extra = {"n_rows": n_rows, "n_codes": N_CODES, "threads": 2}
    yield Measurement(
        id="D2",
        metric="events_per_cpu_second",
        value=n_rows / used.cpu,
        unit="events/CPU-s",
        seconds=used.wall,
        extra=extra,
    )
    yield Measurement(
        id="D2",
        metric="whole_command",
        value=n_rows / used.wall,
        unit="events/s",
        seconds=used.wall,
        extra=extra,
    )


def measure_memory(quick: bool) -> Iterator[Measurement]:
    """The line of D5: peak anonymous memory of the command, and how it grows with the rows."""
    sizes = (100_000, 1_000_000) if quick else (10_000_000, 100_000_000)
    peaks, wall = [], 0.0
    with tempfile.TemporaryDirectory() as name:
        for n_rows in sizes:
            folder = Path(name) / str(n_rows)
            write_meds(folder / "meds", n_rows)
            used = chronoward("tokenize", folder / "meds", "--out", folder / "tokens")
            peaks.append(used.anonymous_gib)
            wall += used.wall
            shutil.rmtree(folder)
    yield Measurement(
        id="D5",
        metric="anonymous",
        value=peaks[1],
        unit="GiB",
        against=f"the same command at {sizes[0]:,} rows",
        baseline=round(peaks[0], 3),
        ratio=round(peaks[1] / peaks[0], 3),
        seconds=wall,
        extra={"n_rows": list(sizes), "n_codes": N_CODES, "threads": 1},
    )


MEASURES = {"D1": measure_encode, "D2": measure_command, "D5": measure_memory}
