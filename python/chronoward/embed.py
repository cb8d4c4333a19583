"""`chronoward embed`: one vector for each prefix, from the model's final hidden states.

By default the mean over the tokens of the last visit (days, in preset `events`, have no visits:
there, and before the first visit, over the whole context's last moment): it holds what was just
seen in the light of all before. `last` takes the last token alone. Embeddings are patient data.
The module can be called: `chronoward.embed(run, …)` is its function `embed`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from chronoward.engine.decode import one_thread
from chronoward.engine.workers import run_context
from chronoward.errors import ConfigError, DataError
from chronoward.files import make_output_folder, write_json
from chronoward.model import load as load_model
from chronoward.model import read_config
from chronoward.packages import make_callable
from chronoward.score.job import check_same_tokenizer
from chronoward.score.output import write_table
from chronoward.score.rows import ALL_SPLITS, Prefixes, make_prefixes, read_cohort, whole_timelines
from chronoward.store import TokenStore
from chronoward.tokenizer import TokenClass, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from chronoward.engine import Prompt
    from chronoward.model import Model

POOLINGS = ("last_visit", "last")
_BATCH_TOKENS = 4096


def embed(
    run: Path | str,
    tokens: Path | str,
    out: Path | str,
    *,
    cohort: Path | str | None = None,
    split: str = ALL_SPLITS,
    pooling: str = "last_visit",
    max_context: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes `OUT/embeddings.parquet`: subject_id, prediction_time, embedding (fixed-size list).

    Args:
        run: RUN folder.
        tokens: token store.
        out: a new or empty folder.
        cohort: cohort folder or MEDS label file; None: every subject at the end of its timeline.
        split: only subjects of this split of the store, or "all".
        pooling: "last_visit" (mean) or "last" (token).
        max_context: tokens of a context; None: what the run was trained on, at most 1,024.
        progress: called with (rows done, rows in all).

    Returns:
        The content of `embed.json`.

    Raises:
        ConfigError: an unknown pooling or split.
        DataError: unknown subjects or repeated rows in the cohort; no row with an event.
        FormatError: run and store have different tokenizers.
        StateError: `out` has content.
    """
    began = time.monotonic()
    if pooling not in POOLINGS:
        message = f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}"
        raise ConfigError(message)
    store = TokenStore.open(tokens)
    tokenizer = Tokenizer.load(Path(run) / "tokenizer.json")
    check_same_tokenizer(run, store, tokenizer)
    model = load_model(run, tokenizer_hash=tokenizer.hash)
    rows = whole_timelines(store, split) if cohort is None else read_cohort(cohort)
    context = max_context or run_context(run)
    prefixes = make_prefixes(
        rows, store, tokenizer.grammar(), split=split, max_context=context, after_death=True
    )
    if not prefixes.prompts:
        message = f"{rows.path}: no row has an event before its prediction time"
        raise DataError(message)
    folder = make_output_folder(Path(out))
    vectors = []
    for batch in _batches(prefixes.prompts):
        vectors.append(_embed_batch(model, batch, tokenizer.token_class, pooling))
        if progress is not None:
            progress(sum(len(v) for v in vectors), len(prefixes.prompts))
    write_table(folder / "embeddings.parquet", _table(prefixes, np.concatenate(vectors)))
    report = {
        "schema": 1,
        "model": read_config(Path(run))["weights"],
        "tokenizer": tokenizer.hash,
        "pooling": pooling,
        "d": model.config.d_model,
        "max_context": context,
        "rows": prefixes.counts,
        "patient_data": "embeddings of real records; never releasable",
        "seconds": round(time.monotonic() - began, 3),
    }
    write_json(folder / "embed.json", report)
    return report


def _batches(prompts: list[Prompt]) -> Iterator[list[Prompt]]:
    """Runs of prompts of up to `_BATCH_TOKENS` tokens, by their order alone."""
    batch: list[Prompt] = []
    n_tokens = 0
    for prompt in prompts:
        if batch and n_tokens + len(prompt.token_id) > _BATCH_TOKENS:
            yield batch
            batch, n_tokens = [], 0
        batch.append(prompt)
        n_tokens += len(prompt.token_id)
    if batch:
        yield batch


def first_pooled(token_class: NDArray[np.uint8], time_min: NDArray[np.int32], pooling: str) -> int:
    """Position from which a prefix's hidden states are averaged.

    Args:
        token_class: classes of the prefix's tokens (n,).
        time_min: its clock (n,).
        pooling: "last_visit" or "last".
    """
    if pooling == "last":
        return len(token_class) - 1
    starts = np.flatnonzero(token_class == TokenClass.VISIT_START)
    if len(starts):
        return int(starts[-1])
    return int(np.searchsorted(time_min, time_min[-1], side="left"))


@torch.inference_mode()
def _embed_batch(
    model: Model, prompts: list[Prompt], token_class: NDArray[np.uint8], pooling: str
) -> NDArray[np.float32]:
    lengths = [len(p.token_id) for p in prompts]
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    token_id = torch.from_numpy(np.concatenate([p.token_id for p in prompts]).astype(np.int64))
    time_min = torch.from_numpy(np.concatenate([p.time_min for p in prompts]))
    with one_thread():
        hidden = model(token_id, time_min, torch.from_numpy(bounds))
    pooled = []
    for prompt, end in zip(prompts, bounds[1:], strict=True):
        first = first_pooled(token_class[prompt.token_id], prompt.time_min, pooling)
        pooled.append(hidden[int(end) - len(prompt.token_id) + first : int(end)].mean(dim=0))
    vectors: NDArray[np.float32] = torch.stack(pooled).float().numpy()
    return vectors


def _table(prefixes: Prefixes, vectors: NDArray[np.float32]) -> pa.Table:
    flat = pa.array(vectors.reshape(-1), pa.float32())
    times = pa.array([p.prediction_time_us for p in prefixes.prompts], pa.int64())
    return pa.table(
        {
            "subject_id": pa.array([p.subject_id for p in prefixes.prompts], pa.int64()),
            "prediction_time": times.cast(pa.timestamp("us")),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
    )


make_callable(__name__)
