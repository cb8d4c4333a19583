"""Risks of a hazard head in one pass, without sampling.

F(t) of one outcome with death competing where the head also has death (an outcome of kind
`death`); else 1 − exp(−Λ), which overstates the risk of those who will die first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from chronoward.engine.decode import one_thread
from chronoward.errors import ConfigError
from chronoward.score.estimators import N_CURVE, RowEstimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from chronoward.engine import Prompt
    from chronoward.model import HazardHead, Model

MINUTES_PER_YEAR = 365.25 * 1440
_BATCH_TOKENS = 16_384


def hazard_head(model: Model, names: Sequence[str]) -> HazardHead:
    """The head that answers for all the outcomes.

    Raises:
        ConfigError: the model has no hazard head, or one without an outcome asked for.
    """
    from chronoward.model import HazardHead

    head = dict(model.heads.items()).get("hazard")
    if not isinstance(head, HazardHead):
        message = "estimator hazard needs a run trained with --objective hazard"
        raise ConfigError(message)
    if missing := sorted(set(names) - set(head.config.outcomes)):
        message = f"the run's hazard head has no outcome {', '.join(missing)}"
        raise ConfigError(message)
    return head


@torch.inference_mode()
def last_hidden(model: Model, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Hidden state of each prefix's last token.  # (n, d_model)

    Each prefix is its own forward pass over its own length, so no row sees its neighbours.
    """
    states = []
    with one_thread():
        for prompt in prompts:
            bounds = torch.tensor([0, len(prompt.token_id)], dtype=torch.int32)
            tokens = torch.from_numpy(prompt.token_id.astype(np.int64))
            times = torch.from_numpy(prompt.time_min.astype(np.int32))  # a store's are read-only
            states.append(model(tokens, times, bounds)[-1])
    return torch.stack(states)


@torch.inference_mode()
def hazard_estimates(
    model: Model,
    prompts: Sequence[Prompt],
    names: Sequence[str],
    horizons_min: NDArray[np.int64],
    death: str | None,
) -> list[list[RowEstimate]]:
    """Estimates of each prompt for each outcome, from the hazards after its last token.

    Hazards are integrated from the prediction time on: the silence before it has been survived.

    Args:
        death: name of the head's death outcome, None where it has none.
    """
    head = hazard_head(model, names)
    log_hazard = head(last_hidden(model, prompts)).double()  # (n, K, pieces)
    silence = torch.tensor(
        [(p.prediction_min or 0) - int(p.time_min[-1]) for p in prompts], dtype=torch.float64
    )
    curves = {}
    for name in names:
        k = head.config.outcomes.index(name)
        rates = [log_hazard[:, k].exp()]
        if death is not None and name != death:
            rates.append(log_hazard[:, head.config.outcomes.index(death)].exp())
        curves[name] = [
            _incidence(head, rates, silence / MINUTES_PER_YEAR, float(h) / MINUTES_PER_YEAR)
            for h in horizons_min
        ]
    nothing = np.zeros(len(horizons_min))
    return [
        [
            _estimate(np.stack([curve[row].numpy() for curve in curves[name]]), nothing)
            for name in names
        ]
        for row in range(len(prompts))
    ]


def _incidence(
    head: HazardHead, rates: list[torch.Tensor], start: torch.Tensor, horizon: float
) -> torch.Tensor:
    """Cumulative incidence of rates[0] by each share of the horizon, rates[1] competing.

    Inside one step of the curve both hazards keep their shares; the step is a twentieth of the
    horizon, the pieces are months to years.  # (n, N_CURVE)
    """
    free = torch.ones_like(start)
    done = torch.zeros_like(start)
    points = []
    for step in range(N_CURVE):
        begin = start + horizon * step / N_CURVE
        exposure = head.exposure(begin, begin + horizon / N_CURVE).double()
        parts = [(rate * exposure).sum(-1) for rate in rates]
        whole = torch.stack(parts).sum(0).clamp(min=1e-300)
        done = done + free * -torch.expm1(-whole) * parts[0] / whole
        free = free * torch.exp(-whole)
        points.append(done)
    return torch.stack(points, dim=1)


def _estimate(cif: NDArray[np.float64], nothing: NDArray[np.float64]) -> RowEstimate:
    risk = cif[:, -1]
    return RowEstimate(
        n_rollouts=0,
        risk=risk,
        mc_se=nothing,
        undetermined=nothing,
        lower=risk,
        upper=risk,
        cif=cif,
        variance=nothing,
    )
