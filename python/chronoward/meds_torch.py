"""Batches in the shape of meds-torch-data's `MEDSTorchBatch`, made from a token store.

Subject-measurement ("SM") mode: one timeline a row, padded with zeros. A model written for
meds-torch-data takes them as they are, or as its own class: `MEDSTorchBatch(**batch)`. What a
"measurement" is here: a token of the store. So time tokens and visit marks are measurements too,
the prompt (year, age, sex, race; moved on where a row begins mid-life, then `continued`) is what is
static, and `end` is left out: nobody knows of it when it happens.

A batch is a function of (seed, epoch, step); there is no state and no worker process.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch

from chronoward import _core
from chronoward.errors import ConfigError, DataError
from chronoward.packing import prompts_at
from chronoward.philox import hash64, permutation, uniforms
from chronoward.store.arrays import split_arrays
from chronoward.tokenizer import TokenClass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from chronoward.store import StoreSplit
    from chronoward.tokenizer import Tokenizer

_NO_LIMIT = np.iinfo(np.int64).max
_US_PER_MIN = 60_000_000

Sampling = Literal["random", "to_end", "from_start"]
StaticInclusion = Literal["include", "prepend", "omit"]
PaddingSide = Literal["right", "left"]


@dataclass(frozen=True, kw_only=True)
class MedsTorchBatch:
    """B rows of L measurements; the fields of meds-torch-data 0.9.0's batch, in its order.

    `batch["code"]`, `keys()`, `values()` and `items()` reach the fields that are not None.
    """

    code: torch.Tensor
    """int64 (B, L), token ids; 0 is padding."""
    numeric_value: torch.Tensor
    """float32 (B, L), standard deviations from the code's mean; 0 where there is no number."""
    numeric_value_mask: torch.Tensor
    """bool (B, L), whether the token has a number."""
    time_delta_days: torch.Tensor
    """float32 (B, L), days since the token before it; 0 for static ones and what follows them at
    a timeline's beginning (the time from birth to there is the prompt's age)."""
    event_mask: torch.Tensor | None = None
    """Always None: it belongs to meds-torch-data's other mode."""
    static_mask: torch.Tensor | None = None
    """bool (B, L), with static data prepended: which measurements are static."""
    static_code: torch.Tensor | None = None
    """int64 (B, S), with static data included: the prompt, 0 where it is shorter."""
    static_numeric_value: torch.Tensor | None = None
    """float32 (B, S), zeros."""
    static_numeric_value_mask: torch.Tensor | None = None
    """bool (B, S), all False: a prompt has no numbers."""
    boolean_value: torch.Tensor | None = None
    """bool (B,), labels, where the loader was given some."""

    def __getitem__(self, key: str) -> torch.Tensor:
        value: torch.Tensor = getattr(self, key)
        return value

    def keys(self) -> Iterator[str]:
        """Names of the fields that are not None."""
        return (f.name for f in fields(self) if getattr(self, f.name) is not None)

    def values(self) -> Iterator[torch.Tensor]:
        """The fields that are not None."""
        return (self[key] for key in self.keys())

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and fields that are not None."""
        return ((key, self[key]) for key in self.keys())

    @property
    def mode(self) -> str:
        """ "SM": equal to meds-torch-data's `BatchMode.SM`."""
        return "SM"

    @property
    def static_inclusion_mode(self) -> str:
        """ "include", "prepend" or "omit", by the fields that are there."""
        if self.static_code is not None:
            return "include"
        return "omit" if self.static_mask is None else "prepend"

    @property
    def has_labels(self) -> bool:
        """Whether there is a `boolean_value`."""
        return self.boolean_value is not None

    @property
    def batch_size(self) -> int:
        """Rows."""
        return self.code.shape[0]

    @property
    def max_measurements_per_subject(self) -> int:
        """Measurements of a row, padding counted."""
        return self.code.shape[1]

    @property
    def max_static_measurements_per_subject(self) -> int | None:
        """Static measurements of a row, padding counted; None where they are no field."""
        return None if self.static_code is None else self.static_code.shape[1]

    @property
    def max_events_per_subject(self) -> None:
        """None in this mode."""
        return

    @property
    def max_measurements_per_event(self) -> None:
        """None in this mode."""
        return


@dataclass(frozen=True, kw_only=True)
class MedsTorchConfig:
    """What a row holds; names and meaning of meds-torch-data's `MEDSTorchDataConfig`.

    Raises:
        ConfigError: an unknown choice.
    """

    max_seq_len: int
    """Measurements a row has at most, prepended static ones counted."""
    seq_sampling_strategy: Sampling = "random"
    """Which part of a longer timeline: drawn anew each epoch, the last or the first."""
    static_inclusion_mode: StaticInclusion = "include"
    """The prompt in fields of its own, before the measurements, or not at all."""
    padding_side: PaddingSide = "right"

    def __post_init__(self) -> None:
        for name, choices in (
            ("seq_sampling_strategy", Sampling),
            ("static_inclusion_mode", StaticInclusion),
            ("padding_side", PaddingSide),
        ):
            if getattr(self, name) not in get_args(choices):
                message = (
                    f"{name} must be one of {', '.join(get_args(choices))}, "
                    f"got {getattr(self, name)!r}"
                )
                raise ConfigError(message)
        if self.max_seq_len < 1:
            message = f"max_seq_len must be positive, got {self.max_seq_len}"
            raise ConfigError(message)


def token_values(tokenizer: Tokenizer) -> _core.TokenValueArrays:
    """The number that each token stands for: its bin's median, standardized within the code.

    A code's mean and variance are those of its bins' quantile functions, each bin counted alike
    (bins are quantiles, so they hold about the same number of values). meds-torch-data standardizes
    the values themselves; here the bin is all that the store keeps of one.
    """
    vocabulary = tokenizer.vocabulary
    knots, first_knot, n_knots, first_bin = vocabulary.value_knots
    n_bins = np.diff(first_bin)
    standard = np.zeros(len(n_knots), np.float32)
    for entry in np.flatnonzero(n_bins):
        bins = range(first_bin[entry], first_bin[entry + 1])
        parts = [knots[first_knot[b] : first_knot[b] + n_knots[b]] for b in bins]
        mean = np.mean([(p[1:] + p[:-1]).mean() / 2 for p in parts])
        # E[x²] of a linear piece from a to b is (a² + ab + b²) / 3, here about the mean
        about = [p - mean for p in parts]
        square = [(q[1:] ** 2 + q[1:] * q[:-1] + q[:-1] ** 2).mean() / 3 for q in about]
        deviation = np.sqrt(np.mean(square))
        median = [np.interp(0.5, np.linspace(0, 1, len(p)), p) for p in parts]
        standard[bins.start : bins.stop] = (median - mean) / (deviation or 1.0)
    owner, bin_ = tokenizer.base_code, tokenizer.token_bin
    has_bins = (owner >= 0) & (bin_ >= 0)
    value = np.full(tokenizer.vocab_size, np.nan, np.float32)
    value[has_bins] = standard[first_bin[owner[has_bins]] + bin_[has_bins]]
    is_shared = (tokenizer.token_class == TokenClass.VALUE) & (bin_ >= 0)
    value[is_shared] = np.inf  # the core looks at the code before it
    known = np.maximum(owner, 0)
    return _core.TokenValueArrays(
        value=value,
        bin=bin_.astype(np.int32),
        first_bin=np.where(owner >= 0, first_bin[known], 0).astype(np.int32),
        n_bins=np.where(owner >= 0, n_bins[known], 0).astype(np.int32),
        bin_value=standard,
    )


@dataclass(frozen=True, eq=False)
class _Samples:
    """What is drawn from: `known` tokens of a timeline, for a label or as a whole."""

    timeline: NDArray[np.int64]
    known: NDArray[np.int64]
    label: NDArray[np.bool_] | None


def _read_labels(labels: pa.Table) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    columns = []
    for name in ("subject_id", "prediction_time", "boolean_value"):
        if name not in labels.column_names:
            message = f"the labels have no column {name}"
            raise DataError(message)
        if labels[name].null_count:
            message = f"the labels' column {name} has {labels[name].null_count} nulls"
            raise DataError(message)
        columns.append(labels[name])
    try:
        subject = columns[0].cast(pa.int64()).to_numpy()
        time_us = columns[1].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
        label = columns[2].cast(pa.bool_()).to_numpy()
    except pa.ArrowException as error:
        message = f"the labels do not have MEDS' types: {error}"
        raise DataError(message) from None
    return subject, time_us, label


class MedsTorchLoader:
    """Takes the place of meds-torch-data's data loader.

    `for batch in loader` goes through one epoch, the next one each time it is asked; `epoch` says
    which comes next, and may be set. `batch(epoch, step)` is any batch at once.

    Args:
        split: timelines of a token store.
        tokenizer: the store's.
        config: what a row holds.
        batch_size: rows of a batch; the last one of an epoch may have fewer.
        shuffle: a new order each epoch, else that of the split or of the labels.
        seed: of the order and of what is drawn.
        labels: MEDS labels (`subject_id`, `prediction_time`, `boolean_value`), a row each: what was
            available by then, time rounded down to the minute. Without them, a row a timeline.

    Attributes:
        counts: labels or timelines that make `rows`, that are of an `other_split`, and that have
            nothing but a prompt (`before_first_event`).

    Raises:
        ConfigError: `max_seq_len` leaves no room behind the prompt, batch_size is not positive, or
            labels do not come with sampling "to_end".
        DataError: labels that lack a column or have nulls.
    """

    def __init__(
        self,
        split: StoreSplit,
        tokenizer: Tokenizer,
        config: MedsTorchConfig,
        *,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        labels: pa.Table | None = None,
    ) -> None:
        if batch_size < 1:
            message = f"batch_size must be positive, got {batch_size}"
            raise ConfigError(message)
        if labels is not None and config.seq_sampling_strategy != "to_end":
            message = "labels need seq_sampling_strategy='to_end': what was known last"
            raise ConfigError(message)
        self.epoch = 0
        self.counts: dict[str, int] = {}
        self._split = split
        self._config = config
        self._batch_size, self._shuffle, self._seed = batch_size, shuffle, seed
        self._rules = tokenizer.grammar()
        self._n_prompt = len(self._rules.prompt_classes)
        self._room = config.max_seq_len
        if config.static_inclusion_mode == "prepend":
            self._room -= self._n_prompt + 1  # a `continued` stands behind some prompts
        if self._room < 1:
            message = f"max_seq_len must be at least {self._n_prompt + 2} with a prepended prompt"
            raise ConfigError(message)
        self._arrays = split_arrays(split)
        self._values = token_values(tokenizer)
        self._samples = self._find_samples(labels)

    def _find_samples(self, labels: pa.Table | None) -> _Samples:
        timeline, label = np.arange(len(self._split)), None
        until_min = np.full(len(timeline), _NO_LIMIT)
        n_rows = len(timeline)
        if labels is not None:
            subject, time_us, label = _read_labels(labels)
            timeline = self._split.find(subject)
            here = timeline >= 0
            n_rows, timeline, label = len(subject), timeline[here], label[here]
            until_min = (time_us[here] - self._split.origin_us[timeline]) // _US_PER_MIN
        known = _core.count_known(self._arrays, timeline, until_min, self._rules.end_id)
        kept = known > self._n_prompt
        self.counts = {
            "rows": int(kept.sum()),
            "other_split": n_rows - len(timeline),
            "before_first_event": int((~kept).sum()),
        }
        return _Samples(timeline[kept], known[kept], None if label is None else label[kept])

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._samples.timeline) // self._batch_size)

    def __iter__(self) -> Iterator[MedsTorchBatch]:
        epoch = self.epoch
        self.epoch += 1
        return self.batches(epoch)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[MedsTorchBatch]:
        """The batches of an epoch from `first_step` on."""
        order, begin = self._draw(epoch)
        for step in range(first_step, len(self)):
            yield self._make(self._of_step(order, step), begin)

    def batch(self, epoch: int, step: int) -> MedsTorchBatch:
        """One batch.

        Raises:
            IndexError: an epoch has no such step.
        """
        if not 0 <= step < len(self):
            message = f"an epoch has {len(self)} batches, no batch {step}"
            raise IndexError(message)
        order, begin = self._draw(epoch)
        return self._make(self._of_step(order, step), begin)

    def _of_step(self, order: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        return order[step * self._batch_size : (step + 1) * self._batch_size]

    def _draw(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The order of an epoch's samples, and where in its timeline each begins."""
        n, known = len(self._samples.known), self._samples.known
        order = np.arange(n)
        if self._shuffle:
            order = permutation(hash64(self._seed, "timelines", epoch), n)
        spare = np.maximum(known - self._n_prompt - self._room, 0)
        skipped = np.zeros(n, np.int64)
        if self._config.seq_sampling_strategy == "to_end":
            skipped = spare
        elif self._config.seq_sampling_strategy == "random":
            u = uniforms(hash64(self._seed, "parts", epoch), n)
            skipped = (u * (spare + 1)).astype(np.int64)
        return order, self._n_prompt + skipped

    def _static_tokens(
        self, timeline: NDArray[np.int64], begin: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Prompts (B, n_prompt + 1), as they would be at the row's beginning; 0: no `continued`."""
        stored, clock = _core.read_heads(self._arrays, timeline, begin, self._n_prompt)
        prompts = np.zeros((len(timeline), self._n_prompt + 1), np.int32)
        prompts[:, :-1] = stored
        late = np.flatnonzero(begin > self._n_prompt)
        if len(late):
            origin = self._split.origin_us[timeline[late]]
            prompts[late] = prompts_at(self._rules, stored[late], origin, clock[late])
        return prompts

    def _make(self, chosen: NDArray[np.int64], begins: NDArray[np.int64]) -> MedsTorchBatch:
        samples, mode = self._samples, self._config.static_inclusion_mode
        timeline, begin = samples.timeline[chosen], begins[chosen]
        length = np.minimum(samples.known[chosen] - begin, self._room)
        static = np.zeros((len(chosen), 0), np.int32)
        if mode != "omit":
            static = self._static_tokens(timeline, begin)
        before = static if mode == "prepend" else static[:, :0]
        used = length + (before > 0).sum(axis=1)
        width = int(used.max())
        is_left = self._config.padding_side == "left"
        code, value, has_value, delta_days, is_static = _core.fill_padded(
            self._arrays,
            timeline,
            begin,
            length,
            np.ascontiguousarray(before),
            self._values,
            width,
            is_left,
        )
        whole = np.flatnonzero(begin == self._n_prompt)
        first = (width - length if is_left else used - length)[whole]
        delta_days[whole, first] = 0
        batch: dict[str, torch.Tensor] = {
            "code": torch.from_numpy(code),
            "numeric_value": torch.from_numpy(value),
            "numeric_value_mask": torch.from_numpy(has_value.view(np.bool_)),
            "time_delta_days": torch.from_numpy(delta_days),
        }
        if mode == "prepend":
            batch["static_mask"] = torch.from_numpy(is_static.view(np.bool_))
        elif mode == "include":
            batch["static_code"] = torch.from_numpy(static.astype(np.int64))
            batch["static_numeric_value"] = torch.zeros(static.shape)
            batch["static_numeric_value_mask"] = torch.zeros(static.shape, dtype=torch.bool)
        if samples.label is not None:
            batch["boolean_value"] = torch.from_numpy(samples.label[chosen])
        return MedsTorchBatch(**batch)
