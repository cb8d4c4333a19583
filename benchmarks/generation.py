"""G1: generated tokens per CPU-second, 3 M parameters (6 × 192, V = 700), 32 slots, 252 new tokens.

Shipped defaults of the model (time bias, QK-norm). The grammar lets every code follow every code,
so all rows run to their last token; prompts are four tokens, so a row ends with 256. Tokens drawn
are counted, prefill is in the time. First a short run is compared with `model.generate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from benchmarks.record import Measurement, Stopwatch

from chronoward.engine import Engine, EngineConfig, Prompt, SamplingParams
from chronoward.engine.randomness import stream_key
from chronoward.model import Model, ModelConfig
from chronoward.tokenizer import GrammarTables, TokenClass
from chronoward.tokenizer.grammar import make_masks

if TYPE_CHECKING:
    from collections.abc import Iterator

VOCAB, N_NEW, N_SLOTS = 700, 252, 32
_PROMPT = np.array([3, 4, 5, 6], np.int32)


def open_grammar(vocab: int) -> GrammarTables:
    """Codes after codes; every 20th moves the clock by an hour."""
    token_class = np.full(vocab, TokenClass.CODE, np.uint8)
    token_class[:3] = TokenClass.PAD, TokenClass.END, TokenClass.CONTINUED
    is_moving = np.arange(vocab) % 20 == 19
    token_class[is_moving] = TokenClass.INPATIENT_GAP
    next_state = np.full((1, len(TokenClass)), -1, np.int8)
    next_state[0, [TokenClass.CODE, TokenClass.INPATIENT_GAP]] = 0
    state_mask, sex_mask = make_masks(token_class, next_state, {})
    duration = np.where(is_moving, 60, 0).astype(np.int32)
    nothing = np.zeros(0, np.int32)
    return GrammarTables(
        token_class=token_class,
        next_state=next_state,
        start_state=0,
        state_names=("codes",),
        state_mask=state_mask,
        sex_mask=sex_mask,
        token_sex=np.zeros(vocab, np.uint8),
        duration_rule=is_moving.astype(np.uint8),
        duration_q=np.repeat(duration[:, None], 33, axis=1),
        duration_lo=duration,
        duration_hi=duration + 1,
        base_code=np.arange(vocab, dtype=np.int32),
        is_moving=is_moving,
        max_clock_min=120 * 525_960,
        pad_id=0,
        end_id=1,
        continued_id=2,
        prompt_classes=np.zeros(0, np.uint8),
        year_first=0,
        year_token=nothing,
        age_edge_min=nothing,
        age_token=nothing,
        age_unknown_id=-1,
        is_calendar=False,
        days_are_visits=False,
        codes_ascend=False,
    )


def prompts(n: int) -> list[Prompt]:
    """n subjects, one rollout each."""
    return [
        Prompt(
            subject_id=i,
            prediction_time_us=0,
            token_id=_PROMPT,
            time_min=np.arange(4, dtype=np.int32),
            origin_us=0,
            rollouts=range(1),
        )
        for i in range(n)
    ]


def check(model: Model, engine: Engine, n_new: int = 40) -> None:
    """Raises AssertionError unless two rollouts equal the naive loop, token for token."""
    params = SamplingParams(max_new_tokens=n_new)
    for rollout in engine.generate(prompts(2), params):
        sampler = params.sampler(engine.grammar, 1)
        sampler.load(
            0,
            _PROMPT,
            key=stream_key(0, "main"),
            subject_id=rollout.subject_id,
            prediction_time_us=0,
            rollout=0,
            clock_min=3,
            prediction_min=-1,
            deadline_min=-1,
            masked_set=-1,
        )

        def choose(logits: torch.Tensor, sampler=sampler) -> tuple[int, int] | None:
            token, time, status = sampler.step(logits.numpy()[None], np.zeros(1, np.int32))
            return None if status[0] else (int(token[0]), int(time[0]))

        start = torch.arange(4, dtype=torch.int32)
        tokens, _ = model.generate(torch.from_numpy(_PROMPT), start, choose)
        naive = [*tokens[4:].tolist(), int(sampler.arrays(0)["token_id"][-1])]
        if rollout.token_id.tolist() != naive:
            message = f"subject {rollout.subject_id}: the engine and the naive loop differ"
            raise AssertionError(message)


def measure(quick: bool) -> Iterator[Measurement]:
    """The line of G1 in fp32, the only dtype the engine decodes in so far."""
    torch.set_num_threads(1)
    config = ModelConfig(
        vocab_size=VOCAB, d_model=192, n_layers=6, n_heads=6, n_kv_heads=6, d_ff=512
    )
    model = Model(config)
    engine = Engine(model, open_grammar(VOCAB), EngineConfig(n_slots=N_SLOTS, max_context=256))
    check(model, engine)
    params = SamplingParams(max_new_tokens=N_NEW)
    n_prompts = N_SLOTS if quick else 4 * N_SLOTS
    best, wall = 0.0, 0.0
    for _ in range(1 if quick else 3):
        with Stopwatch() as watch:
            n_drawn = sum(len(r.token_id) for r in engine.generate(prompts(n_prompts), params))
        if n_drawn != n_prompts * N_NEW:
            message = f"{n_drawn} tokens drawn, {n_prompts * N_NEW} expected"
            raise AssertionError(message)
        best, wall = max(best, n_drawn / watch.cpu), wall + watch.wall
    shape = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "slots": N_SLOTS,
        "new_tokens": N_NEW,
        "time_bias": config.time_bias,
        "rotary": config.rotary,
    }
    yield Measurement(
        id="G1", metric="fp32", value=best, unit="tokens/CPU-s", seconds=wall, extra=shape
    )


MEASURES = {"G1": measure}
