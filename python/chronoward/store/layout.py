"""The token store: a folder of memory-mapped shards that training and scoring read without copying.

| file | what |
|---|---|
| `store.json` | manifest, written last: versions, hashes, counts, rules, every shard's SHA-256 |
| `tokenizer.json` | the tokenizer, its hash equal to the manifest's |
| `codes.parquet` | optional: the source's code table (`code_schema`), with ancestors |
| `fingerprints.arrow` | optional: a number a subject for what it was encoded from |
| `<split>/<n>.arrow` | a shard: Arrow IPC file, uncompressed, of at most 2²⁴ tokens |
| `appends/<g>/` | what the g-th append added: see `chronoward.store.append` |

A shard has one or more record batches of whole subjects. A batch is the longest run of subjects
that fits in 2²⁰ tokens, or one subject who has more; a shard is the longest run of batches that
fits. So the bytes depend on the subjects' order and lengths only, and a writer needs memory for one
batch a split.

One row a subject; subjects ascend within a file, and within a split until something is appended.
Columns (none is null):

| column | type | meaning |
|---|---|---|
| subject_id | int64 | |
| origin | timestamp[us] | midnight of birth, else of what is first: observation or event |
| token_id | list<int32> | |
| time_min | list<int32> | minutes since origin at which the token was available; non-decreasing |
| event_min | list<int32> | the source's own time; for labels and write-back only |
| n_prior | list<uint8> | earlier visits (days, in `events`) with this token's base code; <= 255 |
| obs_start_min, obs_end_min | list<int32> | observation periods, ascending and disjoint |

A file is mapped only after its size is checked: a truncated file under a map would be a SIGBUS.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from chronoward import files
from chronoward.schema import SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = "chronoward-token-store"
VERSION = 2
APPENDED_VERSION = 3  # of the manifest once something was appended; the shards' own stays
MAX_SHARD_TOKENS = 1 << 24
BATCH_TOKENS = 1 << 20
MANIFEST = "store.json"
TOKENIZER = "tokenizer.json"
CODES = "codes.parquet"
FINGERPRINTS = "fingerprints.arrow"
APPENDS = "appends"
SUPERSEDED = "superseded.arrow"

SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})/(0|[1-9][0-9]*)\.arrow")
APPENDED_NAME = re.compile(
    rf"{APPENDS}/[1-9][0-9]*/({re.escape(SUPERSEDED)}|{re.escape(FINGERPRINTS)}|{re.escape(CODES)})"
)
TOKEN_COLUMNS: dict[str, type[np.generic]] = {
    "token_id": np.int32,
    "time_min": np.int32,
    "event_min": np.int32,
    "n_prior": np.uint8,
}
PERIOD_COLUMNS: dict[str, type[np.generic]] = {"obs_start_min": np.int32, "obs_end_min": np.int32}


def shard_schema(tokenizer_hash: str) -> pa.Schema:
    """Arrow schema of a shard; its metadata names the tokenizer."""
    int32, uint8 = pa.list_(pa.int32()), pa.list_(pa.uint8())
    types = {
        "subject_id": pa.int64(),
        "origin": pa.timestamp("us"),
        **{name: uint8 if t is np.uint8 else int32 for name, t in TOKEN_COLUMNS.items()},
        **dict.fromkeys(PERIOD_COLUMNS, int32),
    }
    return pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in types.items()],
        metadata={"format": FORMAT, "version": str(VERSION), "tokenizer": tokenizer_hash},
    )


def checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest without its own checksum, hex."""
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(files.canonical_json(body)).hexdigest()
