"""Whether a run learned what rollouts need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chronoward.errors import ConfigError
from chronoward.model import read_config


def check_trained(run: Path | str, *, rolls_out: bool = True) -> dict[str, Any]:
    """The run's config.

    Args:
        run: RUN folder.
        rolls_out: whether timelines will be drawn from it, token by token.

    Raises:
        ConfigError: trained with repeat weights, so that its recurrences come out too rare; or
            without `next_event`, and so without a distribution to draw from.
        FormatError: not a finished run.
    """
    config = read_config(Path(run))
    training = config["training"]
    weight = training.get("repeat_weight", "none")
    if weight != "none":
        message = (
            f"{run} was trained with repeat_weight {weight}: weighted cross-entropy learns too few "
            "recurrences, so risks and rollouts would be wrong; train with repeat_weight none"
        )
        raise ConfigError(message)
    objectives = training.get("config", {}).get("objectives", {"next_event": 1.0})
    if rolls_out and "next_event" not in objectives:
        message = (
            f"{run} was trained for {', '.join(objectives)} without next_event: it never learned "
            "which token comes next, so nothing can be drawn from it; train with "
            "--objective next_event and these"
        )
        raise ConfigError(message)
    return config
