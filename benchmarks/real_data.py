"""D1.real, D2.real, D3.real: the rates of D1 to D3 on real data. D2.yardstick: reading alone.

    CHRONOWARD_TEST_DATA=data python benchmarks/run.py D1.real D2.real D3.real D2.yardstick

The MIMIC-IV demo and Synthea are small, so D2 and D3 take them several times over, each copy with
ids of its own; made-up rows of the same number stand beside them in the same run, as what is paid
once (starting, the vocabulary) weighs the same in both.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.data import time_encoding, write_meds
from benchmarks.meds_torch_data import AGAINST, preprocess, tokenize, write_dataset
from benchmarks.process import chronoward
from benchmarks.record import Measurement, Stopwatch

from chronoward.store import TokenStore
from chronoward.tokenize import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("mimic-iv-demo-meds", "synthea-ma-meds")


def _sources() -> list[Path]:
    root = os.environ.get("CHRONOWARD_TEST_DATA")
    if root is None:
        message = f"set CHRONOWARD_TEST_DATA to a folder that has {' and '.join(NAMES)}"
        raise RuntimeError(message)
    return [Path(root) / name for name in NAMES]


def repeat(source: Path, out: Path, n_rows: int) -> int:
    """Writes a MEDS dataset several times over, as files of its own for each copy.

    Args:
        source: with `data/<split>/*.parquet`.
        out: new folder.
        n_rows: rows to have at least.

    Returns:
        The rows that it has.
    """
    files = sorted((source / "data").rglob("*.parquet"))
    tables = [pq.read_table(file) for file in files]
    ids = np.concatenate([table["subject_id"].to_numpy() for table in tables])
    n_copies = -(-n_rows // len(ids))
    stride = int(ids.max() - ids.min()) + 1

    def shifted(table: pa.Table, copy: int) -> pa.Table:
        subject = pa.array(table["subject_id"].to_numpy() + copy * stride)
        place = table.column_names.index("subject_id")
        return table.set_column(place, "subject_id", subject)

    for copy in range(n_copies):
        for file, table in zip(files, tables, strict=True):
            path = out / file.relative_to(source).with_name(f"{copy}_{file.name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(shifted(table, copy), path)
    shutil.copytree(source / "metadata", out / "metadata")
    splits = out / "metadata" / "subject_splits.parquet"
    if splits.is_file():
        known = pq.read_table(splits)
        pq.write_table(pa.concat_tables([shifted(known, i) for i in range(n_copies)]), splits)
    return n_copies * len(ids)


def measure_encode(quick: bool) -> Iterator[Measurement]:
    """Lines of D1: encode alone, on real data."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_meds(folder / "meds", 100_000 if quick else 1_000_000)
        made_up = time_encoding(folder / "meds", folder)
        for source in _sources():
            took = time_encoding(source, folder / source.name)
            yield Measurement(
                id="D1",
                metric=f"encode_{source.name}",
                value=took.rate,
                unit="events/CPU-s",
                against="made-up rows",
                baseline=round(made_up.rate),
                ratio=round(took.rate / made_up.rate, 3),
                seconds=took.one.wall,
                extra={"n_tokens": took.n_tokens},
            )


def measure_command(quick: bool) -> Iterator[Measurement]:
    """Lines of D2: the whole command on copies of real data."""
    least = 1_000_000 if quick else 10_000_000
    for source in _sources():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            n_rows = repeat(source, folder / "real", least)
            write_meds(folder / "made_up", n_rows)
            used = {
                kind: chronoward(
                    "tokenize", folder / kind, "--out", folder / f"{kind}_tokens", "--threads", "2"
                )
                for kind in ("made_up", "real")
            }
            verify(folder / "real_tokens")
            n_events = sum(
                counts["n_tokens"]
                for counts in TokenStore.open(folder / "real_tokens").manifest["splits"].values()
            )
        yield Measurement(
            id="D2",
            metric=f"events_per_cpu_second_{source.name}",
            value=n_rows / used["real"].cpu,
            unit="events/CPU-s",
            against="made-up rows, as many",
            baseline=round(n_rows / used["made_up"].cpu),
            ratio=round(used["made_up"].cpu / used["real"].cpu, 3),
            seconds=used["real"].wall,
            extra={"n_rows": n_rows, "n_tokens": n_events, "threads": 2},
        )


def measure_against_peer(quick: bool) -> Iterator[Measurement]:
    """Lines of D3: CPU-seconds of both sides on copies of real data."""
    least = 200_000 if quick else 2_000_000
    for source in _sources():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            n_rows = repeat(source, folder / "meds", least)
            ours = tokenize(folder / "meds", folder / "ours")
            theirs = preprocess(folder / "meds", folder / "theirs")
            write_dataset(folder / "made_up", n_rows)
            made_up = tokenize(folder / "made_up", folder / "made_up_ours")
        yield Measurement(
            id="D3",
            metric=f"total_{source.name}",
            value=ours.cpu,
            unit="CPU-s",
            against=AGAINST,
            baseline=round(theirs.cpu, 2),
            ratio=round(theirs.cpu / ours.cpu, 3),
            seconds=ours.wall + theirs.wall,
            extra={"n_rows": n_rows, "made_up_cpu_seconds": round(made_up.cpu, 2)},
        )


def measure_yardstick(quick: bool) -> Iterator[Measurement]:
    """A line of D2: Parquet to ids in NumPy and nothing else, one thread."""
    n_rows = 100_000 if quick else 10_000_000
    with tempfile.TemporaryDirectory() as name:
        write_meds(Path(name), n_rows)
        files = sorted((Path(name) / "data").glob("*.parquet"))
        number: dict[str, int] = {}
        n = 0
        pa.set_cpu_count(1)
        with Stopwatch() as watch:
            for file in files:
                column = pq.read_table(file, columns=["code"], read_dictionary=["code"])["code"]
                for chunk in column.chunks:
                    texts = chunk.dictionary.to_pylist()
                    ids = np.array([number.setdefault(text, len(number)) for text in texts])
                    n += len(ids[chunk.indices.to_numpy()])
        pa.set_cpu_count(os.cpu_count() or 1)
    if n != n_rows:
        message = f"{n} ids of {n_rows} rows"
        raise AssertionError(message)
    yield Measurement(
        id="D2",
        metric="yardstick",
        value=n_rows / watch.cpu,
        unit="rows/CPU-s",
        seconds=watch.wall,
        extra={"n_rows": n_rows, "n_codes": len(number)},
    )


MEASURES = {
    "D1.real": measure_encode,
    "D2.real": measure_command,
    "D2.yardstick": measure_yardstick,
    "D3.real": measure_against_peer,
}
