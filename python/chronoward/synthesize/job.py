"""`synthesize`: synthetic subjects from a RUN folder, the same bytes however they came about.

Units are drawn by any number of worker processes and written whole; a job that is killed goes on
where it stopped when the same call is made again.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from chronoward import __version__
from chronoward.engine import EngineConfig
from chronoward.engine.precision import choose
from chronoward.engine.statistics import Tally
from chronoward.engine.trained import check_trained
from chronoward.engine.workers import (
    LOOK_EVERY_S,
    Board,
    begin_worker,
    n_processes,
    place,
    run_context,
)
from chronoward.errors import ConfigError, FormatError
from chronoward.files import read_json, sha256_file
from chronoward.model import load
from chronoward.synthesize.concepts import map_codes
from chronoward.synthesize.folder import unit_tables, write_manifest, write_meds, write_omop
from chronoward.synthesize.plan import UNIT_SUBJECTS, Files, Format, Keys, SynthesisPlan, key_space
from chronoward.synthesize.timelines import Synthesizer, code_list, unit_concepts
from chronoward.synthesize.units import MANIFEST, is_done, job_folder, remove_units, write_unit
from chronoward.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from chronoward.engine import EngineStatistics
    from chronoward.engine.workers import Numbers
    from chronoward.synthesize.concepts import Code, CodeMap
    from chronoward.synthesize.timelines import Unit

    Progress = Callable[[int, int, EngineStatistics | None], None]

MODEL_FILE, TOKENIZER_FILE, POPULATION_FILE = (
    "model.safetensors",
    "tokenizer.json",
    "population.json",
)
MAX_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class SynthesisOptions:
    """What few callers change.

    Raises:
        ConfigError: a number out of range, or numbers that the device does not decode in.
    """

    files: Files = "csv"
    """How OMOP tables are stored: csv, parquet or duckdb (its bytes are not reproducible)."""
    keys: Keys = "auto"
    """Type of primary keys; auto: int32 while they fit."""
    workers: int = 1
    """Processes; they change nothing but the time it takes."""
    max_tokens: int = MAX_TOKENS
    """Most tokens drawn for one subject."""
    unit_subjects: int = UNIT_SUBJECTS
    """Subjects of a unit; part of what the bytes depend on."""
    device: str = "auto"
    """Where timelines are drawn: cpu, cuda, or auto, a GPU where torch sees one."""
    dtype: str | None = None
    """Of weights, keys and values while decoding: float32 (None on a CPU), bfloat16 (None on a
    GPU) or int8 (CPU only)."""
    kv_dtype: str | None = None
    """Of keys and values on a GPU: fp8, or None, as `dtype`."""

    def __post_init__(self) -> None:
        for name in ("workers", "max_tokens", "unit_subjects"):
            if getattr(self, name) < 1:
                message = f"{name} must be positive, got {getattr(self, name)}"
                raise ConfigError(message)
        choose(self.device, self.dtype, self.kv_dtype)


class _Words(NamedTuple):
    """What a model can say, and where OMOP has a place for it."""

    tokenizer: Tokenizer
    codes: list[Code]
    map: CodeMap


def _read_words(run: Path) -> _Words:
    """Those of a RUN folder that has all that synthesis needs.

    Raises:
        FormatError: `run` lacks a file, or its tokenizer is damaged.
    """
    for name in (MODEL_FILE, TOKENIZER_FILE, POPULATION_FILE):
        if not (run / name).is_file():
            message = f"{run} has no {name}: not a finished RUN folder"
            raise FormatError(message)
    tokenizer = Tokenizer.load(run / TOKENIZER_FILE)
    codes = code_list(tokenizer)
    return _Words(tokenizer, codes, map_codes(codes, unit_concepts(tokenizer)))


def make_plan(
    run: Path,
    n_subjects: int,
    *,
    tokenizer_hash: str,
    format: Format,
    seed: int,
    options: SynthesisOptions,
) -> SynthesisPlan:
    """The plan of a job.

    Raises:
        ConfigError: a number out of range, an unknown choice, or a model trained with repeat
            weights or without `next_event`.
    """
    if n_subjects < 1:
        message = f"n_subjects must be positive, got {n_subjects}"
        raise ConfigError(message)
    check_trained(run)
    decoding = choose(options.device, options.dtype, options.kv_dtype)
    keys, stride = key_space(
        n_subjects,
        unit_subjects=options.unit_subjects,
        max_tokens=options.max_tokens,
        keys=options.keys,
    )
    return SynthesisPlan(
        n_subjects=n_subjects,
        seed=seed,
        format=format,
        files=options.files if format == "omop" else "parquet",
        max_tokens=options.max_tokens,
        max_context=run_context(run),
        model_hash=sha256_file(run / MODEL_FILE),
        tokenizer_hash=tokenizer_hash,
        population_hash=sha256_file(run / POPULATION_FILE),
        version=__version__,
        **decoding._asdict(),
        unit_subjects=options.unit_subjects,
        keys=keys,
        stride=stride,
    )


class _Worker:
    """Draws and writes units; one a process."""

    def __init__(self, run: Path, words: _Words, out: Path, plan: SynthesisPlan) -> None:
        self.out, self.plan, self.map = out, plan, words.map
        tokenizer = words.tokenizer
        self.synthesizer = Synthesizer(
            place(load(run, tokenizer_hash=tokenizer.hash), plan.device),
            tokenizer,
            read_json(run / POPULATION_FILE),
            seed=plan.seed,
            max_tokens=plan.max_tokens,
            config=EngineConfig(
                max_context=plan.max_context, dtype=plan.dtype, kv_dtype=plan.kv_dtype
            ),
        )

    def write(self, *units: int) -> None:
        """Draws units and writes each whole, in the order in which they come to be."""
        subjects = map(self.plan.subjects, units)
        with torch.inference_mode():
            for place, drawn in self.synthesizer.units(subjects):
                self._write(units[place], drawn)

    def _write(self, unit: int, drawn: Unit) -> None:
        tables = unit_tables(self.plan, unit, drawn.events, drawn.observation, self.map)
        write_unit(self.out, unit, tables, drawn.counts)


_worker: _Worker | None = None


def _open_worker(run: Path, out: Path, plan: SynthesisPlan, board: Board, numbers: Numbers) -> None:
    global _worker
    begin_worker(numbers)
    _worker = _Worker(run, _read_words(run), out, plan)
    board.follow(_worker.synthesizer.engine)


def _write_in_worker(unit: int) -> None:
    assert _worker is not None
    _worker.write(unit)


def _draw(
    run: Path,
    words: _Words,
    out: Path,
    plan: SynthesisPlan,
    *,
    workers: int,
    progress: Progress,
) -> None:
    """Writes the units that are not there yet."""
    workers = n_processes(workers, plan.device)
    pending = [unit for unit in range(plan.n_units) if not is_done(out, unit)]
    done = sum(len(plan.subjects(unit)) for unit in range(plan.n_units) if unit not in pending)
    progress(done, plan.n_subjects, None)

    def tell(statistics: EngineStatistics) -> None:
        progress(done + statistics.rollouts, plan.n_subjects, statistics)

    if pending and (workers == 1 or len(pending) == 1):
        worker = _Worker(run, words, out, plan)
        tally = Tally(worker.synthesizer.engine.n_slots)
        worker.synthesizer.engine.watch = lambda statistics: tell(tally.see(statistics))
        worker.write(*pending)
    elif pending:
        _draw_in_workers((run, out, plan), pending, min(workers, len(pending)), tell)


def _draw_in_workers(
    job: tuple[Path, Path, SynthesisPlan],
    pending: list[int],
    n_workers: int,
    watch: Callable[[EngineStatistics], None],
) -> None:
    board = Board(n_workers)
    numbers = multiprocessing.get_context("spawn").Value("q", 0)
    # spawn: forking a process that has threads (torch, duckdb) can hang it
    with ProcessPoolExecutor(
        n_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_open_worker,
        initargs=(*job, board, numbers),
    ) as pool:
        running = {pool.submit(_write_in_worker, unit) for unit in pending}
        try:
            while running:
                finished, running = wait(running, LOOK_EVERY_S, FIRST_COMPLETED)
                for future in finished:
                    future.result()
                watch(board.total())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def synthesize(
    run: Path | str,
    n_subjects: int,
    out: Path | str,
    *,
    format: Format = "omop",
    seed: int = 0,
    options: SynthesisOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draws synthetic subjects from a trained model and writes them as OMOP 5.4 or MEDS 0.4.

    The same call after a kill goes on where it stopped; after success it does nothing.

    Args:
        run: RUN folder of `chronoward train` (model, tokenizer, population).
        n_subjects: how many; their ids are 1 … n_subjects.
        out: folder to make; also the folder of an interrupted job with the same plan.
        format: "omop" or "meds".
        seed: names the random numbers.
        options: file type, keys, workers, token cap.
        progress: called with (subjects drawn, n_subjects, the engines' counts so far or None).

    Returns:
        The manifest, as in `out/manifest.json`.

    Raises:
        ConfigError: a number out of range or an unknown choice.
        DataError: the population had fewer than 11 subjects.
        FormatError: the RUN folder is not whole, or a file does not match its hash.
        LimitError: a unit needs more keys than int32 leaves it.
        StateError: `out` holds something else or is in use.
    """
    run, out = Path(run), Path(out)
    options = options or SynthesisOptions()
    words = _read_words(run)
    plan = make_plan(
        run,
        n_subjects,
        tokenizer_hash=words.tokenizer.hash,
        format=format,
        seed=seed,
        options=options,
    )
    with job_folder(out, plan) as folder:
        if (folder / MANIFEST).is_file():
            remove_units(folder)
            manifest: dict[str, Any] = read_json(folder / MANIFEST)
            return manifest
        _draw(
            run,
            words,
            folder,
            plan,
            workers=options.workers,
            progress=progress or _silent,
        )
        if plan.format == "omop":
            written = write_omop(folder, plan, words.map)
        else:
            written = write_meds(folder, plan, words.codes)
        manifest = write_manifest(folder, plan, written)
        remove_units(folder)
    return manifest


def _silent(_done: int, _total: int, _statistics: EngineStatistics | None) -> None:
    """No progress."""
