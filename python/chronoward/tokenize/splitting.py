"""Which split a subject goes to: the source's, a hash, or by time of the first event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from chronoward.errors import ConfigError, DataError
from chronoward.philox import splitmix64
from chronoward.schema import SPLITS, Role
from chronoward.splits import hash_split, source_split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data import PreparedEvents

RULES = ("source", "hash", "temporal")
_SHARES = (0.8, 0.9)


class SplitOf(Protocol):
    """Split numbers (index into `SPLITS`) of subjects."""

    def __call__(self, subject_id: NDArray[np.int64]) -> NDArray[np.uint8]: ...


def choose_rule(prepared: PreparedEvents, rule: str | None) -> str:
    """The rule to use: the source's own splits where it has them, else the hash.

    Raises:
        ConfigError: an unknown rule, "source" for a source without splits, or "temporal" where
            dates were shifted per subject, so that their order says nothing.
    """
    if rule is None:
        return "hash" if prepared.splits is None else "source"
    if rule not in RULES:
        message = f"split must be one of {', '.join(RULES)}, got {rule!r}"
        raise ConfigError(message)
    if rule == "source" and prepared.splits is None:
        message = "the source has no splits of its own; choose --split hash or temporal"
        raise ConfigError(message)
    if rule == "temporal" and prepared.calendar == "shifted":
        message = "--split temporal is refused: the source's dates were shifted per subject"
        raise ConfigError(message)
    return rule


def _numbers(names: NDArray[np.str_]) -> NDArray[np.uint8]:
    numbers = np.full(len(names), 255, np.uint8)
    for number, name in enumerate(SPLITS):
        numbers[names == name] = number
    return numbers


def first_event_us(prepared: PreparedEvents) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Subjects in ascending order and the time of their first event after birth.

    Returns:
        subject_id int64 (n,); microseconds since 1970, int64 (n,), the largest number where a
        subject has none.
    """
    never = np.iinfo(np.int64).max
    subjects, firsts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for table in prepared.batches():
        ids = table["subject_id"].to_numpy()
        times = table["time"].to_numpy().astype("datetime64[us]")
        counts = ~np.isnat(times) & (table["role"].to_numpy() >= Role.VISIT)
        us = np.where(counts, times.astype(np.int64), never)
        starts = np.flatnonzero(np.diff(ids, prepend=ids[0] - 1)) if len(ids) else ids
        if len(starts):
            subjects.append(ids[starts])
            firsts.append(np.minimum.reduceat(us, starts))
    return np.concatenate(subjects), np.concatenate(firsts)


def _temporal(prepared: PreparedEvents) -> SplitOf:
    """The tenth of the subjects who came last is held out, the tenth before them is for tuning."""
    subjects, firsts = first_event_us(prepared)
    order = np.lexsort((splitmix64(subjects), firsts))  # equal times: by the hash
    edges = [round(share * len(subjects)) for share in _SHARES]
    split = np.empty(len(subjects), np.uint8)
    split[order] = np.searchsorted(edges, np.arange(len(subjects)), side="right")

    def split_of(subject_id: NDArray[np.int64]) -> NDArray[np.uint8]:
        return split[np.searchsorted(subjects, subject_id)]

    return split_of


def make_split(prepared: PreparedEvents, rule: str) -> SplitOf:
    """The splits of a prepared source by a rule that `choose_rule` gave.

    Raises:
        DataError: subjects without a split, or a split of another name, in the source's own.
    """
    if rule == "hash":
        return lambda subject_id: _numbers(hash_split(subject_id))
    if rule == "temporal":
        return _temporal(prepared)
    table = prepared.splits
    if table is None:
        message = "the source has no splits of its own"
        raise DataError(message)
    return lambda subject_id: _numbers(source_split(subject_id, table))
