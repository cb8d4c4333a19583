from __future__ import annotations

import json
from typing import TYPE_CHECKING

from chronoward.data import prepare
from chronoward.data.simulate import SimulationConfig, simulate

if TYPE_CHECKING:
    from pathlib import Path


def test_ingestion_finds_every_planted_fault_and_no_other(tmp_path: Path) -> None:
    simulate(tmp_path / "omop", 300, seed=1)
    expected = json.loads((tmp_path / "omop" / "traps.json").read_text())["rules"]
    found = prepare(tmp_path / "omop", tmp_path / "work").report["rules"]
    assert found == expected
    assert len(expected) >= 40


def test_a_clean_clinic_has_only_what_happens_by_itself(tmp_path: Path) -> None:
    config = SimulationConfig.from_dict({"records": {"trap_ratio": 0.0}})
    simulate(tmp_path / "omop", 150, seed=1, config=config)
    found = prepare(tmp_path / "omop", tmp_path / "work").report["rules"]
    assert set(found) <= {
        "ed_linked",
        "ingredient_rollup",
        "multi_ingredient",
        "not_about_a_person",
        "stamped_diagnosis",
    }
    assert found == json.loads((tmp_path / "omop" / "traps.json").read_text())["rules"]
