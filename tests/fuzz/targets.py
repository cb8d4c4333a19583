"""What is fuzzed: a reader, a small file that it reads well, and how that is spoiled.

A target reads a spoiled file as far as a job would before it writes anything under a final name.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.data.omop_rows import condition, death, measurement, person, visit, write_omop
from tests.fuzz import mutations
from tests.store.timelines import make_batch, open_writer

from chronoward._core import CsvPiece, IdNumbering, TextNumbering
from chronoward.data import IngestConfig, PreparedEvents, prepare
from chronoward.data.meds import data_files
from chronoward.data.meds_mend import MedsMender
from chronoward.data.meds_spool import MedsSpool
from chronoward.data.record_text import IrregularTextError, _read
from chronoward.store import TokenStore
from chronoward.tokenizer import FitCounts, Tokenizer, TokenizerSpec, count, fit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.fuzz.mutations import Mutation


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        name: of the target.
        mutations: how its files are spoiled.
        make: writes a good source into a folder and returns the file to spoil.
        read: reads the source; an error must be one of ours.
    """

    name: str
    mutations: Sequence[Mutation]
    make: Callable[[Path], Path]
    read: Callable[[Path], None]


def _meds_table() -> pa.Table:
    rng = np.random.default_rng(0)
    n = 300
    day = np.sort(rng.integers(10_000, 20_000, n)) * 86_400_000_000
    codes = np.array(["MEDS_BIRTH", "GENDER//F", "LAB//K", "DX//1", "VISIT//OUT", "MEDS_DEATH"])
    texts = [None, "POS", "<5", "12.5", "red"]
    return pa.table(
        {
            "subject_id": np.repeat(np.arange(30), 10),
            "time": pa.array(day, mask=rng.random(n) < 0.05).cast(pa.timestamp("us")),
            "code": codes[rng.integers(0, 6, n)],
            "numeric_value": pa.array(rng.normal(size=n), mask=rng.random(n) < 0.5),
            "text_value": pa.array([texts[i] for i in rng.integers(0, 5, n)], pa.string()),
            "unit": pa.array(["mg/dL" if x else None for x in rng.random(n) < 0.3], pa.string()),
            "end_time": pa.array(day + 3_600_000_000, mask=rng.random(n) < 0.8).cast(
                pa.timestamp("us")
            ),
        }
    )


def _make_meds(folder: Path, **options: object) -> Path:
    path = folder / "meds" / "data" / "0.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(_meds_table(), path, **options)
    return path


def _make_plain_meds(folder: Path) -> Path:
    return _make_meds(folder, compression="none", use_dictionary=False)


def _make_codes(folder: Path) -> Path:
    _make_meds(folder)
    path = folder / "meds" / "metadata" / "codes.parquet"
    path.parent.mkdir()
    lists = pa.array([["A"], [], None], pa.list_(pa.string()))
    columns = {"code": ["LAB//K", "DX//1", "B"], "description": ["k", "d", None]}
    pq.write_table(pa.table(columns | {"parent_codes": lists}), path)
    return path


def _read_meds(folder: Path) -> None:
    """Reads and mends as `prepare` does, without its database."""
    spool = MedsSpool(data_files(folder / "meds"), folder / "spool")
    mender = MedsMender(
        spool,
        IngestConfig(),
        calendar="real",
        excluded=set(),
        inpatient_codes=set(),
        scratch=folder / "spool",
        threads=1,
    )
    for table in mender.pieces():
        table.validate(full=True)


def _read_source(folder: Path) -> None:
    source = folder / "meds" if (folder / "meds").is_dir() else folder / "omop"
    prepared = prepare(source, folder / "work", memory_limit="256MB")
    for table in prepared.batches():
        table.validate(full=True)


def _make_csv(folder: Path) -> Path:
    source = folder / "omop"
    write_omop(
        source,
        {
            "person": [person(i) for i in range(1, 5)],
            "visit_occurrence": [visit(1, "2020-01-05 09:00:00", "2020-01-06 09:00:00")],
            "condition_occurrence": [
                condition(i, f"2020-01-0{i} 10:00:00", 1, condition_source_value="x")
                for i in range(1, 9)
            ],
            "measurement": [
                measurement(i, f"2020-02-0{i}", value_as_number=i, unit_source_value="mg/dL")
                for i in range(1, 6)
            ],
            "death": [death(1, "2021-01-01")],
        },
    )
    return source / "condition_occurrence.csv"


def _make_measurements(folder: Path) -> Path:
    return _make_csv(folder).with_name("measurement.csv")


def _make_persons(folder: Path) -> Path:
    return _make_csv(folder).with_name("person.csv")


_CSV_ROWS = (
    b"1,3004249,2020-01-05,2020-01-05 10:30:00.5,1.25,POS,x",
    b"-2,7,20200105,2020-01-05T10:30:00,-1e3,\xc2\xa0pos\xe3\x80\x80,",
    b'007, 7,,,1e999,"a ""quoted"", word",two',
    b'"4",7.0,2020-02-30,x,.5,"two\nlines",\xe2\x89\xa45',
    b"999999999999999999,9223372036854775807,9999-12-31,0001-01-01 00:00:00,123456789.123456,%b,"
    % (b"y" * 300),
    b",,,,,,",
)


def _make_rows(folder: Path) -> Path:
    path = folder / "rows.csv"
    path.write_bytes(b"\n".join(_CSV_ROWS * 8) + b"\n")
    return path


def _read_rows(folder: Path) -> None:
    """Reads all kinds of columns, whole and cut anywhere, and takes everything that was read."""
    block = (folder / "rows.csv").read_bytes()
    cuts = sorted({len(block), len(block) // 2, max(0, len(block) - 1)})
    for end in (b"\n", b"\r\n"):
        with_end = block.replace(b"\n", end)
        for cut, is_last in product((*cuts, len(with_end)), (False, True)):
            kinds = np.array([1, 2, 4, 3, 5, 6, 6], np.uint8)
            given = (with_end[:cut], cut, ",", kinds, end == b"\r\n", is_last)
            with suppress(IrregularTextError):
                _take_rows(_read(*given))


def _take_rows(piece: CsvPiece) -> None:
    columns: list[np.ndarray] = [piece.integers(0), piece.integers(2), piece.integers(3)]
    columns.append(piece.numbers(4))
    ids, texts = IdNumbering(), TextNumbering()
    numbers = [piece.texts(place, texts, is_value=place == 6) for place in (5, 6)]
    columns += [piece.ids(1, ids), *numbers]
    assert {len(column) for column in columns} == {piece.n_rows}
    assert all(int(column.max(initial=-1)) < len(texts) for column in numbers)
    assert len(texts.texts()) == len(texts)
    assert len(ids.values()) == len(ids)
    for place in range(5):
        rows, which, unread = piece.unread(place)
        assert len(rows) == len(which) == piece.n_unread(place)
        assert all(which[k] < len(unread) for k in range(len(which)))


def _make_store(folder: Path) -> Path:
    writer = open_writer(folder / "store", max_tokens=400, batch_tokens=100)
    n = np.full(60, 11)
    writer.add(make_batch(np.arange(60), n), (np.arange(60) % 3).astype(np.uint8))
    writer.finish(calendar="real", observation="x", split_rule="hash", counts={})
    return folder / "store" / "train" / "0.arrow"


def _make_manifest(folder: Path) -> Path:
    _make_store(folder)
    return folder / "store" / "store.json"


def _read_store(folder: Path) -> None:
    store = TokenStore.open(folder / "store")
    for name in ("train", "tuning", "held_out"):
        split = store.split(name)
        for index in range(len(split)):
            timeline = split.timeline(index)
            int(timeline.token_id.sum()) + int(timeline.time_min.sum())
            int(timeline.obs_end_min.sum()) + int(timeline.n_prior.sum())


def _make_tokenizer(folder: Path) -> Path:
    _make_meds(folder)
    prepared = prepare(folder / "meds", folder / "work")
    spec = TokenizerSpec(min_subjects=2, n_value_bins=3)
    path = folder / "tokenizer.json"
    fit(prepared.batches(), prepared.codes, spec, prepared.observation).save(path)
    return path


def _read_tokenizer(folder: Path) -> None:
    """Loads it, and encodes, validates and decodes with it what it was fitted on."""
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    prepared = PreparedEvents.open(folder / "work")
    for table in prepared.batches():
        batch = tokenizer.encode(table, prepared.observation, codes=prepared.codes)
        tokenizer.validate(batch)
        tokenizer.decode(batch)


def _make_counts(folder: Path) -> Path:
    _make_meds(folder)
    prepared = prepare(folder / "meds", folder / "work")
    count(prepared.batches(), prepared.codes).save(folder / "counts")
    return folder / "counts"


def _read_counts(folder: Path) -> None:
    merged = FitCounts()
    merged.merge(FitCounts.load(folder / "counts"))


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("meds", mutations.BINARY, _make_meds, _read_meds),
        Target("meds-plain", mutations.BINARY, _make_plain_meds, _read_meds),
        Target("meds-codes", mutations.BINARY, _make_codes, _read_source),
        Target("omop", mutations.CSV, _make_csv, _read_source),
        Target("omop-values", mutations.CSV, _make_measurements, _read_source),
        Target("omop-persons", mutations.CSV, _make_persons, _read_source),
        Target("csv", mutations.CSV, _make_rows, _read_rows),
        Target("store", mutations.BINARY, _make_store, _read_store),
        Target("store-manifest", mutations.JSON, _make_manifest, _read_store),
        Target("tokenizer", mutations.JSON, _make_tokenizer, _read_tokenizer),
        Target("counts", mutations.BINARY, _make_counts, _read_counts),
    )
}
