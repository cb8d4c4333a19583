"""Heads by name: what a checkpoint says of them, and how they are made from that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chronoward.errors import FormatError
from chronoward.model.gap import GapHead, SubtimeHead
from chronoward.model.hazard import HazardConfig, HazardHead
from chronoward.model.next_visit import NextVisitConfig, NextVisitHead

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from chronoward.model.model import Model

_MAKERS: dict[str, Callable[[int, Any, str], nn.Module]] = {
    "hazard": lambda d, value, source: HazardHead(d, HazardConfig.from_json(value, source)),
    "next_visit": lambda d, value, source: NextVisitHead(
        d, NextVisitConfig.from_json(value, source)
    ),
    "gap": lambda d, _value, _source: GapHead(d, 1.0),
    "subtime": lambda d, _value, _source: SubtimeHead(d),
}


def head_configs(model: Model) -> dict[str, Any]:
    """Config of each head of a model as JSON; empty where a head has none."""
    return {
        name: head.config.to_json() if isinstance(head, HazardHead | NextVisitHead) else {}
        for name, head in model.heads.items()
    }


def make_heads(model: Model, configs: dict[str, Any], source: str) -> None:
    """Gives a model the heads of a checkpoint, to be filled with its weights.

    Args:
        model: gets the heads.
        configs: what `head_configs` made.
        source: file named in errors.

    Raises:
        FormatError: a head that this release does not know, or an unreadable config.
    """
    for name, value in configs.items():
        if name not in _MAKERS:
            message = f"{source}: unknown head {name!r}; known are {', '.join(_MAKERS)}"
            raise FormatError(message)
        model.heads[name] = _MAKERS[name](model.config.d_model, value, source)
