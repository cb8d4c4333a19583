"""From a token store to batches and objectives: the part of training that knows tokens' meaning."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from chronoward import outcomes
from chronoward.errors import ConfigError
from chronoward.model import (
    Batch,
    Gap,
    GapHead,
    Gaps,
    Hazard,
    HazardConfig,
    HazardHead,
    NextEvent,
    NextVisit,
    NextVisitConfig,
    NextVisitHead,
    OutcomeTable,
    Subtime,
    SubtimeHead,
)
from chronoward.model.hazard import start_at_rates
from chronoward.model.open_interval import OpenIntervals
from chronoward.store.codes import code_table
from chronoward.tokenizer import DurationRule, TokenClass
from chronoward.train.metrics import GROUPS, group_of_class

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from chronoward.loader import Loader, PackedRow
    from chronoward.model import Model, Objective
    from chronoward.packing import Windows
    from chronoward.store import StoreSplit
    from chronoward.tokenizer import Tokenizer
    from chronoward.train.config import TrainConfig

MINUTES_PER_DAY = 1440


def join_rows(rows: Sequence[PackedRow]) -> Batch:
    """Lays packed rows end to end.

    Args:
        rows: rows of one length with the same number of segments.
    """
    rows = list(rows)  # each is made of views once, not for every column
    length = rows[0].token_id.shape[0]
    bounds = [row.cu_seqlens[:-1] + r * length for r, row in enumerate(rows)]
    bounds.append(torch.tensor([length * len(rows)], dtype=torch.int32))
    return Batch(
        token_id=torch.cat([row.token_id for row in rows]).long(),
        time_min=torch.cat([row.time_min for row in rows]),
        n_prior=torch.cat([row.n_prior for row in rows]),
        cu_seqlens=torch.cat(bounds),
        segment_subject=torch.cat([row.segment_subject for row in rows]),
        loss_mask=torch.cat([row.loss_mask for row in rows]),
    )


def n_tokens(rows: Sequence[PackedRow]) -> int:
    """Tokens in use."""
    return sum(row.n_tokens for row in rows)


def without_subjects(loader: Loader, split: StoreSplit, excluded: NDArray[np.int64]) -> int:
    """Takes the windows of excluded subjects out of a loader.

    Returns:
        Number of timelines taken out.
    """
    is_excluded = np.isin(split.subject_id, excluded)
    loader.windows = _kept(loader.windows, ~is_excluded[loader.windows.timeline])
    return int(is_excluded.sum())


def _kept(windows: Windows, kept: NDArray[np.bool_]) -> Windows:
    return replace(
        windows,
        timeline=windows.timeline[kept],
        begin=windows.begin[kept],
        length=windows.length[kept],
        n_lead=windows.n_lead[kept],
        open_visit=windows.open_visit[kept],
        open_detail=windows.open_detail[kept],
    )


def token_groups(tokenizer: Tokenizer) -> torch.Tensor:
    """Index into `metrics.GROUPS` of each token, int64 (V,)."""
    return torch.tensor([group_of_class(int(c)) for c in tokenizer.token_class])


def open_intervals(split: StoreSplit, tokenizer: Tokenizer) -> OpenIntervals:
    """How long each timeline of a split was observed after its last token.

    A record waits for a gap after a visit's end (in preset `events`, after any code) and, where the
    grammar has one, from the start of observation; one that ends inside a visit or with a death
    waits for none.
    """
    grammar = tokenizer.grammar()
    is_gap = (grammar.token_class == TokenClass.GAP) & (grammar.duration_rule > 0)
    unit = np.where(grammar.duration_rule == DurationRule.CALENDAR_DAY, MINUTES_PER_DAY, 1)
    closing = [TokenClass.CODE if grammar.days_are_visits else TokenClass.VISIT_END]
    if tokenizer.spec.waits_from_observation:
        closing += grammar.prompt_classes[-1:].tolist()
    ends = [np.zeros(0, np.int64)]
    for shard in split.shards:
        last = np.full(len(shard.subject_id), -1, np.int64)
        owner = np.repeat(np.arange(len(last)), np.diff(shard.obs_offsets))
        np.maximum.at(last, owner, shard.obs_end_min)
        ends.append(last)
    gap_id = np.flatnonzero(is_gap)
    return OpenIntervals(
        end_min=np.concatenate(ends),
        end_id=grammar.end_id,
        leaves_open=np.isin(grammar.token_class, closing),
        gap_id=gap_id,
        gap_min=(grammar.duration_q * unit[:, None])[gap_id].astype(np.float64),
    )


def hazard_config(names: Sequence[str], tokenizer: Tokenizer, codes: pa.Table) -> HazardConfig:
    """Resolves outcome names or YAML files against a tokenizer's codes.

    Raises:
        ConfigError: an unknown outcome, or one without a token in the vocabulary.
    """
    definitions = [outcomes.load(name) for name in names]
    token_ids = []
    for definition in definitions:
        ids = tokenizer.token_ids_of(outcomes.resolve(definition, codes))
        if not len(ids):
            message = f"outcome {definition.name!r} has no token in the vocabulary"
            raise ConfigError(message)
        token_ids.append(tuple(int(i) for i in np.sort(ids)))
    return HazardConfig(
        outcomes=tuple(d.name for d in definitions),
        token_ids=tuple(token_ids),
        first_only=tuple(d.first_only for d in definitions),
    )


def between_visits(tokenizer: Tokenizer) -> Gaps:
    """The tokens that stand for time between visits (between moments in preset `events`)."""
    is_gap = np.isin(tokenizer.token_class, (TokenClass.GAP, TokenClass.GAP_REPEAT))
    return Gaps(torch.from_numpy(is_gap))


def mean_gap_days(split: StoreSplit, gaps: Gaps) -> float:
    """Mean time between visits of a split, in days; 365 where there is none."""
    is_gap, total, n = gaps.is_gap.numpy(), 0, 0
    for shard in split.shards:
        here = np.flatnonzero(is_gap[shard.token_id])
        total += int(shard.time_min[here].sum(dtype=np.int64))
        total -= int(shard.time_min[here - 1].sum(dtype=np.int64))
        n += len(here)
    return total / MINUTES_PER_DAY / n if n else 365.0


def next_visit_config(tokenizer: Tokenizer, *, tied: bool) -> NextVisitConfig:
    """What a next-visit head answers about: codes of all types, and the type of the visit.

    Raises:
        ConfigError: a tokenizer without visits.
    """

    def of(*classes: TokenClass) -> tuple[int, ...]:
        return tuple(int(i) for i in np.flatnonzero(np.isin(tokenizer.token_class, classes)))

    return NextVisitConfig(
        token_ids=of(TokenClass.VISIT_TYPE, TokenClass.FLAT_VISIT_TYPE, TokenClass.CODE),
        start_ids=of(TokenClass.VISIT_START),
        end_ids=of(TokenClass.VISIT_END),
        tied=tied,
    )


def visits_that_hold(
    split: StoreSplit, config: NextVisitConfig, vocab_size: int
) -> tuple[torch.Tensor, int]:
    """How many of a split's visits hold each of a head's tokens, int64 (K,), and how many there
    are."""
    column = np.full(vocab_size, -1, np.int64)
    column[list(config.token_ids)] = np.arange(len(config.token_ids))
    held, n_visits = np.zeros(len(config.token_ids), np.int64), 0
    for shard in split.shards:
        visit = np.cumsum(np.isin(shard.token_id, config.start_ids))
        columns = column[shard.token_id]
        inside = (columns >= 0) & (visit > 0)
        pairs = np.unique(visit[inside] * len(held) + columns[inside])
        held += np.bincount(pairs % len(held), minlength=len(held))
        n_visits += int(visit[-1]) if len(visit) else 0
    return torch.from_numpy(held), n_visits


class Objectives:
    """Makes the objectives of a run, for one split at a time.

    Args:
        tokenizer: of the store.
        config: of the run.
        store_dir: folder of the store.

    Raises:
        ConfigError: an outcome that is unknown or has no token.
    """

    def __init__(self, tokenizer: Tokenizer, config: TrainConfig, store_dir: Path) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._hazard = None
        if "hazard" in config.objectives:
            codes = code_table(store_dir, tokenizer)
            self._hazard = hazard_config(config.outcomes, tokenizer, codes)

    def build(self, model: Model, split: StoreSplit, *, first: bool) -> list[Objective]:
        """The objectives with a split's outcomes.

        Args:
            model: gets the hazard head when `first`.
            split: whose outcomes are counted.
            first: make the heads and start them at the split's rates.
        """
        makers = {
            "next_event": self._make_next_event,
            "next_visit": self._make_next_visit,
            "gap": self._make_gap,
            "subtime": self._make_subtime,
            "hazard": self._make_hazard,
        }
        return [makers[name](model, split, first=first) for name in self._config.objectives]

    def _make_next_event(self, model: Model, split: StoreSplit, *, first: bool) -> Objective:
        del model, first
        return NextEvent(
            repeat_weight=self._config.repeat_weight,
            token_group=token_groups(self._tokenizer),
            group_names=GROUPS,
            open_intervals=open_intervals(split, self._tokenizer),
        )

    def _make_next_visit(self, model: Model, split: StoreSplit, *, first: bool) -> Objective:
        if first:
            config = next_visit_config(self._tokenizer, tied=model.config.tied)
            new = NextVisitHead(model.config.d_model, config, seed=self._config.seed)
            new.start_at_rates(*visits_that_hold(split, config, self._tokenizer.vocab_size))
            model.heads["next_visit"] = new
        head = model.heads["next_visit"]
        assert isinstance(head, NextVisitHead)
        return NextVisit(
            head,
            self._tokenizer.vocab_size,
            loss_kind=self._config.set_loss,
            repeat_weight=self._config.repeat_weight,
        )

    def _make_gap(self, model: Model, split: StoreSplit, *, first: bool) -> Objective:
        gaps = between_visits(self._tokenizer)
        if first:
            model.heads["gap"] = GapHead(model.config.d_model, mean_gap_days(split, gaps))
        head = model.heads["gap"]
        assert isinstance(head, GapHead)
        return Gap(head, gaps, open_intervals(split, self._tokenizer))

    def _make_subtime(self, model: Model, split: StoreSplit, *, first: bool) -> Objective:
        del split
        if first:
            model.heads["subtime"] = SubtimeHead(model.config.d_model)
        head = model.heads["subtime"]
        assert isinstance(head, SubtimeHead)
        return Subtime(head, between_visits(self._tokenizer))

    def _make_hazard(self, model: Model, split: StoreSplit, *, first: bool) -> Objective:
        config = self._hazard
        assert config is not None
        table = outcome_table(split, config, self._tokenizer.token_class)
        if first:
            new = HazardHead(model.config.d_model, config, seed=self._config.seed)
            start_at_rates(new, *rates(split, table, config))
            model.heads["hazard"] = new
        head = model.heads["hazard"]
        assert isinstance(head, HazardHead)
        return Hazard(head, table)


def fixed_batches(loader: Loader, config: TrainConfig) -> list[Batch]:
    """The batches of the tuning split that every evaluation looks at."""
    batches, left = [], config.evaluation_tokens
    for step in range(loader.n_steps(0)):
        if left <= 0:
            break
        rows = loader.step(0, step)[: -(-left // config.row_tokens)]
        batches.append(join_rows(rows))
        left -= config.row_tokens * len(rows)
    return batches


def outcome_table(
    split: StoreSplit, config: HazardConfig, token_class: NDArray[np.uint8]
) -> OutcomeTable:
    """When each subject of a split had each outcome, by the clock its tokens carry."""
    sets = [np.array(ids, np.int64) for ids in config.token_ids]
    sets.append(np.flatnonzero(token_class == TokenClass.DEATH))
    found: list[list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = [[] for _ in sets]
    periods: list[list[NDArray[np.int64]]] = [[], [], []]
    for first, shard in zip(split.first_row[:-1], split.shards, strict=True):
        subject = np.repeat(np.arange(len(shard.subject_id)) + first, np.diff(shard.offsets))
        for k, ids in enumerate(sets):
            member = np.zeros(len(token_class), np.bool_)
            member[ids] = True
            here = member[shard.token_id]
            found[k].append((subject[here], shard.time_min[here].astype(np.int64)))
        owner = np.repeat(np.arange(len(shard.subject_id)) + first, np.diff(shard.obs_offsets))
        for column, values in zip(
            periods, (owner, shard.obs_start_min, shard.obs_end_min), strict=True
        ):
            column.append(values.astype(np.int64))
    empty = np.zeros(0, np.int64)
    occurrences = [
        (
            np.concatenate([empty, *(subject for subject, _ in parts)]),
            np.concatenate([empty, *(minute for _, minute in parts)]),
        )
        for parts in found
    ]
    starts = tuple(np.concatenate([empty, *column]) for column in periods)
    return OutcomeTable(occurrences[:-1], occurrences[-1], (starts[0], starts[1], starts[2]))


def rates(
    split: StoreSplit, table: OutcomeTable, config: HazardConfig
) -> tuple[list[float], list[float]]:
    """Events and years at risk of each outcome, counted from the start of observation.

    Returns:
        Two lists of K numbers.
    """
    subject, minute = [], []
    for first, shard in zip(split.first_row[:-1], split.shards, strict=True):
        subject.append(
            np.repeat(np.arange(len(shard.subject_id)) + first, np.diff(shard.obs_offsets))
        )
        minute.append(shard.obs_start_min.astype(np.int64))
    if not subject:
        return [0.0] * len(config.outcomes), [0.0] * len(config.outcomes)
    years, event, at_risk = table.targets(
        np.concatenate(subject), np.concatenate(minute), config.first_only
    )
    return event.sum(0).tolist(), (years * at_risk).sum(0, dtype=np.float64).tolist()
