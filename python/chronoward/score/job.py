"""What scoring needs before the first rollout: everything is checked here, then estimated once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chronoward import outcomes as outcome_definitions
from chronoward.engine import EngineConfig, SamplingParams
from chronoward.engine.precision import Decoding, choose
from chronoward.engine.trained import check_trained
from chronoward.engine.workers import map_units, n_processes, open_engine, run_context, unit_rows
from chronoward.errors import ConfigError, DataError, FormatError, require_at_least
from chronoward.model import load as load_model
from chronoward.score.estimators import SAMPLED, RowEstimate
from chronoward.score.hazard import hazard_estimates, hazard_head
from chronoward.score.rows import make_prefixes
from chronoward.score.units import N_PILOT, ScoreTask, ScoreUnit, score_unit
from chronoward.store import TokenStore
from chronoward.store.codes import code_table
from chronoward.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from chronoward.engine import EngineStatistics
    from chronoward.score.rows import CohortRows, Prefixes

    Progress = Callable[[int, int, EngineStatistics | None], None]

ESTIMATORS = (*SAMPLED, "hazard")
MINUTES_PER_DAY = 1440


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How risks are estimated.

    Raises:
        ConfigError: a value out of range or an unknown estimator.
    """

    estimator: str = "reach"
    """reach, scope, count, or hazard (one pass, needs the head)."""
    n_rollouts: int | None = None
    """Rollouts a row and outcome; None: a pilot of 8 asks for as many as `target_se` needs."""
    target_se: float = 0.01
    """Standard error that a pilot aims at."""
    max_rollouts: int = 256
    """Most rollouts that a pilot may ask for."""
    max_new_tokens: int = 1024
    """Tokens after which a rollout is undetermined."""
    n_slots: int | None = None
    """Rollouts side by side in each worker; None: 32 on a CPU, 256 on a GPU."""
    max_context: int | None = None
    """Tokens of a context; None: what the run was trained on, at most 1,024."""
    split: str = "all"
    """Score only the rows whose subject is in this split of the token store."""
    threshold: float = 0.5
    """Probability from which `predicted_boolean_value` is true."""
    calibration: Path | str | None = None
    """File of `calibrate`, by which all risks are corrected; None: as they come."""
    seed: int = 0
    device: str = "auto"
    """Where rollouts are drawn: cpu, cuda, or auto, a GPU where torch sees one."""
    dtype: str | None = None
    """Of weights, keys and values while decoding: float32 (None on a CPU), bfloat16 (None on a
    GPU) or int8 (CPU only)."""
    kv_dtype: str | None = None
    """Of keys and values on a GPU: fp8, or None, as `dtype`."""
    strict: bool = False
    """Rows that cannot be scored and undetermined rollouts are errors."""

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            message = f"estimator must be one of {', '.join(ESTIMATORS)}, got {self.estimator!r}"
            raise ConfigError(message)
        choose(self.device, self.dtype, self.kv_dtype)
        require_at_least(1, self, "n_rollouts")
        require_at_least(N_PILOT, self, "max_rollouts")
        if not (math.isfinite(self.target_se) and self.target_se > 0):
            message = f"target_se must be positive, got {self.target_se}"
            raise ConfigError(message)

    @property
    def decoding(self) -> Decoding:
        """Device and numbers, nothing left open.

        Raises:
            ConfigError: an unknown name, a GPU that is not there, or numbers it does not take.
        """
        return choose(self.device, self.dtype, self.kv_dtype)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Outcomes by name, each with the token ids (int32, ascending) that are it."""

    names: list[str]
    sets: list[NDArray[np.int32]]
    death: str | None
    """The one among them that is death."""


@dataclass(frozen=True, eq=False)
class ScoreJob:
    """Rows that can be scored with a run, and the questions to them."""

    run: Path
    weights: str
    """Hash of the model."""
    tokenizer: Tokenizer
    outcomes: Outcomes
    horizons_days: list[int]
    prefixes: Prefixes
    max_context: int
    config: ScoreConfig

    @classmethod
    def open(
        cls,
        run: Path | str,
        tokens: Path | str,
        rows: CohortRows,
        outcomes: Sequence[str],
        horizons: Sequence[int],
        config: ScoreConfig,
    ) -> ScoreJob:
        """Reads and checks everything but the weights.

        Raises:
            ConfigError: an outcome without a token or head, a run trained with repeat weights or
                without what the estimator needs.
            DataError: unknown subjects, or no row can be scored (with `strict`: not every row).
            FormatError: run and store have different tokenizers.
        """
        _check_horizons(horizons)
        run_config = check_trained(run, rolls_out=config.estimator != "hazard")
        store = TokenStore.open(tokens)
        tokenizer = Tokenizer.load(Path(run) / "tokenizer.json")
        check_same_tokenizer(run, store, tokenizer)
        found = _resolve(outcomes, store, tokenizer)
        max_context = config.max_context or run_context(run)
        prefixes = _prefixes(rows, store, tokenizer, config, max(horizons), max_context)
        if config.estimator == "hazard":
            hazard_head(load_model(run), found.names)
        return cls(
            run=Path(run),
            weights=run_config["weights"],
            tokenizer=tokenizer,
            outcomes=found,
            horizons_days=list(horizons),
            prefixes=prefixes,
            max_context=max_context,
            config=config,
        )

    @property
    def competing_death(self) -> bool:
        """Whether death ends the risk of the other outcomes."""
        return self.config.estimator != "hazard" or self.outcomes.death is not None

    def had_before(self) -> NDArray[np.bool_]:
        """Whether each row's record held each outcome by then: bool (n_rows, n_outcomes)."""
        known = self.prefixes.known
        return np.array(
            [[bool(np.isin(ids, wanted).any()) for wanted in self.outcomes.sets] for ids in known]
        )

    def estimate(self, *, threads: int, progress: Progress | None) -> list[list[RowEstimate]]:
        """Estimates of each prompt for each outcome; threads do not change them."""
        config, found, prompts = self.config, self.outcomes, self.prefixes.prompts
        horizons_min = np.array(self.horizons_days, np.int64) * MINUTES_PER_DAY
        if config.estimator == "hazard":
            model = load_model(self.run)
            return hazard_estimates(model, prompts, found.names, horizons_min, found.death)
        task = ScoreTask(
            estimator=config.estimator,
            params=SamplingParams(
                seed=config.seed,
                outcome_sets=tuple(found.sets),
                outcome_names=tuple(found.names),
                mask_outcomes=config.estimator == "reach",
                max_new_tokens=config.max_new_tokens,
            ),
            horizons_min=horizons_min,
            n_rollouts=config.n_rollouts,
            target_se=config.target_se,
            max_rollouts=config.max_rollouts,
        )
        decoding, rollouts_a_row = config.decoding, (config.n_rollouts or 32) * len(found.names)
        size = int(np.clip(2048 // rollouts_a_row, 4, 64))
        size = unit_rows(size, rollouts_a_row, decoding.device)
        units = [ScoreUnit(task, prompts[i : i + size]) for i in range(0, len(prompts), size)]
        engine = EngineConfig(
            n_slots=config.n_slots,
            max_context=self.max_context,
            dtype=decoding.dtype,
            kv_dtype=decoding.kv_dtype,
        )
        estimates: list[list[RowEstimate]] = []
        counts: EngineStatistics | None = None

        def tell(statistics: EngineStatistics | None) -> None:
            nonlocal counts
            counts = statistics or counts
            if progress is not None:
                progress(len(estimates), len(prompts), counts)

        n_workers = n_processes(min(threads, len(units)), decoding.device)
        # another process reads the tokenizer itself
        known = self.tokenizer if n_workers == 1 else None
        make = partial(open_engine, self.run, engine, decoding.device, tokenizer=known)
        for done in map_units(make, score_unit, units, n_workers=n_workers, watch=tell):
            estimates += done
            tell(None)
        return estimates


def _check_horizons(horizons: Sequence[int]) -> None:
    if not horizons or any(h < 1 for h in horizons) or len(set(horizons)) < len(horizons):
        message = f"horizons must be different positive numbers of days, got {list(horizons)}"
        raise ConfigError(message)


def _prefixes(
    rows: CohortRows,
    store: TokenStore,
    tokenizer: Tokenizer,
    config: ScoreConfig,
    longest_days: int,
    max_context: int,
) -> Prefixes:
    """The rows' prompts.

    Raises:
        DataError: unknown subjects; no row can be scored, or, with `strict`, one cannot.
    """
    prefixes = make_prefixes(
        rows,
        store,
        tokenizer.grammar(),
        split=config.split,
        deadline_min=longest_days * MINUTES_PER_DAY,
        max_context=max_context,
    )
    left_out = prefixes.counts["before_first_event"] + prefixes.counts["after_death"]
    if not prefixes.prompts or (config.strict and left_out):
        message = f"{rows.path}: {left_out} rows cannot be scored: {prefixes.counts}"
        raise DataError(message)
    return prefixes


def check_same_tokenizer(run: Path | str, store: TokenStore, tokenizer: Tokenizer) -> None:
    """Refuses a run and a store that do not share their tokenizer.

    Raises:
        FormatError: they do not.
    """
    if store.tokenizer_hash != tokenizer.hash:
        message = f"{run} and {store.path} have different tokenizers"
        raise FormatError(message)


def _resolve(names: Sequence[str], store: TokenStore, tokenizer: Tokenizer) -> Outcomes:
    definitions = [outcome_definitions.load(name) for name in names]
    found = [definition.name for definition in definitions]
    if not definitions or len(set(found)) < len(found):
        message = f"outcomes must be given and differ, got {found}"
        raise ConfigError(message)
    codes = code_table(store.path, tokenizer)
    sets = []
    for definition in definitions:
        ids = tokenizer.token_ids_of(outcome_definitions.resolve(definition, codes))
        if not len(ids):
            message = f"outcome {definition.name!r} has no token in the vocabulary"
            raise ConfigError(message)
        sets.append(np.sort(ids).astype(np.int32))
    death = next((d.name for d in definitions if d.kind == "death"), None)
    return Outcomes(found, sets, death)
