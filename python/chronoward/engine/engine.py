"""Continues prefixes: a fixed number of slots, refilled as rollouts end.

What a rollout draws depends on (model, subject, prediction time, seed, stream, rollout index) only:
the order of prompts, the number of slots and the number of workers change nothing but the order of
arrival. Memory depends on the slots and the context, not on how many rollouts there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chronoward.engine.context import MAX_ADDED
from chronoward.engine.decode import PAGE_TOKENS, Decoder, ModelDecoder, check_dtype, one_thread
from chronoward.engine.scheduler import Scheduler
from chronoward.engine.statistics import EngineStatistics
from chronoward.errors import ConfigError
from chronoward.model import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from chronoward.engine.rollout import Prompt, Rollout
    from chronoward.engine.sampling import SamplingParams
    from chronoward.tokenizer.grammar import GrammarTables


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Room of an engine.

    Raises:
        ConfigError: no slots, a context too short to be cut, or an unknown dtype.
    """

    n_slots: int = 32
    """Rollouts that run side by side."""
    max_context: int = 1024
    """Tokens a context holds; a longer one is cut to its newest half at a visit border."""
    dtype: str = "float32"
    """Of weights, keys and values while decoding: float32, or bfloat16 (faster, rounded), or int8
    (weights and what they are multiplied with; keys and values are bfloat16)."""

    def __post_init__(self) -> None:
        if self.n_slots < 1:
            message = f"n_slots must be positive, got {self.n_slots}"
            raise ConfigError(message)
        if self.max_context < 4 * MAX_ADDED:
            message = f"max_context must be at least {4 * MAX_ADDED}, got {self.max_context}"
            raise ConfigError(message)
        check_dtype(self.dtype)


class Engine:
    """Draws rollouts from a model under a grammar.

    Args:
        model: a `Model`, or anything that decodes as `Decoder` says.
        grammar: the tokenizer's tables.
        config: slots and context.

    Attributes:
        statistics: counts of the latest `generate`, also while it runs.
        watch: called with them whenever a rollout has ended; None: nobody is told.

    Raises:
        ConfigError: model and grammar have different vocabularies.
        LimitError: the cache that these slots may need is more than the memory there is.
    """

    def __init__(
        self, model: Model | Decoder, grammar: GrammarTables, config: EngineConfig | None = None
    ) -> None:
        self.config = config or EngineConfig()
        self.grammar = grammar
        is_model = isinstance(model, Model)
        self.decoder: Decoder = (
            ModelDecoder(model, dtype=self.config.dtype) if is_model else model  # type: ignore[assignment, arg-type]
        )
        n_tokens = len(grammar.token_class)
        if self.decoder.vocab_size != n_tokens:
            message = f"the model has {self.decoder.vocab_size} tokens, the grammar {n_tokens}"
            raise ConfigError(message)
        n_slots, max_context = self.config.n_slots, self.config.max_context
        self.statistics = EngineStatistics(n_slots)
        self.watch: Callable[[EngineStatistics], None] | None = None
        # A slot's prefix and own tokens are one context, each with a page that is not full; and
        # one prefix may wait for its rollouts.
        self.decoder.open(
            2 * n_slots + 1, max_context, (n_slots + 1) * (max_context + 3 * PAGE_TOKENS)
        )

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
        self.statistics = EngineStatistics(self.config.n_slots)
        scheduler = Scheduler(
            self.decoder,
            self.grammar,
            params,
            max_context=self.config.max_context,
            statistics=self.statistics,
        )
        with one_thread():
            for rollout in scheduler.run(scheduler.jobs(prompts)):
                if self.watch is not None:
                    self.watch(scheduler.statistics)
                yield rollout
