"""G1, G2: generated tokens per CPU-second beside Hugging Face and CTranslate2 in the same run.

Shipped defaults of the model (time bias, QK-norm), one thread. The open grammar lets every code
follow every code, so all rows run to their last token; prompts are four tokens. Tokens drawn are
counted, prefill is in the time. First a short run is compared with `model.generate`. Metric
`constrained` is the same run under a grammar of visits, with its clock and 16 outcome sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from benchmarks.generators import PEER, rates
from benchmarks.peers import versions
from benchmarks.record import Measurement, Stopwatch

from chronoward.engine import Engine, EngineConfig, Prompt, SamplingParams
from chronoward.engine.precision import DTYPES
from chronoward.engine.randomness import stream_key
from chronoward.model import Model, ModelConfig
from chronoward.tokenizer import GrammarTables, TokenClass
from chronoward.tokenizer.grammar import make_masks

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROMPT = np.array([3, 4, 5, 6], np.int32)
N_SETS, SET_TOKENS = 16, 20


@dataclass(frozen=True)
class Shape:
    """What is generated, by us and by the peers."""

    id: str
    vocab: int
    d_model: int
    n_heads: int
    d_ff: int
    n_slots: int
    n_new: int
    n_layers: int = 6

    def model(self) -> Model:
        """With random weights."""
        return Model(
            ModelConfig(
                vocab_size=self.vocab,
                d_model=self.d_model,
                n_layers=self.n_layers,
                n_heads=self.n_heads,
                n_kv_heads=self.n_heads,
                d_ff=self.d_ff,
            )
        )


# 3 and 11 M parameters; three matrices of 8/3 d, as much arithmetic as GPT-2's two of 4 d
G1 = Shape("G1", vocab=700, d_model=192, n_heads=6, d_ff=512, n_slots=32, n_new=252)
G2 = Shape("G2", vocab=10_000, d_model=320, n_heads=5, d_ff=848, n_slots=64, n_new=192)


_NEXT = {  # state -> class -> next state
    "codes": [{TokenClass.CODE: 0, TokenClass.INPATIENT_GAP: 0}],
    "visits": [
        {TokenClass.AGE: 0, TokenClass.SEX: 1},
        {TokenClass.VISIT_START: 2},
        {TokenClass.VISIT_TYPE: 3},
        {TokenClass.CODE: 3, TokenClass.INPATIENT_GAP: 3, TokenClass.VISIT_END: 4},
        {TokenClass.GAP: 1},
    ],
}
_VISIT_TOKENS = (
    TokenClass.AGE, TokenClass.SEX, TokenClass.VISIT_START, TokenClass.VISIT_TYPE,
    TokenClass.VISIT_END,
)  # fmt: skip


def grammar(vocab: int, kind: str) -> GrammarTables:
    """Codes after codes, or visits of codes; neither ends. Every 20th token moves the clock."""
    token_class = np.full(vocab, TokenClass.CODE, np.uint8)
    token_class[:3] = TokenClass.PAD, TokenClass.END, TokenClass.CONTINUED
    is_moving = np.arange(vocab) % 20 == 19
    token_class[is_moving] = TokenClass.INPATIENT_GAP
    if kind == "visits":
        token_class[3:8] = _VISIT_TOKENS
        token_class[np.arange(vocab) % 40 == 39] = TokenClass.GAP
    states = _NEXT[kind]
    next_state = np.full((len(states), len(TokenClass)), -1, np.int8)
    for index, row in enumerate(states):
        for following, state in row.items():
            next_state[index, following] = state
    state_mask, sex_mask = make_masks(token_class, next_state, {})
    duration = np.where(is_moving, 60, 0).astype(np.int32)
    nothing = np.zeros(0, np.int32)
    return GrammarTables(
        token_class=token_class,
        next_state=next_state,
        start_state=0,
        state_names=tuple(map(str, range(len(states)))),
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


def draw(engine: Engine, shape: Shape, params: SamplingParams) -> float:
    """Tokens per CPU-second of one run that fills every slot once."""
    with Stopwatch() as watch:
        n_drawn = sum(len(r.token_id) for r in engine.generate(prompts(shape.n_slots), params))
    if n_drawn != shape.n_slots * shape.n_new:
        message = f"{n_drawn} tokens drawn, {shape.n_slots * shape.n_new} expected"
        raise AssertionError(message)
    return n_drawn / watch.cpu


def measure(shape: Shape, quick: bool) -> Iterator[Measurement]:
    """fp32 beside Hugging Face and CTranslate2, what constraints cost, then the best dtype."""
    torch.set_num_threads(1)
    model = shape.model()
    room = {"n_slots": shape.n_slots, "max_context": 4 + shape.n_new}
    check(model, Engine(model, grammar(shape.vocab, "codes"), EngineConfig(**room)))
    plain = SamplingParams(max_new_tokens=shape.n_new)
    sets = tuple(np.arange(8 + k, shape.vocab, shape.vocab // SET_TOKENS) for k in range(N_SETS))
    watched = SamplingParams(
        max_new_tokens=shape.n_new, outcome_sets=tuple(s.astype(np.int32) for s in sets)
    )
    best: dict[str, float] = {}
    with Stopwatch() as watch:
        for _ in range(1 if quick else 4):
            for dtype in DTYPES:
                config = EngineConfig(**room, dtype=dtype)
                for kind, params in (("codes", plain), ("visits", watched)):
                    engine = Engine(model, grammar(shape.vocab, kind), config)
                    name = f"{dtype} {kind}"
                    best[name] = max(best.get(name, 0.0), draw(engine, shape, params))
        peers = rates(
            vocab=shape.vocab,
            width=shape.d_model,
            layers=shape.n_layers,
            heads=shape.n_heads,
            slots=shape.n_slots,
            n_new=shape.n_new,
            runs=1 if quick else 3,
        )
    yield from _lines(shape, model, best, peers, watch.wall)


def _lines(
    shape: Shape, model: Model, best: dict[str, float], peers: dict[str, float], wall: float
) -> Iterator[Measurement]:
    hugging_face = max(rate for name, rate in peers.items() if name.startswith("transformers"))
    dtype = max(DTYPES, key=lambda d: best[f"{d} codes"])
    extra = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "slots": shape.n_slots,
        "new_tokens": shape.n_new,
        "time_bias": model.config.time_bias,
        "rotary": model.config.rotary,
        "ours": {name: round(rate, 1) for name, rate in best.items()},
        "peers": {name: round(rate, 1) for name, rate in peers.items()},
        "peer_versions": versions(PEER),
    }
    comparisons = [
        ("fp32", "float32 codes", "Hugging Face generate, faster cache", hugging_face),
        ("vs_ct2", "float32 codes", "CTranslate2, float32", peers["ctranslate2 float32"]),
        ("vs_ct2_best", f"{dtype} codes", "CTranslate2, best dtype",
         max(rate for name, rate in peers.items() if name.startswith("ctranslate2"))),
        ("constrained", "float32 visits", "unconstrained, same dtype", best["float32 codes"]),
        ("constrained_best", f"{dtype} visits", "unconstrained, same dtype",
         best[f"{dtype} codes"]),
        ("best", f"{dtype} codes", "Hugging Face generate, faster cache", hugging_face),
    ]  # fmt: skip
    for metric, name, against, baseline in comparisons:
        yield Measurement(
            id=shape.id,
            metric=metric,
            value=best[name],
            unit="tokens/CPU-s",
            against=against,
            baseline=round(baseline, 1),
            ratio=round(best[name] / baseline, 3),
            seconds=wall,
            extra={**extra, "dtype": name.split()[0]},
        )


MEASURES = {"G1": partial(measure, G1), "G2": partial(measure, G2)}
