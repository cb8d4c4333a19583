"""Random walks over a grammar, made from `GrammarTables` alone as an engine would."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from chronoward.tokenizer import TokenBatch, TokenClass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.tokenizer import GrammarTables, Tokenizer

CLOSING = (TokenClass.END, TokenClass.DETAIL_END, TokenClass.VISIT_END, TokenClass.DISCHARGE)


def _choose(
    grammar: GrammarTables, state: int, sex: int, rng: np.random.Generator, *, closing: bool
) -> int:
    legal = grammar.legal(state, sex)
    classes = np.unique(grammar.token_class[legal])
    if not closing and len(classes) > 1:
        classes = classes[classes != TokenClass.END]
    wanted = [c for c in CLOSING if c in classes] if closing else []
    kind = wanted[0] if wanted else rng.choice(classes)
    return int(rng.choice(np.flatnonzero(legal & (grammar.token_class == kind))))


def walk(
    grammar: GrammarTables,
    prompt: NDArray[np.int32],
    start_min: int,
    n_tokens: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(tokens, clock) of one walk; ends as soon as it can after n_tokens, or at the clock's cap."""
    tokens, times = prompt.tolist(), [start_min] * len(prompt)
    state, sex, clock = grammar.run(prompt), grammar.sex_of(prompt), start_min
    while tokens[-1:] != [grammar.end_id]:
        token = _choose(grammar, state, sex, rng, closing=len(tokens) >= n_tokens)
        previous = tokens[-1] if tokens else -1
        clock = grammar.advance(clock, previous, token, float(rng.random()))
        if clock > grammar.max_clock_min:
            break
        tokens.append(token)
        times.append(clock)
        state = grammar.following(state, token)
    return np.array(tokens, np.int32), np.array(times, np.int32)


def random_prompt(
    tokenizer: Tokenizer, rng: np.random.Generator
) -> tuple[NDArray[np.int32], int, int]:
    """(prompt, origin, clock) drawn from the grammar and the start's quantile functions."""
    grammar = tokenizer.grammar()
    prompt = [
        int(rng.choice(np.flatnonzero(grammar.token_class == c))) for c in grammar.prompt_classes
    ]
    origin_us, clock = tokenizer.start(prompt, rng.random(3))
    return np.array(prompt, np.int32), origin_us, clock


def walks(tokenizer: Tokenizer, n: int, seed: int, n_tokens: int = 40) -> TokenBatch:
    """Timelines of n random walks, those at the cap left out."""
    rng = np.random.default_rng(seed)
    token_id, time_min, origins = [], [], []
    while len(origins) < n:
        prompt, origin_us, clock = random_prompt(tokenizer, rng)
        tokens, times = walk(tokenizer.grammar(), prompt, clock, n_tokens, rng)
        if tokens[-1] == tokenizer.grammar().end_id:
            token_id.append(tokens)
            time_min.append(times)
            origins.append(origin_us)
    batch = TokenBatch.from_timelines(
        token_id, time_min, subject_id=list(range(n)), origin_us=origins
    )
    return replace(
        batch,
        obs_offsets=np.arange(n + 1),
        obs_start_min=np.array([times[0] for times in time_min], np.int32),
        obs_end_min=np.array([times[-1] for times in time_min], np.int32),
    )
