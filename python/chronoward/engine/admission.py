"""From prompts to rollouts that may take a slot: what is refused, and what fits into a context.

A prompt is checked when its first rollout is asked for: prompts may be a stream without end.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chronoward.engine.context import cut
from chronoward.engine.randomness import stream_key
from chronoward.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from chronoward import _core
    from chronoward.engine.rollout import Prompt
    from chronoward.engine.sampling import SamplingParams
    from chronoward.engine.statistics import EngineStatistics
    from chronoward.tokenizer.grammar import GrammarTables

REMEMBERED_PROMPTS = 1 << 17  # among which a repeated one is noticed


class Prefix:
    """A context that is prefilled once, and how many rollouts still need it.

    Attributes:
        prompt: whose it is.
        token_id: int32 (n,), what fits of it.
        time_min: int32 (n,).
        buffer: number of the place that holds it, -1 before it has one.
        users: rollouts that were asked for and have not left it.
        is_last_given: whether the last of its rollouts was asked for.
    """

    def __init__(
        self, prompt: Prompt, token_id: NDArray[np.int32], time_min: NDArray[np.int32]
    ) -> None:
        self.prompt = prompt
        self.token_id = token_id
        self.time_min = time_min
        self.buffer = -1
        self.users = 0
        self.is_last_given = False


class Job(NamedTuple):
    """One rollout of a prefix.

    Attributes:
        prefix: what it continues.
        masked: outcome set that it does not draw, -1: none.
        key: Philox key of its stream.
        rollout: its index.
    """

    prefix: Prefix
    masked: int
    key: int
    rollout: int


class Admission:
    """Checks the prompts of one run and hands out their rollouts.

    Args:
        grammar: the tokenizer's tables.
        params: how tokens are drawn.
        sampler: of these; it knows what the grammar takes.
        max_context: tokens after which a context is cut.
        statistics: counts prompts that were cut.
    """

    def __init__(
        self,
        grammar: GrammarTables,
        params: SamplingParams,
        sampler: _core.Sampler,
        *,
        max_context: int,
        statistics: EngineStatistics,
    ) -> None:
        self.grammar, self.sampler, self.statistics = grammar, sampler, statistics
        self.max_context = max_context
        self.pools = [(masked, stream_key(params.seed, name)) for masked, name in params.pools()]

    def jobs(self, prompts: Iterable[Prompt]) -> Iterator[Job]:
        """Every rollout, prompt by prompt, each counted as a user of its prefix.

        Raises:
            ConfigError: a prompt without rollouts, or a deadline before its prediction time.
            DataError: two prompts of one subject and time; a prefix that the grammar refuses.
        """
        seen: OrderedDict[tuple[int, int], int] = OrderedDict()
        for row, prompt in enumerate(prompts):
            prompt.check(row)
            first = seen.setdefault((prompt.subject_id, prompt.prediction_time_us), row)
            if first != row:
                message = f"prompts {first} and {row} are of one subject and prediction time"
                raise DataError(message)
            if len(seen) > REMEMBERED_PROMPTS:
                seen.popitem(last=False)
            prefix = self._prefix(prompt, row)
            left = len(self.pools) * len(prompt.rollouts)
            for masked, key in self.pools:
                for rollout in prompt.rollouts:
                    left -= 1
                    prefix.users += 1
                    prefix.is_last_given = left == 0
                    yield Job(prefix, masked, key, rollout)

    def _prefix(self, prompt: Prompt, row: int) -> Prefix:
        token_id = np.ascontiguousarray(prompt.token_id)
        refused = self.sampler.walk(token_id)
        if refused >= 0:
            is_token = 0 <= int(token_id[refused]) < len(self.grammar.token_class)
            rule = "order" if is_token else "token_range"
            message = (
                f"prompt {row}: the grammar refuses its token at position {refused} (rule {rule})"
            )
            raise DataError(message)
        if int(prompt.time_min[-1]) > self.grammar.max_clock_min:
            message = f"prompt {row}: its clock is past the grammar's last minute (rule clock_cap)"
            raise DataError(message)
        self.statistics.cut_prompts += len(token_id) > self.max_context
        return Prefix(prompt, *self.fitted(token_id, prompt.time_min, prompt))

    def fitted(
        self, token_id: NDArray[np.int32], time_min: NDArray[np.int32], prompt: Prompt
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The context itself, or its newest half where it is longer than `max_context`."""
        token_id, time_min = np.ascontiguousarray(token_id), np.ascontiguousarray(time_min)
        if len(token_id) <= self.max_context:
            return token_id, time_min
        return cut(
            token_id,
            time_min,
            grammar=self.grammar,
            origin_us=prompt.origin_us,
            keep=self.max_context // 2,
            accepts=lambda window: self.sampler.walk(window) < 0,
        )
