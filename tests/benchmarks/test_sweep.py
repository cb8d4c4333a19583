from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from benchmarks.sweep import Arm, Sweep, against_base, mean_and_half_width
from tests.train.test_run import write_store

from benchmarks import ablation, scaling

if TYPE_CHECKING:
    from pathlib import Path

TINY = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "d_ff": 24}


def line(arm: str, seed: int, bits: float, data_set: str = "clinic") -> dict:
    return {
        "data_set": data_set,
        "arm": arm,
        "factor": arm,
        "seed": seed,
        "bits_per_event": bits,
        "bits_per_token": {"all": bits, "time": 2 * bits},
        "auroc": {"heart_failure": 0.5 + bits / 100, "sim_spontaneous": None},
        "n_parameters": 1000,
    }


@pytest.fixture
def lines() -> list[dict]:
    made = [line("base", s, 5.0 + s) for s in range(3)]
    made += [line("bias log", s, 5.0 + s + d) for s, d in enumerate((0.1, 0.2, 0.3))]
    return [*made, line("bias log", 7, 1.0)]  # a seed that the base lacks


def test_arms_are_compared_with_the_base_of_the_same_seed(lines: list[dict]) -> None:
    found = against_base(lines, "base", lambda x: x["bits_per_event"])
    mean, half = found["bias log", "clinic"]
    assert mean == pytest.approx(0.2)
    assert half == pytest.approx(4.302653 * 0.1 / 3**0.5)  # Student's t, two degrees of freedom
    assert mean_and_half_width([1.0])[1] != mean_and_half_width([1.0])[1]


def test_each_arm_differs_from_the_base_in_one_factor() -> None:
    base, *others = ablation.arms(500)
    assert base.model == {}
    for arm in others:
        changed = [arm.model != {}, arm.values != base.values, arm.train != base.train]
        assert sum(changed) == 1, arm.name
        assert len(arm.model) <= 1
    assert base.train["max_steps"] * ablation.ROW_TOKENS == pytest.approx(1e6, rel=0.05)


def test_pages_are_made_of_the_lines(
    lines: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "lines.jsonl"
    kept.write_text("".join(json.dumps(x) + "\n" for x in lines))
    for module in (ablation, scaling):
        monkeypatch.setattr(module, "PAGE", tmp_path / "page.md")
        monkeypatch.setattr(module, "PLOT", tmp_path / "plot.svg")
        if module is scaling:
            sizes = [f"{size}, {n} steps" for size in scaling.SIZES for n in (125, 250, 500)]
            more = [line(name, 0, 9.0 - i / 10) for i, name in enumerate(sizes)]
            more = [x | {"factor": x["arm"].split(",")[0]} for x in more]
            kept.write_text("".join(json.dumps(x) + "\n" for x in more))
        module.main(["page", "--lines", str(kept), "--work-dir", str(tmp_path / "w")])
        assert (tmp_path / "plot.svg").read_text().count("<svg") == 1
        text = (tmp_path / "page.md").read_text()
        if module is ablation:
            assert "| bias log | +0.200 ± 0.248 | – | – | – | +0.002 ± 0.002 |" in text
        else:
            assert "- clinic: bits ∝ FLOP^(−" in text


def test_a_sweep_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "lines.jsonl"
    sweep = Sweep("test", tmp_path / "work", kept)
    made = []

    def make(_source: Path, out: Path, **_: object) -> None:
        made.append(write_store(out, n_train=45, n_held_out=6))

    monkeypatch.setattr("benchmarks.sweep.tokenize", make)
    monkeypatch.setattr("benchmarks.sweep.data_folder", lambda: tmp_path)
    short = {"max_steps": 3, "row_tokens": 128, "rows_per_step": 1}
    arms = [Arm(name=n, factor="x", model=TINY, train=short) for n in ("base", "other")]
    sweep.run(arms[:1], ["toy"], [0])
    first = kept.read_text()
    sweep.run(arms, ["toy"], [0])
    assert kept.read_text().startswith(first)
    assert [x["arm"] for x in sweep.lines()] == ["base", "other"]
    assert made == [tmp_path / "work" / "tokens_toy_fused"]  # once, for both arms
    for x in sweep.lines():
        assert 0 < x["bits_per_token"]["all"] < x["bits_per_event"]


def test_the_frontier_is_what_nothing_cheaper_comes_up_to() -> None:
    def run(size: str, n_steps: int, n_parameters: int, bits: float) -> dict:
        return {
            "data_set": "clinic",
            "arm": f"{size}, {n_steps} steps",
            "factor": size,
            "n_parameters": n_parameters,
            "bits_per_token": {"all": bits},
        }

    lines = [run("small", n, 1, bits) for n, bits in ((1, 8.0), (2, 4.0), (4, 3.0))]
    lines += [run("large", n, 8, bits) for n, bits in ((1, 2.0), (2, 2.5))]
    found = scaling.frontier(lines, "clinic")
    assert [bits for _, bits in found] == [8.0, 4.0, 3.0, 2.0]
    assert scaling.frontier(lines, "elsewhere") == []
    assert scaling.power_law([(x, 3 * x**-0.25) for x in (1.0, 10.0, 100.0)]) == pytest.approx(0.25)
