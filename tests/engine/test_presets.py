"""Rollouts of every tokenizer preset, from prefixes cut anywhere, stay inside the grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.engine.toy import MarkovDecoder
from tests.tokenizer.clinic import SPECS, make_world

from chronoward.engine import STATUSES, Engine, EngineConfig, Prompt, SamplingParams
from chronoward.tokenizer import TokenBatch, TokenClass, Tokenizer, fit

if TYPE_CHECKING:
    import pyarrow as pa

DAY = 1440


@pytest.fixture(scope="module")
def world() -> tuple[pa.Table, pa.Table, pa.Table]:
    return make_world(60, seed=1)


def prefixes(tokenizer: Tokenizer, batch: TokenBatch, seed: int) -> list[Prompt]:
    """Each subject once, at a time anywhere in its record or up to 400 days after its end."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(len(batch)):
        part = slice(int(batch.offsets[i]), int(batch.offsets[i + 1]) - 1)  # without end
        tokens, times = batch.token_id[part], batch.time_min[part]
        at = int(rng.choice(times)) + int(rng.choice([0, 1, 700, 90 * DAY, 400 * DAY]))
        n = int(np.searchsorted(times, at, side="right"))
        has_died = (tokenizer.token_class[tokens[:n]] == TokenClass.DEATH).any()
        if has_died or n <= len(tokenizer.grammar().prompt_classes):  # no event, no silence
            continue
        made.append(
            Prompt(
                subject_id=int(batch.subject_id[i]),
                prediction_time_us=at,
                token_id=tokens[:n].copy(),
                time_min=times[:n].copy(),
                origin_us=int(batch.origin_us[i]),
                rollouts=range(2),
                prediction_min=at,
                deadline_min=at + 200 * DAY,
            )
        )
    return made


@pytest.mark.parametrize("name", list(SPECS))
def test_rollouts_of_every_preset_are_grammatical(
    name: str, world: tuple[pa.Table, pa.Table, pa.Table]
) -> None:
    events, observation, codes = world
    tokenizer = fit([events], codes, SPECS[name])
    grammar = tokenizer.grammar()
    prompts = prefixes(tokenizer, tokenizer.encode(events, observation, codes=codes), seed=3)
    assert len(prompts) > 20
    rng = np.random.default_rng(0)
    probabilities = np.exp(rng.normal(size=(tokenizer.vocab_size,) * 2))
    engine = Engine(MarkovDecoder(probabilities), grammar, EngineConfig(n_slots=7, max_context=64))
    params = SamplingParams(max_new_tokens=150)
    by_subject = {p.subject_id: p for p in prompts}
    statuses = set()
    n_moved = 0
    for rollout in engine.generate(prompts, params):
        prompt = by_subject[rollout.subject_id]
        grammar.run(np.concatenate([prompt.token_id, rollout.token_id]))
        times = np.concatenate([prompt.time_min, rollout.time_min])
        assert (np.diff(times) >= 0).all()
        assert times.max() <= grammar.max_clock_min
        statuses.add(rollout.status)
        in_silence = rollout.time_min <= prompt.prediction_min
        if in_silence.all():
            continue
        n_moved += 1
        silent_classes = set(grammar.token_class[rollout.token_id[in_silence]].tolist())
        assert not silent_classes & {TokenClass.CODE, TokenClass.VALUE, TokenClass.DEATH}
    assert statuses <= set(STATUSES)
    assert n_moved > len(prompts)
