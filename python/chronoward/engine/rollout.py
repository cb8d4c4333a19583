"""What goes into the engine and what comes out: prompts and rollouts, arrays only.

A rollout's tokens go on to the end of the path: with status `deadline` the last token is the move
that carried the clock past the deadline, so whoever writes events drops what lies beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chronoward.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Order of csrc/core/sample.hpp's Status. `outcome`: only the masked outcome was possible.
STATUSES = ("running", "deadline", "death", "end", "outcome", "token_cap", "clock_cap")
UNDETERMINED = ("token_cap", "clock_cap")


@dataclass(frozen=True, eq=False, kw_only=True)
class Prompt:
    """A prefix and the rollouts wanted of it.

    The pair (subject_id, prediction_time_us) names its random numbers and must be unique in a run.
    """

    subject_id: int
    prediction_time_us: int
    """Microseconds since 1970."""
    token_id: NDArray[np.int32]
    """The prefix (n,), n ≥ 1: all that was available at the prediction time."""
    time_min: NDArray[np.int32]
    """Clock of each token (n,), minutes since `origin_us`, non-decreasing."""
    origin_us: int
    rollouts: range
    """Indices of the rollouts, e.g. range(16); a later range adds to an earlier one."""
    prediction_min: int | None = None
    """Prediction time on the clock. The first move must pass it (silence); None: no such rule."""
    deadline_min: int | None = None
    """A rollout stops when its clock is past this minute; None: never."""

    def check(self, row: int) -> None:
        """Refuses what cannot be continued; `row` names the prompt in messages.

        Raises:
            ConfigError: no rollouts, or a deadline that is not after the prediction time.
            DataError: arrays that do not fit, or a prefix that reaches past the prediction time.
        """
        if len(self.rollouts) == 0 or self.rollouts.step != 1 or self.rollouts.start < 0:
            message = f"prompt {row}: rollouts must be a non-empty range from 0 or above"
            raise ConfigError(message)
        if self.token_id.ndim != 1 or self.token_id.shape != self.time_min.shape:
            message = f"prompt {row}: token_id and time_min must have one dimension and one length"
            raise DataError(message)
        if self.token_id.dtype != np.int32 or self.time_min.dtype != np.int32:
            message = f"prompt {row}: token_id and time_min must be int32"
            raise DataError(message)
        if len(self.token_id) == 0:
            message = f"prompt {row}: the prefix is empty"
            raise DataError(message)
        if bool((np.diff(self.time_min) < 0).any()):
            message = f"prompt {row}: the clock runs backwards"
            raise DataError(message)
        if self.prediction_min is None:
            return
        if self.prediction_min < int(self.time_min[-1]):
            message = f"prompt {row}: the prefix holds tokens later than the prediction time"
            raise DataError(message)
        if self.deadline_min is not None and self.deadline_min <= self.prediction_min:
            message = f"prompt {row}: the deadline must lie after the prediction time"
            raise ConfigError(message)


@dataclass(frozen=True, eq=False, kw_only=True)
class Rollout:
    """One finished continuation of a prompt's prefix."""

    subject_id: int
    prediction_time_us: int
    rollout: int
    pool: int
    """Index of the outcome set that was masked; -1 where none was."""
    status: str
    """One of `STATUSES` but `running`."""
    token_id: NDArray[np.int32]
    """Drawn tokens (n,), without the prefix."""
    time_min: NDArray[np.int32]
    """Clock after each token (n,)."""
    log_p: NDArray[np.float32]
    """Log-probability of each token under the distribution it was drawn from (n,)."""
    value_u: NDArray[np.float64]
    """Uniform number for the value inside each token's bin (n,)."""
    step_min: NDArray[np.int32]
    """Clock before each draw (n_steps,); n_steps is n, or n + 1 with status `outcome`."""
    outcome_p: NDArray[np.float32]
    """Probability of each outcome set at each draw (n_steps, K), before any masking."""

    @property
    def end_min(self) -> int:
        """The minute up to which this path is known."""
        return int(self.time_min[-1]) if len(self.time_min) else int(self.step_min[-1])
