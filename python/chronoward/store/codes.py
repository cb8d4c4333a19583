"""What the tokens of a store mean: `codes.parquet`, which outcomes are resolved against.

The tokenizer knows its codes but not their ancestors; without them an outcome that includes its
descendants would be found in the events (so in a cohort's labels) and missed among the tokens.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from chronoward import files
from chronoward.schema import code_schema
from chronoward.store.layout import CODES

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.tokenizer import Tokenizer


def write_codes(folder: Path, codes: pa.Table, tokenizer: Tokenizer) -> None:
    """Writes the rows of the source's code table that have a token, and so are not rare.

    Args:
        folder: of the store.
        codes: code_schema.
        tokenizer: of the store.
    """
    known = {(entry.table, entry.code) for entry in tokenizer.codes}
    pairs = zip(codes["table"].to_pylist(), codes["code"].to_pylist(), strict=True)
    kept = codes.filter(pa.array([pair in known for pair in pairs], pa.bool_()))
    with files.atomic_path(folder / CODES) as temporary:
        pq.write_table(kept, temporary, write_page_checksum=True)


def code_table(folder: Path, tokenizer: Tokenizer) -> pa.Table:
    """The codes outcomes are resolved against: the store's own table, else the tokenizer's codes.

    Without the store's `codes.parquet` no code has ancestors, so only listed codes match.

    Args:
        folder: of the store.
        tokenizer: of the store.

    Returns:
        code_schema.
    """
    path = folder / CODES
    if path.is_file():
        return pq.read_table(path)
    names = code_schema().names
    rows: list[dict[str, Any]] = []
    for entry in tokenizer.codes:
        known = asdict(entry)
        rows.append({name: known[name] for name in names if name in known} | {"parent_codes": []})
    return pa.Table.from_pylist(rows, schema=code_schema())
