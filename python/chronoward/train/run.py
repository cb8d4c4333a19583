"""`chronoward train`: a token store in, a RUN folder out.

The folder's `config.json` is written last; until then `checkpoints/` holds what `resume` needs, and
`checkpoints/plan.json` what the run set out to do, the number of steps included (with `minutes` it
is a first guess, and the checkpoints have what became of it).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chronoward import __version__, files, population
from chronoward.errors import ConfigError, DataError, LimitError, StateError
from chronoward.loader import Loader
from chronoward.model import PORTABLE, Model, ModelConfig, place_rows, save_model
from chronoward.model import load as load_model
from chronoward.process_memory import keep_freed_memory
from chronoward.store import TokenStore
from chronoward.tokenizer import Tokenizer
from chronoward.tokenizer.concept_embeddings import ConceptEmbeddings, token_vectors
from chronoward.train import data as from_store
from chronoward.train.card import model_card
from chronoward.train.config import TrainConfig
from chronoward.train.context import start_context_bias, visit_kinds
from chronoward.train.device import Place, chosen_device, dtype_on, free_bytes, title
from chronoward.train.learned_from import Data, Evaluation
from chronoward.train.loop import Trainer
from chronoward.train.memory import estimated_memory
from chronoward.train.metrics import MetricsLog
from chronoward.train.ranks import Ranks
from chronoward.train.rare_codes import RareCodes
from chronoward.train.redraw import Redraw
from chronoward.train.schedule import SETTLING_COST, run_length, settling_steps
from chronoward.train.shards import gathered, shard
from chronoward.train.state import Progress, load_weights, steps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from chronoward.store import StoreSplit

CHECKPOINTS = "checkpoints"
PLAN = "plan.json"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TUNING_SEED = 0  # runs of all seeds are judged by the same tokens
EVALUATION_COST = 0.6  # of a forward pass with all logits, as a share of a step (`tiny`)
GIB = 1 << 30


def _silent(_line: str) -> None:
    """Says nothing."""


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Who is told what.

    Attributes:
        progress: called with (steps done, steps, metrics line).
        say: takes the lines that tell what will be done.
    """

    progress: Callable[[int, int, dict[str, Any]], None] | None = None
    say: Callable[[str], None] = _silent


@dataclass(frozen=True, eq=False)
class _Job:
    """A run's inputs, opened and checked."""

    store: TokenStore
    tokenizer: Tokenizer
    config: TrainConfig
    run_dir: Path
    excluded: NDArray[np.int64]
    concept_embeddings: Path | None
    ranks: Ranks
    in_parts: bool
    device: torch.device

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / CHECKPOINTS

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must share with the one it goes on from."""
        excluded = np.sort(self.excluded).astype("<i8").tobytes()
        given = self.concept_embeddings
        return {
            "config": self.config.to_json(),
            "tokenizer": self.tokenizer.hash,
            "store": self.store.manifest["checksum"],
            "excluded": hashlib.sha256(excluded).hexdigest(),
            "concept_embeddings": None if given is None else files.sha256_file(given),
        }

    def loader(self, split: StoreSplit, seed: int) -> Loader:
        """Packed rows of a split without the excluded subjects."""
        loader = Loader(
            split,
            self.tokenizer.grammar(),
            row_tokens=self.config.row_tokens,
            rows_per_step=self.config.n_rows,
            seed=seed,
        )
        if len(self.excluded):
            from_store.without_subjects(loader, split, self.excluded)
        return loader


def train(
    tokens: Path | str,
    out: Path | str,
    config: TrainConfig | None = None,
    *,
    resume: bool = False,
    exclude_subjects: Sequence[int] = (),
    concept_embeddings: Path | None = None,
    memory_limit: int | None = None,
    place: Place | None = None,
    callbacks: Callbacks | None = None,
    **options: Any,
) -> Model:
    """Trains a model on a token store.

    Started by `torchrun`, the processes share the rows of each step; the losses are those of one
    process but for the order of additions, and a run may go on with another number of them.

    Args:
        tokens: the store.
        out: the RUN folder; must not exist or be empty unless `resume`.
        config: what to do. The weights depend on it, on the store and on the number of threads.
        resume: go on with an unfinished run (and start one where there is none); a finished run is
            returned as it is.
        exclude_subjects: subjects to leave out of every split.
        concept_embeddings: Parquet file of `code` and `vector`, from which the embedding rows of
            these codes start (see `chronoward.model.place_rows`).
        memory_limit: bytes; refuse to start when the estimate is above.
        place: on which device, and what each of several processes holds; None: a GPU where there
            is one, and the whole model.
        callbacks: who is told what.
        options: fields of `TrainConfig` that differ from `config`.

    Returns:
        The model with the best weights, as written, on the CPU.

    Raises:
        ConfigError: more processes than rows of a step, a GPU that is not there, or more processes
            than GPUs.
        DataError: the train split is empty, or the file of embeddings is faulty.
        StateError: `out` has content, or a resume that does not fit.
        LimitError: the estimate of memory is above the limit.
        NumericError: training diverged.
    """
    config = replace(config or TrainConfig(), **options)
    store = TokenStore.open(tokens)
    tokenizer = Tokenizer.load(store.tokenizer_path)
    excluded = np.array(exclude_subjects, np.int64)
    place = place or Place()
    device = chosen_device(place.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ranks = Ranks.from_environment(device.type)
    if config.n_rows < ranks.world:
        message = f"a step of {config.n_rows} rows cannot be shared by {ranks.world} processes"
        raise ConfigError(message)
    in_parts = place.parallel == "fsdp" and ranks.world > 1
    job = _Job(
        *(store, tokenizer, config, Path(out), excluded, concept_embeddings),
        *(ranks, in_parts, device),
    )
    if ranks.is_first:
        files.make_output_folder(job.run_dir, resume=resume)
        files.remove_temporary_files(job.run_dir)
    ranks.wait()
    job = replace(job, config=_with_dtype(job))
    plan = _read_plan(job)
    if (job.run_dir / CONFIG).is_file():
        return load_model(job.run_dir, tokenizer_hash=tokenizer.hash)
    callbacks = (callbacks if ranks.is_first else None) or Callbacks()
    keep_freed_memory()
    model, data = _prepare(job)
    trainer, log = _start(job, model, data, plan, memory_limit, callbacks)
    trainer.run()
    return _finish(job, trainer, log, callbacks.say)


def _with_dtype(job: _Job) -> TrainConfig:
    """The config with its numbers: where they are left open, those that the run has begun with, or
    the device's own."""
    dtype, path = job.config.dtype, job.checkpoints / PLAN
    if dtype is None and path.is_file():
        dtype = files.read_json(path)["fingerprint"]["config"]["dtype"]
    return replace(job.config, dtype=dtype_on(job.device, dtype))


def _read_plan(job: _Job) -> dict[str, Any] | None:
    """The plan of an earlier start in this folder, None where there is none."""
    path = job.checkpoints / PLAN
    if not path.is_file():
        return None
    plan: dict[str, Any] = files.read_json(path)
    mine = job.fingerprint()
    for name, value in plan["fingerprint"].items():
        if value != mine[name]:
            message = f"{job.run_dir} was begun with another {name}; use the same or start anew"
            raise StateError(message)
    return plan


def _prepare(job: _Job) -> tuple[Model, Data]:
    config, train_split = job.config, job.store.split("train")
    loader = job.loader(train_split, config.seed)
    if not len(loader.windows):
        message = f"{job.store.path}: the train split has no timeline to learn from"
        raise DataError(message)
    kind = visit_kinds(train_split, job.tokenizer)
    fields = {"n_visit_kinds": int(kind.max(initial=0)) + 1} | config.model
    fields |= PORTABLE if config.portable else {}
    model = Model(
        ModelConfig.preset(config.preset, job.tokenizer.vocab_size, **fields), seed=config.seed
    )
    if config.portable:
        model.context_bias.requires_grad_(False)  # they stay at zero
    else:
        start_context_bias(model, kind, train_split, job.tokenizer)
    if job.concept_embeddings is not None:
        embeddings = ConceptEmbeddings.read(job.concept_embeddings)
        place_rows(model, *token_vectors(job.tokenizer, embeddings), seed=config.seed)
    tuning_split = job.store.split("tuning")
    builder = from_store.Objectives(job.tokenizer, config, job.store.path)
    objectives = builder.build(model, train_split, first=True)
    tuning_objectives = builder.build(model, tuning_split, first=False)
    tuning = from_store.fixed_batches(job.loader(tuning_split, TUNING_SEED), config)
    redraw = Redraw(job.tokenizer.grammar(), config.seed) if config.redraw_times else None
    rare_codes = RareCodes.of(train_split, job.tokenizer, config.seed)
    model.to(job.device)
    if job.in_parts:
        shard(model)
    return model, Data(loader, objectives, tuning, tuning_objectives, redraw, rare_codes)


def _start(
    job: _Job,
    model: Model,
    data: Data,
    plan: dict[str, Any] | None,
    memory_limit: int | None,
    callbacks: Callbacks,
) -> tuple[Trainer, MetricsLog]:
    """Says what will be done, writes or reads the plan, and makes the trainer, resumed or new."""
    log = MetricsLog(job.run_dir / "metrics.jsonl")

    def make(n_steps: int) -> Trainer:
        return Trainer(
            model,
            data,
            job.config,
            n_steps=n_steps,
            folder=job.checkpoints,
            log=log,
            report=callbacks.progress,
            ranks=job.ranks,
        )

    n_parts = job.ranks.world if job.in_parts else 1
    memory = estimated_memory(model.config, job.config, n_parts, job.device)
    if memory_limit is not None and memory > memory_limit:
        message = (
            f"training needs about {memory / GIB:.1f} GiB, more than the limit of "
            f"{memory_limit / GIB:.1f} GiB; lower rows_per_step or row_tokens"
        )
        raise LimitError(message)
    seconds = make(1).seconds_per_step()
    n_steps = plan["n_steps"] if plan else _planned_steps(job.config, data, seconds)
    _describe(job, model, data, n_steps, (seconds, memory), callbacks.say)
    if plan is None and job.ranks.is_first:
        job.checkpoints.mkdir(mode=0o700, exist_ok=True)
        files.write_bytes(job.run_dir / TOKENIZER, job.store.tokenizer_path.read_bytes())
        files.write_json(job.run_dir / "population.json", population.profile(job.store))
        files.write_json(
            job.checkpoints / PLAN, {"fingerprint": job.fingerprint(), "n_steps": n_steps}
        )
    job.ranks.wait()
    trainer = make(n_steps)
    if found := steps_of(job.checkpoints):
        trainer.resume(found[-1])
        callbacks.say(f"Going on from step {trainer.progress.step:,}.")
    return trainer, log


def _planned_steps(config: TrainConfig, data: Data, seconds: float) -> int:
    """Steps that fit; evaluations take their share of the minutes."""
    rows = sum(len(batch.token_id) for batch in data.tuning)
    evaluation = EVALUATION_COST * seconds * rows / (config.row_tokens * config.n_rows)
    per_step = seconds
    if config.minutes is not None:
        left = max(config.minutes * 60 - config.evaluations * evaluation, seconds)
        per_step = seconds * config.minutes * 60 / left
    return run_length(config, data.train.n_steps(0), per_step)


def _describe(
    job: _Job,
    model: Model,
    data: Data,
    n_steps: int,
    costs: tuple[float, int],
    say: Callable[[str], None],
) -> None:
    """Says before it starts what the run will do."""
    config, split = job.config, job.store.split("train")
    seconds, memory = costs
    per_epoch = data.train.n_steps(0)
    tokens = n_steps * config.row_tokens * config.n_rows
    evaluation = EVALUATION_COST * sum(len(batch.token_id) for batch in data.tuning)
    evaluation *= config.evaluations / (config.row_tokens * config.n_rows)
    settling = SETTLING_COST * settling_steps(n_steps, per_epoch, config)
    say(
        f"Training {config.preset}{_on(job)}: "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {job.tokenizer.vocab_size:,} "
        "tokens in the vocabulary."
    )
    say(
        f"Data: {len(split):,} timelines, {split.n_tokens:,} tokens; tuning on "
        f"{len(data.tuning):,} fixed batches."
    )
    say(
        f"{n_steps:,} steps of {config.n_rows} rows of {config.row_tokens:,} tokens "
        f"({n_steps / per_epoch:.1f} passes, about {tokens / 1e6:.1f} M tokens)."
    )
    say(
        f"About {memory / GIB:.1f} GiB of memory{_of_gpu(job)}{_in_each(job)} and "
        f"{(n_steps + settling + evaluation) * seconds / 60:.1f} minutes "
        f"({config.row_tokens * config.n_rows / seconds:,.0f} tokens a second, measured)."
    )


def _on(job: _Job) -> str:
    """Where and in which numbers it trains, where that is not a CPU's fp32."""
    config, is_cpu = job.config, job.device.type == "cpu"
    place = "" if is_cpu else f" on {title(job.device)}"
    return place if is_cpu and config.dtype == "fp32" else f"{place} in {config.dtype}"


def _of_gpu(job: _Job) -> str:
    """Whose memory the estimate is of, and how much of it is free, where it is a GPU's."""
    free = free_bytes(job.device)
    return "" if free is None else f" of {title(job.device)}'s free {free / GIB:.1f} GiB"


def _in_each(job: _Job) -> str:
    """What the estimate of memory is of, where there are several processes."""
    held = "a part of the model" if job.in_parts else "the whole model"
    world = job.ranks.world
    return f" in each of {world} processes, which hold {held}," if world > 1 else ""


def _finish(job: _Job, trainer: Trainer, log: MetricsLog, say: Callable[[str], None]) -> Model:
    """Settles the biases of the best weights, then writes them."""
    job.ranks.wait()
    model, progress = trainer.model, trainer.progress
    best = progress.best_step if progress.best_step >= 0 else progress.step
    load_weights(job.checkpoints, best, model)
    if not job.config.portable:
        say(f"Setting the biases of step {best:,} by the train split's counts.")
    settled = trainer.settle()
    model = gathered(model).to("cpu")
    if job.ranks.is_first:
        log.write()
        _write(job, model, progress, best, settled)
    job.ranks.wait()
    return model.eval()


def _write(
    job: _Job, model: Model, progress: Progress, best: int, settled: Evaluation | None
) -> None:
    """The card, the weights and, last, the config."""
    split = job.store.split("train")
    facts = {
        "timelines (train)": f"{len(split):,}",
        "tokens (train)": f"{split.n_tokens:,}",
        "vocabulary": f"{job.tokenizer.vocab_size:,}",
        "tokenizer": job.tokenizer.hash[:16],
        "excluded subjects": f"{len(job.excluded):,}",
        "steps left out (not finite)": f"{progress.skipped:,}",
        "steps left out (nothing to predict)": f"{progress.empty:,}",
        "chronoward": __version__,
    }
    card = model_card(model, job.config, progress, facts, settled.report if settled else {})
    files.write_bytes(job.run_dir / "README.md", card.encode("utf-8"))
    training = {
        **job.fingerprint(),
        "steps": progress.step,
        "best_step": best,
        "best_loss": progress.best_loss,
        "settled_loss": settled.loss if settled else None,
        "tokens": progress.tokens,
        "stopped": progress.stopped,
        "repeat_weight": job.config.repeat_weight,
        "sees_whole_visits": job.config.sees_whole_visits,
        "chronoward": __version__,
    }
    save_model(job.run_dir, model, tokenizer_hash=job.tokenizer.hash, training=training)
