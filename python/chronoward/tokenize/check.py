"""`verify` a token store: not only that its bytes are the written ones, but that they make sense.

Timelines are run through the grammar all at once, one position of every timeline at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from chronoward.errors import FormatError
from chronoward.schema import SPLITS
from chronoward.store import TokenStore
from chronoward.tokenizer import TokenClass, Tokenizer
from chronoward.tokenizer.time_scheme import DAY_MIN

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.store import Shard
    from chronoward.tokenizer import GrammarTables

_MAX_LISTED = 20


@dataclass
class Findings:
    """What was checked, and what is wrong.

    Attributes:
        n_subjects: timelines that were checked.
        n_tokens: tokens that were checked.
        faults: where (file, row, token) and which rule; at most 20 a rule and
            record batch.
    """

    n_subjects: int = 0
    n_tokens: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, shard: Shard, rows: NDArray[np.int64], rule: str) -> None:
        """Notes a rule broken in some rows of a shard."""
        listed = (rows[:_MAX_LISTED] + shard.file_row).tolist()
        self.faults += [f"{shard.path}: row {row}: {rule}" for row in listed]
        if len(rows) > _MAX_LISTED:
            self.faults.append(f"{shard.path}: {len(rows) - _MAX_LISTED} more rows: {rule}")


def verify(path: Path | str) -> Findings:
    """Checks a token store wholly: sizes, checksums, tokenizer, order, clock, grammar, counts.

    Raises:
        FormatError: files are missing, truncated, changed, or of another version or store; else
            the faults that `check_store` found.
        OSError: a file cannot be read.
    """
    store = TokenStore.open(path, verify="full")
    findings = check_store(store)
    if findings.faults:
        listed = "\n".join(findings.faults[:_MAX_LISTED])
        message = f"{len(findings.faults)} faults in {store.path}:\n{listed}"
        raise FormatError(message)
    return findings


def check_store(store: TokenStore) -> Findings:
    """Checks the content of a store whose files are known to be whole."""
    tokenizer = Tokenizer.load(store.tokenizer_path)
    findings = Findings()
    if tokenizer.hash != store.tokenizer_hash:
        findings.faults.append(f"{store.tokenizer_path} is the tokenizer of another store")
        return findings
    grammar = tokenizer.grammar()
    seen = np.zeros(0, np.int64)
    for name in SPLITS:
        split = store.split(name)
        both = np.intersect1d(seen, split.subject_id)
        if len(both):
            findings.faults.append(f"{len(both)} subjects of {name} are in another split, too")
        seen = np.concatenate([seen, split.subject_id])
        if len(np.unique(split.subject_id)) < len(split):
            findings.faults.append(f"{name} has a subject twice")
        stated = store.manifest["splits"][name]
        if (len(split), split.n_tokens) != (stated["n_subjects"], stated["n_tokens"]):
            findings.faults.append(f"{name} holds other numbers than the manifest states")
        for path, runs in groupby(split.shards, attrgetter("path")):
            subjects = np.concatenate([run.subject_id for run in runs])
            if (np.diff(subjects) <= 0).any():
                findings.faults.append(f"{path}: subjects do not ascend")
        for shard in split.shards:
            findings.n_subjects += len(shard.subject_id)
            findings.n_tokens += len(shard.token_id)
            _check_shard(shard, grammar, findings)
    return findings


def _rows_of(shard: Shard, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that hold some token positions."""
    return np.unique(np.searchsorted(shard.offsets, tokens, side="right") - 1)


def _check_shard(shard: Shard, grammar: GrammarTables, findings: Findings) -> None:
    n_tokens = len(shard.token_id)
    outside = (shard.token_id < 0) | (shard.token_id >= grammar.vocab_size)
    if outside.any():
        findings.add(shard, _rows_of(shard, np.flatnonzero(outside)), "token outside vocabulary")
        return
    is_first = np.zeros(n_tokens, np.bool_)
    is_first[shard.offsets[:-1][np.diff(shard.offsets) > 0]] = True
    backwards = np.diff(shard.time_min, prepend=0) < 0
    backwards &= ~is_first
    for wrong, rule in (
        (backwards, "the clock runs backwards"),
        ((shard.time_min < 0) | (shard.time_min > grammar.max_clock_min), "clock out of range"),
        (shard.event_min > shard.time_min, "an event after it was available"),
    ):
        if wrong.any():
            findings.add(shard, _rows_of(shard, np.flatnonzero(wrong)), rule)
    refused = grammar_faults(shard, grammar)
    if len(refused):
        findings.add(shard, refused, "the grammar refuses a token")
    expected = prior_visits(shard, grammar)
    wrong = expected != shard.n_prior
    if wrong.any():
        findings.add(shard, _rows_of(shard, np.flatnonzero(wrong)), "n_prior is wrong")
    _check_periods(shard, findings)


def _check_periods(shard: Shard, findings: Findings) -> None:
    reversed_ = shard.obs_end_min < shard.obs_start_min
    overlaps = np.zeros(len(reversed_), np.bool_)
    overlaps[1:] = shard.obs_start_min[1:] <= shard.obs_end_min[:-1]
    firsts = shard.obs_offsets[:-1][np.diff(shard.obs_offsets) > 0]
    overlaps[firsts] = False
    wrong = np.flatnonzero(reversed_ | overlaps)
    if len(wrong):
        rows = np.unique(np.searchsorted(shard.obs_offsets, wrong, side="right") - 1)
        findings.add(shard, rows, "observation periods are not ascending and disjoint")


def grammar_faults(shard: Shard, grammar: GrammarTables) -> NDArray[np.int64]:
    """Rows that the grammar refuses, or that do not stop at `end`."""
    lengths = np.diff(shard.offsets)
    order = np.argsort(-lengths, kind="stable")
    lengths, starts = lengths[order], shard.offsets[:-1][order]
    state = np.full(len(order), grammar.start_state, np.int64)
    sex = np.zeros(len(order), np.int64)
    is_bad = lengths == 0
    n_active = int((lengths > 0).sum())
    for position in range(int(lengths[0]) if len(lengths) else 0):
        n_active = int(np.searchsorted(-lengths[:n_active], -position, side="left"))
        tokens = shard.token_id[starts[:n_active] + position]
        following = grammar.next_state[state[:n_active], grammar.token_class[tokens]]
        allowed = grammar.sex_mask[sex[:n_active], tokens >> 5] >> (tokens & 31).astype(np.uint32)
        is_bad[:n_active] |= (following < 0) | (allowed & np.uint32(1) == 0)
        state[:n_active] = np.maximum(following, 0)
        sex[:n_active] = np.maximum(sex[:n_active], grammar.token_sex[tokens])
    filled = lengths > 0
    is_bad[filled] |= shard.token_id[(starts + lengths - 1)[filled]] != grammar.end_id
    return np.sort(order[is_bad])


def prior_visits(shard: Shard, grammar: GrammarTables) -> NDArray[np.uint8]:
    """`n_prior` counted anew: earlier visits (days in preset `events`) with the same base code."""
    row = np.repeat(np.arange(len(shard.subject_id)), np.diff(shard.offsets))
    classes = grammar.token_class[shard.token_id]
    if grammar.days_are_visits:
        visit = shard.time_min // DAY_MIN
    else:
        visit = np.cumsum(classes == TokenClass.VISIT_START)
    base = grammar.base_code[shard.token_id]
    counted = np.flatnonzero((base >= 0) & (classes != TokenClass.DEATH))
    keys = np.stack([row[counted], base[counted], visit[counted]])
    order = np.lexsort(keys[::-1])
    ordered = keys[:, order]
    new_group = np.any(np.diff(ordered[:2], axis=1, prepend=-1), axis=0)
    new_visit = new_group | (np.diff(ordered[2], prepend=-1) != 0)
    rank = np.cumsum(new_visit)
    first = rank[np.flatnonzero(new_group)][np.cumsum(new_group) - 1]
    prior = np.zeros(len(shard.token_id), np.uint8)
    prior[counted[order]] = np.minimum(rank - first, 255)
    return prior
