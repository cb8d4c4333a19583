"""Token timelines of several subjects, flat: what encode makes, the store keeps, decode reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_TOKEN_FIELDS = ("token_id", "time_min", "event_min", "n_prior")


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Timelines of n subjects with T tokens together.

    Attributes:
        subject_id: int64 (n,).
        origin_us: int64 (n,), microseconds since 1970 of the clock's zero; always a midnight.
        offsets: int64 (n + 1,), bounds of each subject's tokens.
        token_id: int32 (T,).
        time_min: int32 (T,), the clock: minutes since origin at which the token was available.
        event_min: int32 (T,), the source's own time; <= time_min.
        n_prior: uint8 (T,), earlier visits (days in preset events) with the same base code.
        obs_offsets: int64 (n + 1,), bounds of each subject's observation periods.
        obs_start_min: int32, starts of the observation periods.
        obs_end_min: int32, ends of the observation periods.
        counts: what encode dropped or changed, by rule.
    """

    subject_id: NDArray[np.int64]
    origin_us: NDArray[np.int64]
    offsets: NDArray[np.int64]
    token_id: NDArray[np.int32]
    time_min: NDArray[np.int32]
    event_min: NDArray[np.int32]
    n_prior: NDArray[np.uint8]
    obs_offsets: NDArray[np.int64]
    obs_start_min: NDArray[np.int32]
    obs_end_min: NDArray[np.int32]
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.subject_id)
        if len(self.offsets) != n + 1 or len(self.obs_offsets) != n + 1 or len(self.origin_us) != n:
            message = "offsets, obs_offsets and origin_us do not fit the number of subjects"
            raise DataError(message)
        if any(len(getattr(self, name)) != self.offsets[-1] for name in _TOKEN_FIELDS):
            message = "token columns do not all have offsets[-1] entries"
            raise DataError(message)

    def __len__(self) -> int:
        return len(self.subject_id)

    @property
    def n_tokens(self) -> int:
        """Number of tokens of all subjects."""
        return len(self.token_id)

    @classmethod
    def from_timelines(
        cls,
        token_id: Sequence[NDArray[np.int32]],
        time_min: Sequence[NDArray[np.int32]],
        *,
        subject_id: Sequence[int],
        origin_us: Sequence[int],
    ) -> TokenBatch:
        """Timelines without a source (generated ones): event times are the clock, no observation.

        Args:
            token_id: one int32 array a subject.
            time_min: one int32 array a subject, minutes since its origin.
            subject_id: one a subject.
            origin_us: microseconds since 1970, one a subject.
        """
        offsets = np.zeros(len(subject_id) + 1, np.int64)
        np.cumsum([len(t) for t in token_id], out=offsets[1:])
        empty = np.zeros(0, np.int32)
        times = np.concatenate([empty, *time_min]).astype(np.int32)
        return cls(
            subject_id=np.asarray(subject_id, np.int64),
            origin_us=np.asarray(origin_us, np.int64),
            offsets=offsets,
            token_id=np.concatenate([empty, *token_id]).astype(np.int32),
            time_min=times,
            event_min=times,
            n_prior=np.zeros(len(times), np.uint8),
            obs_offsets=np.zeros(len(subject_id) + 1, np.int64),
            obs_start_min=empty,
            obs_end_min=empty,
        )

    @classmethod
    def concat(cls, batches: Sequence[TokenBatch]) -> TokenBatch:
        """One batch of all subjects in order; counts are added up.

        Raises:
            DataError: no batches.
        """
        if not batches:
            message = "cannot concatenate zero token batches"
            raise DataError(message)
        counts: dict[str, int] = {}
        for batch in batches:
            for rule, n in batch.counts.items():
                counts[rule] = counts.get(rule, 0) + n
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(b, name) for b in batches])
            for name in (
                "subject_id",
                "origin_us",
                *_TOKEN_FIELDS,
                "obs_start_min",
                "obs_end_min",
            )
        }
        for name in ("offsets", "obs_offsets"):
            lengths = np.concatenate([np.diff(getattr(b, name)) for b in batches])
            joined[name] = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(**joined, counts=counts)

    def same_timelines(self, other: TokenBatch, *, ignore: tuple[str, ...] = ()) -> bool:
        """True when every array is equal, except those named in `ignore`."""
        names = ["subject_id", "origin_us", "offsets", *_TOKEN_FIELDS]
        names += ["obs_offsets", "obs_start_min", "obs_end_min"]
        return all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in names
            if name not in ignore
        )
