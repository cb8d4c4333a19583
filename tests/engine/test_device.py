"""An engine whose rollouts stay on a device, on a CPU with its reference kernels, against the CPU's
engine token for token."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from chronoward.kernels.sample import Draws
from tests.engine.test_engine import PARAMS, naive, prompts
from tests.engine.toy import (
    COUGH,
    DAY,
    DEATH,
    FEMALE,
    FINISH,
    GAP,
    START,
    TYPE,
    YOUNG,
    V,
    toy_grammar,
    toy_prompt,
)
from torch.utils._python_dispatch import TorchDispatchMode

from chronoward.engine import Engine, EngineConfig, Prompt, Rollout, SamplingParams, device
from chronoward.engine import engine as choice
from chronoward.engine import memory as engine_memory
from chronoward.engine.device_scheduler import DeviceScheduler
from chronoward.errors import ConfigError, DataError, LimitError, NumericError
from chronoward.model import Model, ModelConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from chronoward.engine.device_room import DeviceRoom, PrefixPlaces
    from chronoward.tokenizer.grammar import GrammarTables

PLAIN = replace(PARAMS, mask_outcomes=False)
CONTEXT = 256


def made(bias: str = "log", rotary: str = "half", d_model: int = 32) -> Model:
    config = ModelConfig(
        vocab_size=V, d_model=d_model, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48,
        n_visit_kinds=2, time_bias=bias, rotary=rotary,
    )  # fmt: skip
    model = Model(config, seed=1)
    kind, companion = np.full(V, -1, np.int8), np.arange(-1, V - 1, dtype=np.int32)
    kind[[8, 9]] = 1, 0
    rates = np.random.default_rng(1).uniform(0.05, 1.0, (3, 2, V))
    model.context_bias.start(kind, companion, rates)
    with torch.no_grad():
        for block in model.blocks:
            if block.time_bias is not None:
                block.time_bias.strength += 0.5
        model.embedding.weight *= 60
        model.context_bias.unseen[:, DEATH] = -40
    return model


def brief() -> Model:
    """One whose visits are over after a code or two."""
    model = made()
    with torch.no_grad():
        model.context_bias.unseen[:, FINISH] += 30
    return model


@pytest.fixture
def device_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """Makes engines that take the CPU for a GPU."""

    def make(model: Model, grammar: GrammarTables | None = None, **config: object) -> Engine:
        options = {"n_slots": 3, "max_context": CONTEXT, "dtype": "float32", **config}
        with monkeypatch.context() as patch:
            patch.setattr(choice, "decodes_on_device", lambda _: True)
            patch.setattr(choice, "STEPS_A_LOOK", 5)
            return Engine(model, grammar or toy_grammar(), EngineConfig(**options))  # type: ignore[arg-type]

    return make


def by_name(rollouts: Iterable[Rollout]) -> dict[tuple[int, int, int, int], Rollout]:
    return {(r.subject_id, r.prediction_time_us, r.pool, r.rollout): r for r in rollouts}


def assert_same(mine: Iterable[Rollout], expected: Iterable[Rollout]) -> None:
    """Exact but for what is summed in another order."""
    mine = list(mine)
    found, truth = by_name(mine), by_name(expected)
    assert len(mine) == len(found)
    assert found.keys() == truth.keys()
    for name, rollout in found.items():
        other = truth[name]
        assert rollout.status == other.status
        for field in ("token_id", "time_min", "step_min", "value_u"):
            x, y = getattr(rollout, field), getattr(other, field)
            assert (x.dtype, x.tolist()) == (y.dtype, y.tolist())
        for field in ("log_p", "outcome_p"):
            x, y = getattr(rollout, field), getattr(other, field)
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            np.testing.assert_allclose(x, y, atol=1e-4)
        assert rollout.end_min == other.end_min


def of_the_cpu(
    model: Model, asked: Iterable[Prompt], params: SamplingParams, max_context: int = CONTEXT
) -> list[Rollout]:
    config = EngineConfig(n_slots=4, max_context=max_context)
    return list(Engine(model, toy_grammar(), config).generate(asked, params))


@pytest.mark.parametrize("shape", ["log-half", "linear-none", "none-time"])
def test_a_devices_rollouts_are_those_of_the_cpu(
    shape: str, device_engine: Callable[..., Engine]
) -> None:
    """Prompts of five lengths in another order, each with two pools of which one set is masked, in
    three rows that are refilled; some end at their first token, some have a silence before them."""
    model = made(*shape.split("-"))
    asked = [replace(p, deadline_min=(101 + 4 * i) * DAY) for i, p in enumerate(prompts(4, 3))]
    asked += [replace(toy_prompt(2, subject_id=90, silent_min=3 * DAY), deadline_min=120 * DAY)]
    at_once = toy_prompt(2, subject_id=91)
    assert at_once.prediction_min is not None
    asked += [replace(at_once, deadline_min=at_once.prediction_min + 1)]
    expected = of_the_cpu(model, asked, PARAMS)
    assert sum(len(r.token_id) for r in expected) > 100
    assert min(len(r.token_id) for r in expected) == 1
    engine = device_engine(model)
    for order in itertools.islice(itertools.permutations(asked), 0, 3, 2):
        assert_same(engine.generate(iter(order), PARAMS), expected)


def test_a_context_that_is_full_is_cut_as_on_the_cpu(device_engine: Callable[..., Engine]) -> None:
    model = made()
    asked = [replace(p, deadline_min=None) for p in prompts(4, 2)]
    params = replace(PLAIN, max_new_tokens=150)
    expected = of_the_cpu(model, asked, params, max_context=64)
    engine = device_engine(model, max_context=64)
    assert_same(engine.generate(asked, params), expected)
    counts = engine.statistics
    assert counts.cut_contexts >= 16
    assert counts.cut_prompts == 2
    assert counts.rollouts == 8
    assert counts.tokens == sum(len(r.token_id) for r in expected)


def test_a_cut_on_a_device_is_that_of_model_generate(device_engine: Callable[..., Engine]) -> None:
    model = made("linear", "index")
    prompt = replace(prompts(2, 2)[1], deadline_min=None)
    params = replace(PLAIN, max_new_tokens=60)
    for rollout in device_engine(model, max_context=64).generate([prompt], params):
        tokens, times = naive(model, prompt, rollout.rollout, params, 64)
        assert rollout.token_id.tolist() == tokens
        assert rollout.time_min.tolist() == times


@pytest.mark.parametrize(
    "changes", [{"temperature": 0.7, "top_k": 3}, {"top_p": 0.8, "min_p": 0.05}, {"seed": 4}]
)
def test_a_device_draws_under_the_same_rules(
    changes: dict[str, float], device_engine: Callable[..., Engine]
) -> None:
    model, params = made(), replace(PLAIN, max_new_tokens=25, **changes)  # type: ignore[arg-type]
    expected = of_the_cpu(model, prompts(3, 2), params)
    assert_same(device_engine(model).generate(prompts(3, 2), params), expected)


def test_an_engine_on_a_device_is_used_again_and_again(
    device_engine: Callable[..., Engine],
) -> None:
    """With other parameters, after a run that nobody listened to, and after an error."""
    model, few = made(), replace(PLAIN, max_new_tokens=12)
    engine = device_engine(model)
    for params in (few, replace(few, outcome_sets=(), stream="pilot"), few, PARAMS):
        assert_same(
            engine.generate(prompts(2, 3), params), of_the_cpu(model, prompts(2, 3), params)
        )
        unheard = engine.generate(prompts(3, 8), params)
        next(unheard)
        unheard.close()
        with pytest.raises(DataError, match="prompts 0 and 1 are of one subject"):
            list(engine.generate([toy_prompt(1), toy_prompt(1)], params))


def test_nothing_is_kept_of_rollouts_that_have_ended(
    device_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty prompts through three rows: what the host holds stays as small as the queue."""
    schedulers: list[DeviceScheduler] = []
    start = DeviceScheduler.__init__

    def remember(self: DeviceScheduler, *arguments: object, **options: object) -> None:
        start(self, *arguments, **options)  # type: ignore[arg-type]
        schedulers.append(self)

    monkeypatch.setattr(DeviceScheduler, "__init__", remember)
    engine = device_engine(made(), max_context=64)
    many = (replace(toy_prompt(2), subject_id=i) for i in range(20))
    held = []
    for _ in engine.generate(many, replace(PLAIN, max_new_tokens=20)):
        (now,) = schedulers
        held.append((len(now.lives) + len(now.cut), len(now.places), len(now.lines)))
    assert len(held) == 40
    assert max(held)[0] <= 6
    assert held[-1] == (0, 0, 0)
    assert engine.device is not None
    assert_all_free(schedulers[0].free, engine.device.room)


def assert_all_free(places: PrefixPlaces, room: DeviceRoom) -> None:
    longest = [places.take(1) for _ in range(room.n_prefixes)]
    assert all(x is not None for x in longest)
    assert places.take(1) is None
    for place in longest:
        assert place is not None
        places.give(place)
    n_all = room.pool_pages * room.page_tokens
    assert places.take(n_all + 1) is None
    assert places.take(n_all) is not None


def test_places_run_out_and_come_back(device_engine: Callable[..., Engine]) -> None:
    """Rollouts wait for pages as well as for rows: one row, prompts as long as the context."""
    model = made()
    asked = [
        replace(p, subject_id=i, deadline_min=None)
        for i, p in enumerate([prompts(7, 2)[6], prompts(6, 2)[5]] * 2)
    ]
    params = replace(PLAIN, max_new_tokens=40)
    engine = device_engine(model, n_slots=1, max_context=64)
    assert_same(engine.generate(asked, params), of_the_cpu(model, asked, params, max_context=64))


def test_the_shared_prefix_is_prefilled_once(device_engine: Callable[..., Engine]) -> None:
    engine = device_engine(made())
    rollouts = list(engine.generate([toy_prompt(10)], replace(PLAIN, max_new_tokens=9)))
    counts = engine.statistics
    assert counts.prefilled_tokens == len(toy_prompt(1).token_id) - 1
    assert counts.drawn == counts.tokens == sum(len(r.token_id) for r in rollouts)
    assert counts.steps * 3 >= counts.tokens
    assert engine.device is not None
    assert counts.peak_cache_bytes == engine.device.cache_bytes
    kept = engine.device.pages[0]
    assert engine.device.cache_bytes == 2 * (kept.keys.nbytes + kept.values.nbytes)


def test_a_prompt_of_one_token_has_no_prefix(device_engine: Callable[..., Engine]) -> None:
    model = made()
    prompt = Prompt(
        subject_id=1, prediction_time_us=0, token_id=np.array([YOUNG], np.int32),
        time_min=np.zeros(1, np.int32), origin_us=0, rollouts=range(4),
    )  # fmt: skip
    params = SamplingParams(max_new_tokens=20)
    assert_same(
        device_engine(model).generate([prompt], params), of_the_cpu(model, [prompt], params)
    )


def test_the_clocks_cap_ends_a_rollout_on_a_device_too(
    device_engine: Callable[..., Engine],
) -> None:
    grammar, model = toy_grammar(max_clock_min=102 * DAY), brief()
    prompt = replace(toy_prompt(5), deadline_min=None)
    expected = list(
        Engine(model, grammar, EngineConfig(max_context=CONTEXT)).generate([prompt], PLAIN)
    )
    assert {"clock_cap"} <= {r.status for r in expected}
    assert_same(device_engine(model, grammar).generate([prompt], PLAIN), expected)


def test_logits_that_are_no_numbers_name_step_and_slot(
    device_engine: Callable[..., Engine],
) -> None:
    """The device cannot raise: the host does, when it sees the step."""
    model, prompt = made(), toy_prompt(1, n_days=50)
    (before,) = of_the_cpu(model, [prompt], PLAIN)
    new = set(before.token_id.tolist()) - set(prompt.token_id.tolist())
    step = max(before.token_id.tolist().index(token) for token in new)
    assert step > 2
    with torch.no_grad():  # where the context holds the token
        model.context_bias.known[:, before.token_id[step]] = float("nan")
    with pytest.raises(NumericError, match=rf"NaN logits at step {step + 1}, slot 0"):
        list(device_engine(model).generate([prompt], PLAIN))


def test_an_empty_mask_names_step_and_slot(device_engine: Callable[..., Engine]) -> None:
    grammar = toy_grammar()
    grammar.state_mask[5] = 0  # nothing may follow a visit's end
    engine = device_engine(made(), grammar, n_slots=1)
    with pytest.raises(NumericError, match="the grammar allows no token at step 0, slot 0"):
        list(engine.generate([toy_prompt(1)], PLAIN))
    engine = device_engine(brief(), grammar, n_slots=1)
    tokens = np.array([YOUNG, FEMALE, START, TYPE, COUGH], np.int32)
    inside = replace(toy_prompt(1), token_id=tokens, time_min=np.zeros(5, np.int32))
    inside = replace(inside, prediction_min=None, deadline_min=None)
    with pytest.raises(NumericError, match=r"no token at step [1-9]\d*, slot 0"):
        list(engine.generate([inside], PLAIN))


def test_prompts_are_refused_as_on_the_cpu(device_engine: Callable[..., Engine]) -> None:
    engine, good = device_engine(made()), toy_prompt(1)
    ended = np.array([YOUNG, FEMALE, START, TYPE, FINISH, GAP, DEATH], np.int32)
    cases = [
        (replace(good, rollouts=range(0)), ConfigError, "rollouts must be a non-empty range"),
        (replace(good, token_id=good.token_id[::-1].copy()), DataError, "refuses its token"),
        (replace(good, token_id=ended, time_min=np.full(7, 9, np.int32)), DataError, "has ended"),
    ]
    for prompt, error, message in cases:
        with pytest.raises(error, match=message):
            list(engine.generate([toy_prompt(1, subject_id=9), prompt], PLAIN))
    unknown = SamplingParams(outcome_sets=(np.array([V], np.int32),))
    with pytest.raises(ValueError, match="outside the vocabulary"):
        list(engine.generate([good], unknown))


def test_more_slots_than_memory_is_said_before_any_is_taken(
    device_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LimitError, match=r"tokens of keys and values take .* GiB are available on"):
        device_engine(made(), n_slots=10**7)
    monkeypatch.setattr(engine_memory, "_MEMINFO", Path("/nowhere"))
    monkeypatch.setattr(engine_memory, "_GROUP", Path("/nowhere"))
    device_engine(made())  # a system that does not say: nothing is refused


def test_fp8_keys_and_values_are_smaller_and_rounded(device_engine: Callable[..., Engine]) -> None:
    model, params = made(), replace(PLAIN, max_new_tokens=1)
    whole, rounded = (device_engine(model, kv_dtype=x) for x in (None, "fp8"))
    assert whole.device is not None
    assert rounded.device is not None
    assert rounded.device.cache_bytes < 0.5 * whole.device.cache_bytes  # of fp32, D = 8
    asked = [
        replace(p, token_id=p.token_id[:-1], time_min=p.time_min[:-1], prediction_min=None)
        for p in prompts(4, 4)
    ]
    exact, near = (by_name(x.generate(asked, params)) for x in (whole, rounded))
    away = [abs(float(near[k].log_p[0] - exact[k].log_p[0])) for k in exact]
    assert 0 < max(away) < 0.1


class _NoWord(TorchDispatchMode):
    """Refuses operators that a GPU would have to be waited for."""

    asks = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal")

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        assert function.name() not in self.asks, f"{function.name()} waits for the device"
        return function(*arguments, **(options or {}))


def test_neither_steps_nor_prefill_nor_queue_ask_the_device_anything(
    device_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler's reference is NumPy, so another draws here: the host sees no difference."""

    def draw(logits: torch.Tensor, slots: torch.Tensor, *_: object) -> Draws:
        n, clock = len(logits), slots[:, 4]
        status = torch.where(slots[:, 10] == 0, 5, slots[:, 10])  # all end at the token cap
        nothing = torch.zeros(n)
        return Draws(logits.argmax(1).int(), clock, status, clock, nothing, nothing, logits[:, :1])

    monkeypatch.setattr(device, "sample", draw)
    engine = device_engine(made(), max_context=64)
    list(engine.generate(prompts(1, 1), PLAIN))
    with _NoWord():
        rollouts = list(engine.generate(prompts(4, 3), PLAIN))
    assert len(rollouts) == 12
    assert {len(r.token_id) for r in rollouts} == {1}


def test_the_models_device_chooses_numbers_and_slots() -> None:
    model, grammar = made(), toy_grammar()
    engine = Engine(model, grammar)
    assert (engine.device, engine.n_slots, engine.dtype) == (None, 32, "float32")
    with pytest.raises(ConfigError, match="kv_dtype 'fp8' is for a GPU"):
        Engine(model, grammar, EngineConfig(kv_dtype="fp8"))
    with pytest.raises(ConfigError, match="kv_dtype must be one of fp8, got 'fp4'"):
        EngineConfig(kv_dtype="fp4")


def test_a_gpu_has_its_own_defaults(device_engine: Callable[..., Engine]) -> None:
    engine = device_engine(made(), n_slots=None, dtype=None, max_context=32)
    assert (engine.decoder, engine.n_slots, engine.dtype) == (None, 256, "bfloat16")
    with pytest.raises(ConfigError, match="a GPU decodes in float32 or bfloat16, got 'int8'"):
        device_engine(made(), dtype="int8")
