"""Hand-made timelines for tests of the store and of packing: no tokenizer needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chronoward import philox
from chronoward.store import StoreWriter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def open_writer(folder: Path, *, tokenizer: str = "by hand", **tokens: int) -> StoreWriter:
    """A writer in a new folder that holds a pretended tokenizer."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(f'{{"made": "{tokenizer}"}}')
    return StoreWriter(folder, tokenizer_hash=tokenizer, **tokens)


@dataclass(frozen=True, eq=False)
class Batch:
    """Arrays of `TokenBatch`."""

    subject_id: NDArray[np.int64]
    origin_us: NDArray[np.int64]
    offsets: NDArray[np.int64]
    token_id: NDArray[np.int32]
    time_min: NDArray[np.int32]
    event_min: NDArray[np.int32]
    n_prior: NDArray[np.uint8]
    obs_offsets: NDArray[np.int64]
    obs_start_min: NDArray[np.int32]
    obs_end_min: NDArray[np.int32]


def make_batch(subject_id: NDArray[np.int64], lengths: NDArray[np.int64], seed: int = 0) -> Batch:
    """Timelines of given lengths; content is a function of (seed, subject), not of the batch."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens, times = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for subject, length in zip(subject_id, lengths, strict=True):
        words = philox.words(philox.hash64(seed, int(subject)), 2 * int(length))
        tokens.append((words[:length] % 90 + 10).astype(np.int32))
        times.append(np.cumsum(words[length:] % 1000).astype(np.int32))
    token_id, time_min = np.concatenate(tokens), np.concatenate(times)
    n = len(subject_id)
    return Batch(
        subject_id=subject_id.astype(np.int64),
        origin_us=(subject_id.astype(np.int64) % 1000) * 86_400_000_000,
        offsets=offsets,
        token_id=token_id,
        time_min=time_min,
        event_min=np.maximum(time_min - 5, 0),
        n_prior=(token_id % 256).astype(np.uint8),
        obs_offsets=2 * np.arange(n + 1, dtype=np.int64),
        obs_start_min=np.tile(np.array([0, 5000], np.int32), n),
        obs_end_min=np.tile(np.array([4000, 2**30], np.int32), n),
    )
