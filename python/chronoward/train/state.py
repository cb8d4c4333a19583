"""Checkpoints: everything the next step depends on, one folder a step, renamed into place.

A run that was killed goes on from the newest folder and ends with the same bytes, because the data
of a step follow from (seed, epoch, step) and nothing else is random.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from chronoward import files
from chronoward.errors import FormatError
from chronoward.model.checkpoint import (
    WEIGHTS,
    assign,
    module_bytes,
    read_tensors,
    tensor_bytes,
)
from chronoward.model.parts import fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor, nn

    from chronoward.train.average import Average
    from chronoward.train.optimizer import Optimizers

OPTIMIZER = "optimizer.safetensors"
AVERAGE = "average.safetensors"
STATE = "state.json"


@dataclass(kw_only=True)
class Progress:
    """Where a run stands."""

    n_steps: int
    """Steps of the whole run; one of `minutes` plans them anew from time to time."""
    step: int = 0
    """Steps done."""
    epoch: int = 0
    """Epoch of the next step."""
    epoch_step: int = 0
    """Number of the next step in its epoch."""
    tokens: int = 0
    """Tokens seen."""
    seconds: float = 0.0
    """Time spent in training."""
    evaluations: int = 0
    """Looks at the tuning split."""
    best_loss: float | None = None
    """Best loss on the tuning split."""
    best_step: int = -1
    """Step of the best loss."""
    without_best: int = 0
    """Evaluations since the best."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite, left out."""
    empty: int = 0
    """Steps without one position to predict, left out."""
    skipped_in_a_row: int = 0
    """The same, without a finite one in between."""
    stopped: str = ""
    """Why the run ended, empty while it goes on."""


def _name(step: int) -> str:
    return f"{step:08d}"


def _optimizer_tensors(module: nn.Module, optimizers: Optimizers) -> dict[str, Tensor]:
    """Each parameter's optimizer state, by the parameter's name and the state's."""
    return {
        f"{name}.{moment}": tensor
        for name, parameter in module.named_parameters()
        for moment, tensor in optimizers.state(parameter).items()
    }


def _payloads(
    module: nn.Module, optimizers: Optimizers, average: Average | None, *, is_kept: bool
) -> Iterator[tuple[str, bytes]]:
    """Files of tensors of a checkpoint, one in memory at a time; see `tensor_bytes`."""
    yield WEIGHTS, module_bytes(module, is_kept=is_kept)
    state = _optimizer_tensors(module, optimizers)
    yield OPTIMIZER, tensor_bytes(state, is_kept=is_kept)
    if average is not None:
        yield AVERAGE, tensor_bytes(average.tensors, is_kept=is_kept)


def save_checkpoint(
    folder: Path,
    module: nn.Module,
    optimizers: Optimizers,
    progress: Progress,
    average: Average | None = None,
    *,
    is_writer: bool = True,
) -> Path:
    """Writes `folder/<step>/` whole or not at all, then drops what is neither newest nor best.

    Where the module is in parts, every process has to call this; a checkpoint holds whole tensors.

    Args:
        folder: the run's `checkpoints`.
        module: the model with its heads.
        optimizers: of the module.
        progress: where the run stands.
        average: of the weights, where the run has one.
        is_writer: False gives this process's parts to the one that writes.

    Raises:
        OSError: it could not be written (the disk is full); earlier checkpoints stay.
    """
    final = folder / _name(progress.step)
    payloads = _payloads(module, optimizers, average, is_kept=is_writer)
    if not is_writer:
        deque(payloads, maxlen=0)
        return final
    if final.is_dir():
        return final
    temporary = folder / f".{final.name}.{os.getpid()}{files.TEMPORARY_SUFFIX}"
    try:
        temporary.mkdir(mode=0o700)
        for name, payload in payloads:
            files.write_bytes(temporary / name, payload)
        files.write_json(temporary / STATE, asdict(progress))
        temporary.replace(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        deque(payloads, maxlen=0)  # the other processes wait for this one's parts
        raise
    keep = {progress.step, progress.best_step}
    for step in steps_of(folder):
        if step not in keep:
            shutil.rmtree(folder / _name(step))
    return final


def steps_of(folder: Path) -> list[int]:
    """Steps that have a checkpoint, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdigit())


def load_weights(folder: Path, step: int, module: nn.Module) -> None:
    """Puts a checkpoint's weights into `module`: their average where there is one.

    Raises:
        FormatError: truncated or unfitting tensors.
        NumericError: NaN or infinity.
    """
    path = folder / _name(step) / AVERAGE
    if not path.is_file():
        path = folder / _name(step) / WEIGHTS
    assign(module, read_tensors(path), path)


def load_checkpoint(
    folder: Path,
    step: int,
    module: nn.Module,
    optimizers: Optimizers,
    average: Average | None = None,
) -> Progress:
    """Puts a checkpoint into `module`, `optimizers` and, where the run has one, `average`.

    Raises:
        FormatError: a file that is truncated or does not fit.
        NumericError: NaN or infinity among the weights.
    """
    weights = folder / _name(step) / WEIGHTS
    assign(module, read_tensors(weights), weights)
    if average is not None:
        path = folder / _name(step) / AVERAGE
        averaged = read_tensors(path)
        if {n: x.shape for n, x in averaged.items()} != {
            n: x.shape for n, x in average.tensors.items()
        }:
            message = f"{path}: the averaged tensors are not those of this model"
            raise FormatError(message)
        for name, target in average.tensors.items():
            fill(target, averaged[name])
    path = folder / _name(step) / OPTIMIZER
    tensors = read_tensors(path)
    state = _optimizer_tensors(module, optimizers)
    if set(tensors) != set(state):
        message = f"{path}: the optimizer's tensors are not those of this model"
        raise FormatError(message)
    raw = files.read_json(folder / _name(step) / STATE)
    try:
        progress = Progress(**raw)
    except TypeError as error:
        message = f"{folder / _name(step) / STATE} is not a training state: {error}"
        raise FormatError(message) from None
    for name, target in state.items():
        tensor = tensors[name]
        if tensor.shape != target.shape or not torch.isfinite(tensor).all():
            message = f"{path}: {name} has another shape or is not finite"
            raise FormatError(message)
        fill(target, tensor)
    return progress
