"""A RUN folder's model: `model.safetensors` beside `config.json`, which names its hash.

Nothing is unpickled. The config is written last, so a folder with a config has its weights; loading
checks the weights' hash, then every tensor's name, shape, type and finiteness, and the vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from chronoward import files
from chronoward.errors import FormatError, NumericError
from chronoward.model.config import ModelConfig
from chronoward.model.heads import head_configs, make_heads
from chronoward.model.model import Model
from chronoward.model.parts import fill, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT = "chronoward-model"
VERSION = 1


def tensor_bytes(tensors: Mapping[str, Tensor], *, is_kept: bool = True) -> bytes:
    """Tensors as safetensors bytes, a function of their values only.

    Args:
        tensors: by name. Where they are in parts, every process has to ask.
        is_kept: False gives this process's parts to the others, and returns nothing.
    """
    kept = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())
        if is_kept:
            kept[name] = value.cpu().contiguous()
    return save(kept, metadata={"format": "pt"}) if is_kept else b""


def module_bytes(module: nn.Module, *, is_kept: bool = True) -> bytes:
    """A module's parameters and lookups as safetensors bytes; see `tensor_bytes`."""
    return tensor_bytes(module.state_dict(), is_kept=is_kept)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        FormatError: truncated or not a safetensors file.
        OSError: the file cannot be read.
    """
    try:
        return load(Path(path).read_bytes())
    except SafetensorError as error:
        message = f"{path} is truncated or not a safetensors file: {error}"
        raise FormatError(message) from None


@torch.no_grad()
def assign(module: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Copies tensors into a module's parameters and lookups after checking each.

    Raises:
        FormatError: a missing or unknown tensor, or one of another shape or type.
        NumericError: NaN or infinity.
    """
    parameters: dict[str, Tensor] = module.state_dict()
    if odd := sorted(set(parameters) ^ set(tensors)):
        message = f"{source}: missing or unknown tensors {odd[:5]}"
        raise FormatError(message)
    for name, parameter in parameters.items():
        tensor = tensors[name]
        if tensor.shape != parameter.shape or tensor.dtype != parameter.dtype:
            message = (
                f"{source}: tensor {name} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"expected {parameter.dtype} {tuple(parameter.shape)}"
            )
            raise FormatError(message)
        if not torch.isfinite(tensor).all():
            message = f"{source}: tensor {name} holds NaN or infinity"
            raise NumericError(message)
    for name, parameter in parameters.items():
        fill(parameter, tensors[name])


def save_model(
    folder: Path, model: Model, *, tokenizer_hash: str, training: dict[str, Any]
) -> None:
    """Writes weights, then the config that names them.

    Args:
        folder: an existing folder.
        model: the model with its heads.
        tokenizer_hash: SHA-256 of the tokenizer the vocabulary belongs to.
        training: how it was trained, kept in the config.
    """
    payload = module_bytes(model)
    files.write_bytes(folder / WEIGHTS, payload)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "model": model.config.to_json(),
        "heads": head_configs(model),
        "tokenizer": tokenizer_hash,
        "weights": files.sha256_file(folder / WEIGHTS),
        "training": training,
    }
    files.write_json(folder / CONFIG, config)


def read_config(run_dir: Path) -> dict[str, Any]:
    """The content of a RUN folder's `config.json`.

    Raises:
        FormatError: missing (not a finished run), not ours, or of another version.
    """
    path = Path(run_dir) / CONFIG
    if not path.is_file():
        message = f"{run_dir} has no {CONFIG}: not a RUN folder, or training was not finished"
        raise FormatError(message)
    config = files.read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        message = f"{path} does not describe a model"
        raise FormatError(message)
    if config.get("version") != VERSION:
        message = (
            f"{path} has version {config.get('version')}, this release reads {VERSION}; "
            "train it again with `chronoward train`"
        )
        raise FormatError(message)
    return config


def load_model(run_dir: Path | str, *, tokenizer_hash: str | None = None) -> Model:
    """The trained model of a RUN folder, in evaluation mode.

    Args:
        run_dir: the folder that `train` wrote.
        tokenizer_hash: refuse a model of another vocabulary.

    Raises:
        FormatError: another vocabulary, another version, changed, truncated or unfitting weights.
        NumericError: NaN or infinity among the weights.
        OSError: a file cannot be read.
    """
    folder = Path(run_dir)
    config = read_config(folder)
    if tokenizer_hash is not None and config["tokenizer"] != tokenizer_hash:
        message = (
            f"{folder} was trained with tokenizer {config['tokenizer'][:12]}, "
            f"not with {tokenizer_hash[:12]}: a checkpoint for another vocabulary"
        )
        raise FormatError(message)
    weights = folder / WEIGHTS
    tensors = read_tensors(weights)
    if files.sha256_file(weights) != config["weights"]:
        message = f"{weights} does not match the hash in {CONFIG}: it was changed or is corrupt"
        raise FormatError(message)
    model = Model(ModelConfig.from_json(config["model"], str(folder / CONFIG)))
    make_heads(model, config["heads"], str(folder / CONFIG))
    assign(model, tensors, weights)
    try:
        model.context_bias.rules()
    except ValueError as error:
        message = f"{weights}: {error}"
        raise FormatError(message) from None
    return model.eval()
