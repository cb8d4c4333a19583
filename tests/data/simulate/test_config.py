from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from chronoward.data.simulate import SimulationConfig, draw_config, load_config
from chronoward.data.simulate.diseases import compile_chains
from chronoward.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    config = draw_config(5)
    path = tmp_path / "clinic.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config.to_dict()))))
    assert load_config(path) == config


def test_drawn_clinics_differ_in_every_rate_and_half_life() -> None:
    first, second, base = draw_config(1), draw_config(2), SimulationConfig()
    for section in ("airway", "heart", "dementia", "knee", "cancer", "diabetes", "independent"):
        for name, value in vars(getattr(base, section)).items():
            if name.endswith(("rate", "rates", "half_life", "half_lives")):
                one, two = (getattr(getattr(c, section), name) for c in (first, second))
                assert one != two, (section, name)
                assert one != value, (section, name)


def test_drawn_clinics_are_possible() -> None:
    for seed in (*range(20), 4116014607):  # the last one's first draw is not
        compile_chains(draw_config(seed))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hearts: {onset_rate: 1}", "no section"),
        ("heart: {onset: 1}", "not a field"),
        ("heart: {onset_rate: -1}", "finite number"),
        ("heart: {onset_rate: many}", "finite number"),
        ("cancer: {diagnosis_rates: [1, 2]}", "needs 3 numbers"),
        ("censoring: {level: some}", "none, light, heavy"),
        ("records: {n_background_codes: 10.5}", "whole number"),
        ("[1, 2]", "must hold a mapping"),
        ("{", "not valid YAML"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "clinic.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_rates_that_fill_more_than_a_week_are_refused() -> None:
    config = SimulationConfig.from_dict({"visits": {"burst_visit_probability": 0.99}})
    with pytest.raises(ConfigError, match="add up"):
        compile_chains(config)


def test_the_shipped_clinic_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert load_config(path) == SimulationConfig()
