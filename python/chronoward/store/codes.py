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
from chronoward.store.layout import CODES, MANIFEST

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.tokenizer import Tokenizer


def write_codes(folder: Path, codes: pa.Table, tokenizer: Tokenizer) -> None:
    """Writes the rows of a code table that have a token.

    Args:
        folder: of the store, or of an append to it.
        codes: code_schema.
        tokenizer: of the store.
    """
    kept = known_codes(codes, tokenizer)
    with files.atomic_path(folder / CODES) as temporary:
        pq.write_table(kept, temporary, write_page_checksum=True)


def known_codes(codes: pa.Table, tokenizer: Tokenizer) -> pa.Table:
    """The rows of a source's code table that have a token, and so are not rare (code_schema)."""
    known = {(entry.table, entry.code) for entry in tokenizer.codes}
    return codes.filter(pa.array([pair in known for pair in _pairs(codes)], pa.bool_()))


def with_newer(codes: pa.Table, newer: pa.Table) -> pa.Table:
    """Two code tables as one: rows of the newer where both have a code; by table and code."""
    replaced = set(_pairs(newer))
    stays = pa.array([pair not in replaced for pair in _pairs(codes)], pa.bool_())
    both = pa.concat_tables([codes.filter(stays), newer])
    return both.sort_by([("table", "ascending"), ("code", "ascending")])


def _pairs(codes: pa.Table) -> list[tuple[str, str]]:
    return list(zip(codes["table"].to_pylist(), codes["code"].to_pylist(), strict=True))


def codes_path(folder: Path) -> Path:
    """Where a store's code table lies: the last append's that has one, else its own."""
    manifest = files.read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    appends = [append["files"] for append in manifest.get("appends", ())]
    listed = [named[CODES]["file"] for named in appends if CODES in named]
    return folder / (listed[-1] if listed else CODES)


def code_table(folder: Path, tokenizer: Tokenizer) -> pa.Table:
    """The codes outcomes are resolved against: the store's own table, else the tokenizer's codes.

    Without the store's `codes.parquet` no code has ancestors, so only listed codes match.

    Args:
        folder: of the store.
        tokenizer: of the store.

    Returns:
        code_schema.
    """
    path = codes_path(folder)
    if path.is_file():
        return pq.read_table(path)
    names = code_schema().names
    rows: list[dict[str, Any]] = []
    for entry in tokenizer.codes:
        known = asdict(entry)
        rows.append({name: known[name] for name in names if name in known} | {"parent_codes": []})
    return pa.Table.from_pylist(rows, schema=code_schema())
