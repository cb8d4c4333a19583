"""`chronoward train`: a token store in, a RUN folder out.

The folder's `config.json` is written last; until then `checkpoints/` holds what `resume` needs, and
`checkpoints/plan.json` what the run set out to do, the number of steps included (with `minutes` it
was measured, and a resumed run keeps it).
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chronoward import __version__, files, population
from chronoward.errors import DataError, LimitError, StateError
from chronoward.loader import Loader
from chronoward.model import (
    Hazard,
    HazardHead,
    Model,
    ModelConfig,
    NextEvent,
    read_config,
    save_model,
)
from chronoward.model.hazard import start_at_rates
from chronoward.store import TokenStore
from chronoward.tokenizer import Tokenizer
from chronoward.train import data as from_store
from chronoward.train.card import model_card
from chronoward.train.loop import Data, Trainer
from chronoward.train.metrics import GROUPS, MetricsLog
from chronoward.train.schedule import run_length
from chronoward.train.state import load_weights, steps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from chronoward.model import Batch, Objective
    from chronoward.store import StoreSplit
    from chronoward.train.config import TrainConfig

CHECKPOINTS = "checkpoints"
PLAN = "plan.json"
_BYTES_PER_PARAMETER = 16  # weight, gradient, two moments, fp32


@dataclass(frozen=True, eq=False)
class _Job:
    """A run's inputs, opened and checked."""

    store: TokenStore
    tokenizer: Tokenizer
    config: TrainConfig
    run_dir: Path
    excluded: NDArray[np.int64]

    def loader(self, split: StoreSplit) -> Loader:
        loader = Loader(
            split,
            self.tokenizer.grammar(),
            row_tokens=self.config.row_tokens,
            rows_per_step=self.config.rows_per_step,
            seed=self.config.seed,
        )
        if len(self.excluded):
            from_store.without_subjects(loader, split, self.excluded)
        return loader


def train(
    tokens: Path | str,
    out: Path | str,
    config: TrainConfig,
    *,
    resume: bool = False,
    exclude_subjects: Sequence[int] = (),
    memory_limit: int | None = None,
    progress: Callable[[int, int, dict[str, Any]], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Model:
    """Trains a model on a token store.

    Args:
        tokens: the store.
        out: the RUN folder; must not exist or be empty unless `resume`.
        config: what to do. The weights depend on it, on the store and on the number of threads.
        resume: go on with an unfinished run (and start one where there is none); a finished run is
            returned as it is.
        exclude_subjects: subjects to leave out of every split.
        memory_limit: bytes; refuse to start when the estimate is above.
        progress: called with (steps done, steps, metrics line).
        say: takes the lines that tell what will be done.

    Returns:
        The model with the best weights, as written.

    Raises:
        DataError: the train split is empty.
        StateError: `out` has content, or a resume that does not fit.
        LimitError: the estimate of memory is above the limit.
        NumericError: training diverged.
    """
    job = _open(Path(tokens), Path(out), config, exclude_subjects, resume=resume)
    finished = resume and (job.run_dir / "config.json").is_file()
    model = _new_model(job)
    data = _data(job, model)
    log = MetricsLog(job.run_dir / "metrics.jsonl")
    trainer = _trainer(job, model, data, log, progress, say, memory_limit)
    if finished:
        _load_best(job, model, trainer)
        return model.eval()
    found = steps_of(job.run_dir / CHECKPOINTS)
    if found:
        trainer.resume(found[-1])
    trainer.run()
    return _finish(job, model, trainer, log)
