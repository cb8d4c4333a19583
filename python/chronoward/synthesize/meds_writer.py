"""A unit of generated subjects as a shard of MEDS 0.4, with the columns that keep visits apart.

Strict MEDS: `subject_id, time, code, numeric_value, text_value` and metadata. The extension columns
`unit, end_time, available_time, visit_id, table` are chronoward's own; with them, tokenizing the
folder again gives the same visits. A visit is a row with its type as code and an `end_time`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from chronoward.synthesize.concepts import Code

MEDS_VERSION = "0.4.0"
SPLIT = "train"  # a synthetic set is one split: it is material to learn from


def shard_schema() -> pa.Schema:
    """Arrow schema of a shard: MEDS 0.4's columns, then the extensions."""
    time = pa.timestamp("us")
    return pa.schema(
        [
            pa.field("subject_id", pa.int64(), nullable=False),
            pa.field("time", time),
            pa.field("code", pa.string(), nullable=False),
            pa.field("numeric_value", pa.float32()),
            pa.field("text_value", pa.large_string()),
            pa.field("unit", pa.string()),
            pa.field("end_time", time),
            pa.field("available_time", time),
            pa.field("visit_id", pa.int64()),
            pa.field("table", pa.string()),
        ]
    )


def meds_shard(events: pa.Table) -> pa.Table:
    """The rows of a shard: subjects ascending and whole, times ascending, static facts first.

    Args:
        events: event_schema, in canonical order.
    """
    # facts without a time come first in MEDS: their time counts as the smallest number
    time = events["time"].cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy()
    order = np.lexsort((time, events["subject_id"].to_numpy()))  # stable: ties keep their order
    return events.take(order).select(shard_schema().names).cast(shard_schema())


def code_metadata(codes: list[Code]) -> pa.Table:
    """metadata/codes.parquet: MEDS 0.4's columns and what the tokenizer knows of each code."""
    schema = pa.schema(
        [
            pa.field("code", pa.string(), nullable=False),
            pa.field("description", pa.string()),
            pa.field("parent_codes", pa.list_(pa.string())),
            pa.field("table", pa.string()),
            pa.field("concept_id", pa.int64()),
            pa.field("vocabulary_id", pa.string()),
            pa.field("domain_id", pa.string()),
            pa.field("concept_class_id", pa.string()),
            pa.field("is_inpatient", pa.bool_()),
        ]
    )
    rows: list[dict[str, Any]] = [
        {
            "code": code.code,
            "description": code.description,
            "parent_codes": [],
            "table": code.table,
            "concept_id": code.concept_id,
            "vocabulary_id": code.vocabulary_id,
            "domain_id": code.domain_id,
            "concept_class_id": code.concept_class_id,
            "is_inpatient": code.is_inpatient,
        }
        for code in sorted(codes, key=lambda c: (c.code, c.table))
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def dataset_metadata(*, model_hash: str, version: str) -> dict[str, Any]:
    """metadata/dataset.json: says first of all that nobody in it exists."""
    return {
        "dataset_name": "synthetic",
        "dataset_version": model_hash[:16],
        "etl_name": "chronoward synthesize",
        "etl_version": version,
        "meds_version": MEDS_VERSION,
        "code_modifier_columns": [],
        "additional_value_modality_columns": [],
        "site_id_columns": [],
        "other_extension_columns": ["unit", "end_time", "available_time", "visit_id", "table"],
    }


def subject_splits(subject_ids: range) -> pa.Table:
    """metadata/subject_splits.parquet."""
    return pa.table(
        {
            "subject_id": pa.array(subject_ids, pa.int64()),
            "split": pa.array([SPLIT] * len(subject_ids), pa.string()),
        }
    )
