"""What lies beside a store's shards for people to read: the report and the ledger of ingestion."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from chronoward import files

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.data import PreparedEvents

REPORT = "ingest_report.json"
LEDGER = "ledger"
SUBJECT_IDS = "subject_ids.parquet"  # of sources whose ids are text


def copy_ledger(prepared: PreparedEvents, folder: Path) -> None:
    """Copies what ingestion says of single records, and which subject is whose text id."""
    (folder / LEDGER).mkdir(mode=0o700, exist_ok=True)
    source = prepared.path
    for path in sorted([*source.glob(f"{LEDGER}/*.parquet"), *source.glob(SUBJECT_IDS)]):
        with files.atomic_path(folder / path.relative_to(source)) as temporary:
            shutil.copyfile(path, temporary)
