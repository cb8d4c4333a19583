"""Continues prefixes: a fixed number of slots, refilled as rollouts end.

What a rollout draws depends on (model, subject, prediction time, seed, stream, rollout index) only:
the order of prompts, the number of slots and the number of workers change nothing but the order of
arrival. Memory depends on the slots and the context, not on how many rollouts there are.

A model on a GPU is decoded there, without the host in its steps; one on the CPU by the C++ core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chronoward.engine.context import MAX_ADDED
from chronoward.engine.decode import PAGE_TOKENS, Decoder, ModelDecoder, one_thread
from chronoward.engine.device import DeviceRollouts
from chronoward.engine.device_room import DeviceRoom
from chronoward.engine.device_scheduler import DeviceScheduler, device_rule
from chronoward.engine.precision import check_dtype, chosen_dtype, torch_dtypes
from chronoward.engine.sampling import SamplingParams
from chronoward.engine.scheduler import Scheduler
from chronoward.engine.statistics import EngineStatistics
from chronoward.errors import ConfigError
from chronoward.kernels.sample import make_tables
from chronoward.model import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from chronoward.engine.rollout import Prompt, Rollout
    from chronoward.tokenizer.grammar import GrammarTables

CPU_SLOTS, GPU_SLOTS = 32, 256
STEPS_A_LOOK = 16  # of a GPU between two looks of the host


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Room of an engine.

    Raises:
        ConfigError: no slots, a context too short to be cut, or an unknown dtype.
    """

    n_slots: int | None = None
    """Rollouts that run side by side; None: 32 on a CPU, 256 on a GPU."""
    max_context: int = 1024
    """Tokens a context holds; a longer one is cut to its newest half at a visit border."""
    dtype: str | None = None
    """Of weights, keys and values while decoding: float32 (a CPU's default), bfloat16 (a GPU's;
    faster, rounded), or int8 (CPU: weights and what they are multiplied with; keys and values are
    bfloat16)."""
    kv_dtype: str | None = None
    """Of keys and values on a GPU: fp8 (e4m3 with a scale a token and head) takes half of
    bfloat16's memory and rounds to three bits; None: as `dtype`."""

    def __post_init__(self) -> None:
        if self.n_slots is not None and self.n_slots < 1:
            message = f"n_slots must be positive, got {self.n_slots}"
            raise ConfigError(message)
        if self.max_context < 4 * MAX_ADDED:
            message = f"max_context must be at least {4 * MAX_ADDED}, got {self.max_context}"
            raise ConfigError(message)
        check_dtype(self.dtype, self.kv_dtype)


def decodes_on_device(model: Model) -> bool:
    """Whether a model's rollouts stay on its device: on a GPU. The one place that chooses."""
    return model.output_weight.is_cuda


class Engine:
    """Draws rollouts from a model under a grammar.

    Args:
        model: a `Model` on the CPU or on a GPU, or anything that decodes as `Decoder` says.
        grammar: the tokenizer's tables.
        config: slots, context and numbers.

    Attributes:
        n_slots: rollouts that run side by side.
        dtype: of weights while decoding.
        statistics: counts of the latest `generate`, also while it runs.
        watch: called with them whenever a rollout has ended; None: nobody is told.

    Raises:
        ConfigError: model and grammar have different vocabularies, or numbers that the model's
            device does not decode in.
        LimitError: the cache that these slots may need is more than the memory there is.
    """

    def __init__(
        self, model: Model | Decoder, grammar: GrammarTables, config: EngineConfig | None = None
    ) -> None:
        self.config = config or EngineConfig()
        self.grammar = grammar
        is_on_gpu = isinstance(model, Model) and decodes_on_device(model)
        self.n_slots = self.config.n_slots or (GPU_SLOTS if is_on_gpu else CPU_SLOTS)
        self.dtype = chosen_dtype(self.config.dtype, self.config.kv_dtype, on_gpu=is_on_gpu)
        self.statistics = EngineStatistics(self.n_slots)
        self.watch: Callable[[EngineStatistics], None] | None = None
        self.decoder: Decoder | None = None
        self.device: DeviceRollouts | None = None
        if isinstance(model, Model):
            self._check_vocabulary(model.config.vocab_size)
        if isinstance(model, Model) and is_on_gpu:
            self.device = self._open_device(model)
            return
        self.decoder = ModelDecoder(model, dtype=self.dtype) if isinstance(model, Model) else model
        self._check_vocabulary(self.decoder.vocab_size)
        # A slot's prefix and own tokens are one context, each with a page that is not full; and
        # one prefix may wait for its rollouts.
        n_slots, max_context = self.n_slots, self.config.max_context
        self.decoder.open(
            2 * n_slots + 1, max_context, (n_slots + 1) * (max_context + 3 * PAGE_TOKENS)
        )

    def _check_vocabulary(self, vocab_size: int) -> None:
        n_tokens = len(self.grammar.token_class)
        if vocab_size != n_tokens:
            message = f"the model has {vocab_size} tokens, the grammar {n_tokens}"
            raise ConfigError(message)

    def _open_device(self, model: Model) -> DeviceRollouts:
        dtype, stored = torch_dtypes(self.dtype, self.config.kv_dtype)
        room = DeviceRoom.of_contexts(
            self.n_slots, self.config.max_context, dtype=dtype, stored=stored, n_steps=STEPS_A_LOOK
        )
        device = model.output_weight.device
        room.check(model.config, device)
        rule = device_rule(self.grammar, SamplingParams())
        return DeviceRollouts(model, make_tables(self.grammar, device=device), rule, room)

    def generate(self, prompts: Iterable[Prompt], params: SamplingParams) -> Iterator[Rollout]:
        """Yields rollouts as they end, in no promised order.

        Args:
            prompts: prefixes; their pairs (subject_id, prediction_time_us) differ.
            params: how tokens are drawn and what is summed up.

        Raises:
            ConfigError: a prompt without rollouts, or a deadline before its prediction time.
            DataError: two prompts of one subject and time (looked for among the last 131,072, so
                that memory does not grow); a prefix that the grammar refuses.
            NumericError: NaN logits or nothing to choose from; names step and slot.
        """
        self.statistics = EngineStatistics(self.n_slots)
        with one_thread():
            for rollout in self._scheduler(params).run(prompts):
                if self.watch is not None:
                    self.watch(self.statistics)
                yield rollout

    def _scheduler(self, params: SamplingParams) -> Scheduler | DeviceScheduler:
        if self.device is not None:
            return DeviceScheduler(self.device, self.grammar, params, statistics=self.statistics)
        assert self.decoder is not None
        return Scheduler(
            self.decoder,
            self.grammar,
            params,
            max_context=self.config.max_context,
            statistics=self.statistics,
        )
