from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chronoward import philox
from chronoward.data.simulate import simulate

if TYPE_CHECKING:
    from pathlib import Path

N_OMOP = 40
N_MEDS = 60


@pytest.fixture(scope="session")
def omop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated clinic as an OMOP folder."""
    folder = tmp_path_factory.mktemp("sources") / "omop"
    simulate(folder, N_OMOP, 3)
    return folder


def write_meds(folder: Path, *, key: int | None = None) -> Path:
    """A MEDS folder in two shards; with a key, rows within subjects and subjects are shuffled."""
    rows = []
    for subject in range(1, N_MEDS + 1):
        u = philox.uniforms(philox.hash64(5, subject), 200)
        birth = np.datetime64("1950-01-01", "us") + np.timedelta64(int(u[0] * 20_000), "D")
        mine = [(subject, None, "GENDER//F" if u[1] < 0.5 else "GENDER//M", None)]
        mine.append((subject, birth, "MEDS_BIRTH", None))
        time = birth + np.timedelta64(int(u[2] * 10_000), "D")
        for i in range(3, 30):
            time += np.timedelta64(int(u[i] * 100_000), "m")
            code = f"DX//{int(u[30 + i] ** 2 * 12)}"
            value = round(float(u[60 + i]) * 9, 2) if u[90 + i] < 0.3 else None
            mine.append((subject, time, code if value is None else "LAB//K", value))
        if key is not None:
            order = philox.permutation(philox.hash64(key, subject), len(mine))
            mine = [mine[i] for i in order]
        rows.append(mine)
    half = N_MEDS // 2
    for name, part in (("0", rows[:half]), ("1", rows[half:])):
        if key is not None:
            part = [part[i] for i in philox.permutation(key, len(part))]
        flat = [row for mine in part for row in mine]
        table = pa.table(
            {
                "subject_id": pa.array([r[0] for r in flat], pa.int64()),
                "time": pa.array([r[1] for r in flat], pa.timestamp("us")),
                "code": pa.array([r[2] for r in flat], pa.string()),
                "numeric_value": pa.array([r[3] for r in flat], pa.float32()),
            }
        )
        path = folder / "data" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    return folder


@pytest.fixture(scope="session")
def meds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MEDS folder without visits and without splits."""
    return write_meds(tmp_path_factory.mktemp("sources") / "meds")


def content(folder: Path, *, ledger: bool = True) -> dict[str, str]:
    """SHA-256 of every file of a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (ledger or "ledger" not in path.parts)
    }
