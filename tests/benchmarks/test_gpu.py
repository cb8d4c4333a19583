"""The GPU benchmark as far as a CPU can show it: its parts, and the measures made small."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from benchmarks.gpu_rows import packed_rows

from benchmarks import gpu, gpu_attention, gpu_generation, gpu_training, peers
from chronoward.engine import engine as choice

if TYPE_CHECKING:
    from pathlib import Path

LINE = json.dumps(
    {"id": "T3", "metric": "log_ms", "value": 1.5, "unit": "ms", "against": None, "ratio": None}
)


def part(source: str, seconds: float = 60) -> gpu.Part:
    return gpu.Part((sys.executable, "-u", "-c", source), seconds)


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, parts: dict[str, gpu.Part]) -> int:
    monkeypatch.setattr(gpu, "PARTS", parts)
    return gpu.main(["--results-dir", str(folder)])


def test_parts_that_fail_or_take_too_long_lose_nothing_of_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {
        "tests": part("pass"),
        "hangs": part(f"import time; print({LINE!r}); time.sleep(600)", seconds=3),
        "breaks": part("raise RuntimeError('the reason')"),
        "works": part(f"print('noise'); print({LINE!r})"),
    }
    assert run(monkeypatch, tmp_path, parts) == 1
    said = capsys.readouterr().out
    for words in ("hangs    cut off", "breaks   failed (1)", "works    passed", "log_ms"):
        assert words in said
    kept = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    (log,) = tmp_path.glob("gpu-*.log")
    assert [line["log"] for line in kept] == [log.name] * 2
    assert "the reason" in log.read_text()


def test_no_line_is_kept_when_a_test_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"tests": part("raise SystemExit(1)"), "works": part(f"print({LINE!r})")}
    assert run(monkeypatch, tmp_path, parts) == 1
    assert "not kept" in capsys.readouterr().out
    assert not (tmp_path / "gpu.jsonl").exists()


def test_all_parts_together_end_within_nine_minutes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "TOTAL_SECONDS", 7.0)
    parts = {
        "tests": part("pass"),
        "first": part("import time; time.sleep(600)"),
        "second": part("pass"),
    }
    assert run(monkeypatch, tmp_path, parts) == 1
    said = capsys.readouterr().out
    assert "first    cut off" in said
    assert "second   passed" not in said


def test_rows_of_the_measures_are_full_of_whole_segments() -> None:
    rows = packed_rows(16)
    assert len(rows.time_min) == 16 * 2048
    assert int(rows.cu_seqlens[-1]) == 16 * 2048
    assert rows.n_used > 0.98 * 16 * 2048
    assert set(range(0, 16 * 2048 + 1, 2048)) <= set(rows.cu_seqlens.tolist())
    lengths = rows.cu_seqlens.diff()
    assert 150 < float(lengths[lengths > 7].float().median()) < 260
    assert rows.longest <= 2048


@pytest.mark.parametrize("bias", ["none", "log", "linear"])
def test_the_check_before_t3_passes_and_can_fail(
    bias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = gpu_attention.Shape(
        n_rows=2,
        row_tokens=128,
        n_heads=2,
        d_head=32,
        device="cpu",
        dtype=torch.float32,
        backend="cpu",
    )
    inputs = gpu_attention.Inputs(shape)
    assert gpu_attention.check(inputs, shape, bias) < 1e-5
    reference = gpu_attention.varlen_attention_reference
    monkeypatch.setattr(gpu_attention, "varlen_attention_reference", lambda *x: 1.1 * reference(*x))
    with pytest.raises(AssertionError, match=f"bias {bias} differs from the reference by"):
        gpu_attention.check(inputs, shape, bias)


def test_t4_measures_a_tiny_model_on_a_cpu() -> None:
    shape = gpu_training.Shape(
        preset="tiny", vocab_size=50, n_rows=(1,), row_tokens=256, device="cpu", compiled=False
    )
    lines = list(gpu_training.measure(shape))
    assert [x.metric for x in lines] == ["tokens", "tokens_vs_gpt2", "mfu"]
    flop = lines[0].extra["flop_per_token"]
    assert lines[2].value == pytest.approx(lines[0].value * flop / 989e12)


TINY = gpu_generation.Shape(
    preset="tiny", vocab_size=60, n_rows=4, contexts=(32,), prefix_tokens=20, rollouts=3,
    n_prefixes=2, most_hours=2, most_tokens=90, n_steps=4, device="cpu", dtype=torch.float32,
)  # fmt: skip


@pytest.fixture
def a_cpu_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines keep their rollouts on the device, with its reference kernels."""
    monkeypatch.setattr(choice, "decodes_on_device", lambda _: True)


@pytest.mark.usefixtures("a_cpu_is_a_gpu")
def test_g5_measures_a_tiny_model_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = ("step_ms", "batch_step_ms", "job_seconds", "job_batch_seconds")
    for name in ways:
        monkeypatch.setattr(gpu_generation.hugging_face, name, lambda *_: 7.0)
    lines = list(gpu_generation.measure(TINY))
    names = ["gpu_tokens_rate", "rollouts", "step_32_float32", "step_32_fp8"]
    others = [
        f"{of}_vs_{way}"
        for of in ("rollouts", "step_32")
        for way in ("static_cache", "generate_batch")
    ]
    assert [x.metric for x in lines] == names + others
    assert [x.id for x in lines] == ["G3"] + ["G5"] * 7
    assert lines[1].extra["jobs"] == 6
    assert lines[1].extra["tokens"] >= 6
    assert 0 < lines[1].extra["slot_use"] <= 1
    step = lines[2].extra
    n_bytes = 2 * 2 * 96 * 4  # keys and values, layers, width, fp32
    assert step["kv_gb"] == pytest.approx(4 * step["mean_context"] * n_bytes / 1e9)
    assert lines[3].extra["kv_gb"] < lines[2].extra["kv_gb"] / 3
    assert lines[2].ratio == pytest.approx(7.0 / step["ms"])
    assert lines[6].ratio == lines[7].ratio == pytest.approx(7.0 / step["ms"])
    assert lines[4].value == lines[1].value
    assert lines[4].ratio == lines[5].ratio == lines[1].ratio


def test_what_hugging_face_cannot_do_or_has_no_time_for_is_a_reason() -> None:
    def fail() -> float:
        raise RuntimeError("no such cache")

    races = [gpu_generation.Race("m", "static cache", 10, 2.0, way) for way in (fail, lambda: 4.0)]
    broken, good = gpu_generation.measure_races(TINY, races, until=float("inf"))
    assert (broken.value, broken.ratio) == (5.0, None)
    assert broken.extra["fault"] == "RuntimeError: no such cache"
    assert (good.baseline, good.ratio, good.extra["fault"]) == (2.5, 2.0, None)
    (late,) = gpu_generation.measure_races(TINY, races[1:], until=float("-inf"))
    assert (late.ratio, late.extra["fault"]) == (None, "no time left")


_ASK_HUGGING_FACE = """
import json, sys
import torch
sys.path.insert(0, sys.argv[2])
from benchmarks import gpu_hugging_face as hf
torch.set_num_threads(1)
peer = hf.Peer(vocab_size=60, d_model=32, n_layers=2, n_heads=2, n_rows=4, device="cpu",
               dtype=torch.float32)
lengths = [3, 5, 9, 2, 6, 1]
ways = {
    "dynamic": lambda: hf.step_ms(peer, 32), "static": lambda: hf.step_ms(peer, 32, "static"),
    "batch": lambda: hf.batch_step_ms(peer, 32),
    "job": lambda: hf.job_seconds(peer, 20, lengths, "static"),
    "batch job": lambda: hf.job_batch_seconds(peer, 20, 3, lengths),
}
found = {name: hf.or_reason(way) for name, way in ways.items()}
json.dump(found, open(sys.argv[1], "w"))
"""


@pytest.mark.slow
@pytest.mark.peer
def test_hugging_faces_ways_run_with_the_installed_transformers(repository: Path) -> None:
    found = peers.ask("transformers", _ASK_HUGGING_FACE, str(repository))
    for name, (seconds, fault) in found.items():
        assert fault is None, f"{name}: {fault}"
        assert seconds > 0


@pytest.mark.usefixtures("a_cpu_is_a_gpu")
def test_the_jobs_rollouts_are_of_different_lengths() -> None:
    _, lengths, engine = gpu_generation.run_job(TINY)
    assert engine.device is not None
    assert len(lengths) == 6
    assert len(set(lengths)) > 2
    assert max(lengths) <= TINY.most_tokens
    assert engine.statistics.prefilled_tokens == 2 * (TINY.prefix_tokens - 1)


def test_the_check_before_g5_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = gpu_generation.seated(TINY, 32)
    assert gpu_generation.check(rollouts, 4) < 1e-5
    attend = gpu_generation.paged_attention
    monkeypatch.setattr(
        gpu_generation,
        "paged_attention",
        lambda *x, backend=None, **y: attend(*x, **y) * (1.0 if backend else 1.1),
    )
    with pytest.raises(AssertionError, match="decode attention differs from the reference by"):
        gpu_generation.check(rollouts, 4)
