"""Small grammatical timelines and their rules, made by hand: visits, details, gaps, death."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tests.store.timelines import Batch, open_writer
from tests.tokenizer.clinic import SPECS, make_world

from chronoward import philox
from chronoward.store import StoreWriter, TokenStore
from chronoward.tokenizer import Tokenizer, fit

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# first token id of each class; the class ends where the next one begins
FIRST = {
    0: 0,
    1: 1,
    2: 2,
    3: 12,
    4: 22,
    5: 24,
    6: 25,
    7: 26,
    8: 27,
    9: 29,
    10: 30,
    11: 31,
    12: 32,
    13: 33,
    14: 37,
    15: 39,
    16: 40,
    17: 100,
    18: 101,
}
VOCAB_SIZE = 102
CONTINUED, VISIT_START, VISIT_END, VALUE, DEATH, END = 25, 26, 31, 100, 101, 1


class Rules:
    """Year tokens 2..11 are decades of life's start; age tokens 12..20 decades, 21 is unknown."""

    prompt_classes = np.array([2, 3, 4, 5], np.uint8)
    continued_id = CONTINUED
    age_unknown_id = 21

    def __init__(self) -> None:
        self.token_class = np.zeros(VOCAB_SIZE, np.uint8)
        for token_class, first in FIRST.items():
            self.token_class[first:] = token_class

    def year_token_at(
        self, origin_us: NDArray[np.int64], time_min: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        days = origin_us // 86_400_000_000 + time_min // 1440
        return np.clip(2 + days // 3653, 2, 11).astype(np.int32)

    def age_token_at(self, time_min: NDArray[np.int32]) -> NDArray[np.int32]:
        return np.clip(12 + time_min // (1440 * 3653), 12, 20).astype(np.int32)


def make_timeline(subject: int, n_visits: int, n_codes: int) -> tuple[list[int], list[int]]:
    """Tokens and clock of one subject; a visit has up to n_codes codes and two moments."""
    words = iter(philox.words(philox.hash64(99, subject), 40 + n_visits * (n_codes + 40)).tolist())
    clock = next(words) % 20_000_000
    tokens = [2 + next(words) % 10, 12 + next(words) % 10, 22 + next(words) % 2, 24]
    times = [clock] * 4

    def put(token: int, minutes: int = 0) -> None:
        nonlocal clock
        clock += minutes
        tokens.append(token)
        times.append(clock)

    for visit in range(n_visits):
        if visit:
            put(33 + next(words) % 4, 60 + next(words) % 100_000)
        put(VISIT_START)
        put(27 + next(words) % 2)
        in_detail = next(words) % 3 == 0
        if in_detail:
            put(29)
        for i in range(next(words) % (n_codes + 1)):
            if i == n_codes // 2 and i:
                put(37 + next(words) % 2, 30 + next(words) % 2000)
            put(40 + next(words) % 60)
            if next(words) % 4 == 0:
                put(VALUE)
        if in_detail:
            put(30)
        put(VISIT_END)
    if next(words) % 3 == 0:
        put(33, 5000)
        put(DEATH)
    put(END)
    return tokens, times


def make_batch(n: int, *, n_visits: int = 6, n_codes: int = 8) -> Batch:
    """Timelines of n subjects; every seventh has ten times the visits."""
    lives = [
        make_timeline(i, (n_visits * 10 if i % 7 == 3 else n_visits), n_codes) for i in range(n)
    ]
    offsets = np.concatenate([[0], np.cumsum([len(t) for t, _ in lives])]).astype(np.int64)
    time_min = np.concatenate([times for _, times in lives]).astype(np.int32)
    middle = np.array([times[len(times) // 2] for _, times in lives], np.int32)
    last = np.array([times[-1] for _, times in lives], np.int32)
    token_id = np.concatenate([tokens for tokens, _ in lives]).astype(np.int32)
    n_prior = (np.arange(len(token_id)) % 256).astype(np.uint8)
    return Batch(
        subject_id=np.arange(n, dtype=np.int64),
        origin_us=np.arange(n, dtype=np.int64) * 86_400_000_000,
        offsets=offsets,
        token_id=token_id,
        time_min=time_min,
        event_min=time_min,
        n_prior=n_prior,
        obs_offsets=2 * np.arange(n + 1, dtype=np.int64),
        obs_start_min=np.stack([np.zeros_like(middle), middle + 10], axis=1).reshape(-1),
        obs_end_min=np.stack([middle, last], axis=1).reshape(-1),
    )


def make_store(folder: Path, n: int, *, max_tokens: int = 3000, n_codes: int = 8) -> TokenStore:
    """A store whose train split holds n subjects in several shards."""
    writer = open_writer(folder, max_tokens=max_tokens)
    writer.add(make_batch(n, n_codes=n_codes), np.zeros(n, np.uint8))
    writer.finish(calendar="real", observation="observation_period", split_rule="hash", counts={})
    return TokenStore.open(folder)


def make_token_store(folder: Path, spec: str) -> tuple[TokenStore, Tokenizer]:
    """A store of 40 subjects, all in train, and the tokenizer that was fitted to them."""
    events, observation, codes = make_world(40, seed=2)
    tokenizer = fit([events], codes, SPECS[spec])
    folder.mkdir(parents=True)
    tokenizer.save(folder / "tokenizer.json")
    batch = tokenizer.encode(events, observation, codes=codes)
    writer = StoreWriter(folder, tokenizer_hash=tokenizer.hash, max_tokens=3000)
    writer.add(batch, np.zeros(len(batch), np.uint8))
    writer.finish(calendar="real", observation="none", split_rule="hash", counts={})
    return TokenStore.open(folder), tokenizer
