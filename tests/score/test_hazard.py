from __future__ import annotations

import numpy as np
import pytest
import torch

from chronoward.engine import Prompt
from chronoward.errors import ConfigError
from chronoward.model import HazardConfig, HazardHead, Model, ModelConfig
from chronoward.score.hazard import hazard_estimates

DAY = 1440
YEAR = 365.25 * DAY
HORIZONS = np.array([365, 3650], np.int64) * DAY


def model_with(rates: dict[str, float]) -> Model:
    """A model whose head gives constant hazards (per year), whatever the history."""
    model = Model(
        ModelConfig(vocab_size=7, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=16)
    ).eval()
    config = HazardConfig(
        outcomes=tuple(rates), token_ids=((1,),) * len(rates), first_only=(True,) * len(rates)
    )
    head = HazardHead(16, config)
    with torch.no_grad():
        head.weight.zero_()
        head.log_rate.copy_(torch.tensor(list(rates.values())).log())
    model.heads["hazard"] = head
    return model


def prompt(silence_min: int = 0) -> Prompt:
    tokens, times = np.array([1, 2, 3], np.int32), np.array([5, 5, 9], np.int32)
    times.flags.writeable = False  # as a store's are
    return Prompt(
        subject_id=1, prediction_time_us=0, token_id=tokens, time_min=times, origin_us=0,
        rollouts=range(1), prediction_min=9 + silence_min,
    )  # fmt: skip


def test_a_constant_hazard_gives_the_exponential_risk() -> None:
    model = model_with({"a": 0.3})
    for silence in (0, 500 * DAY):
        row = hazard_estimates(model, [prompt(silence)], ["a"], HORIZONS, None)[0][0]
        assert row.risk == pytest.approx(1 - np.exp(-0.3 * HORIZONS / YEAR), rel=1e-5)
        assert (np.diff(row.cif, axis=1) > 0).all()
        assert row.mc_se.tolist() == [0, 0]


def test_death_competes_where_the_head_has_it() -> None:
    model = model_with({"a": 0.3, "died": 0.5})
    row = hazard_estimates(model, [prompt()], ["a", "died"], HORIZONS, "died")[0]
    expected = 0.3 / 0.8 * (1 - np.exp(-0.8 * HORIZONS / YEAR))
    assert row[0].risk == pytest.approx(expected, rel=1e-5)
    assert row[1].risk == pytest.approx(1 - np.exp(-0.5 * HORIZONS / YEAR), rel=1e-5)


def test_an_outcome_that_the_head_lacks_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="has no outcome b"):
        hazard_estimates(model_with({"a": 1.0}), [prompt()], ["b"], HORIZONS, None)
    with pytest.raises(ConfigError, match="needs a run trained with"):
        hazard_estimates(Model(ModelConfig(vocab_size=7)), [prompt()], ["b"], HORIZONS, None)
