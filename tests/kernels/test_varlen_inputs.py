"""What attention refuses, with which class, and that the message says what was expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from chronoward.kernels.varlen_attention import check_layout, tiles, varlen_attention
from chronoward.kernels.varlen_attention.layout import check_shapes
from tests.kernels.packed_inputs import make_inputs
from torch import Tensor

from chronoward.errors import ConfigError, DataError, LimitError


def attend(inputs: dict[str, Tensor], **options: Any) -> Tensor:
    q, k, v = (inputs[name] for name in ("q", "k", "v"))
    return varlen_attention(q, k, v, inputs["time_min"], inputs["cu_seqlens"], **options)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("bounds", "match"),
    [
        ([0, 5, 4, 9], "cu_seqlens must not fall, but does at entry 2"),
        ([0, 5, 10], r"cu_seqlens must lie in 0\.\.9"),
        ([-1, 5, 9], r"cu_seqlens must lie in 0\.\.9"),
    ],
)
def test_bounds_that_fall_or_leave_the_row_are_refused(
    bounds: list[int], match: str, backend: str
) -> None:
    inputs = make_inputs([0, 5, 9])
    inputs["cu_seqlens"] = torch.tensor(bounds, dtype=torch.int32)
    with pytest.raises(DataError, match=match):
        attend(inputs, backend=backend)


@pytest.mark.parametrize("name", ["time_min", "cu_seqlens", "kv_end"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_times_and_bounds_of_another_dtype_are_refused(name: str, dtype: torch.dtype) -> None:
    inputs = make_inputs([0, 5, 9])
    inputs["kv_end"] = torch.arange(1, 10, dtype=torch.int32)
    inputs[name] = inputs[name].to(dtype)
    with pytest.raises(DataError, match=f"{name} must be int32"):
        attend(inputs, kv_end=inputs["kv_end"])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_times_that_fall_inside_a_segment_are_refused_and_between_segments_are_not(
    backend: str,
) -> None:
    inputs = make_inputs([0, 5, 9])
    inputs["time_min"][5:] -= 30_000_000
    attend(inputs, backend=backend)
    inputs["time_min"][7] = 0
    with pytest.raises(DataError, match="time_min falls inside a segment at token 7"):
        attend(inputs, backend=backend)


def test_times_further_apart_than_int32_are_refused() -> None:
    times = torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32)
    with pytest.raises(DataError, match="spans more than int32 minutes inside a segment at token"):
        check_layout(times, torch.tensor([0, 2], dtype=torch.int32))
    check_layout(times, torch.tensor([0, 1, 2], dtype=torch.int32))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("ends", "match"),
    [
        ([1, 2, 2, 4, 5, 6], "kv_end must lie past its token .* at token 2"),
        ([1, 2, 4, 4, 5, 6], "not past the end of its segment at token 2"),
        ([3, 2, 3, 4, 5, 6], "kv_end falls inside a segment at token 1"),
    ],
)
def test_a_kv_end_out_of_range_is_refused(ends: list[int], match: str, backend: str) -> None:
    inputs = make_inputs([0, 3, 6])
    with pytest.raises(DataError, match=match):
        attend(inputs, kv_end=torch.tensor(ends, dtype=torch.int32), backend=backend)


def test_entries_of_tokens_outside_segments_are_not_read() -> None:
    inputs = make_inputs([0, 3], tail=3)
    inputs["time_min"][3:] = torch.tensor([9, -9, 0])
    attend(inputs, kv_end=torch.tensor([1, 2, 3, -7, 99, 0], dtype=torch.int32))


@pytest.mark.parametrize(
    ("d_head", "dtype"), [(48, torch.float16), (256, torch.bfloat16), (64, torch.float64)]
)
def test_the_triton_kernels_name_what_they_support(d_head: int, dtype: torch.dtype) -> None:
    q = torch.empty(4, 2, d_head, dtype=dtype, device="meta")
    assert not tiles.supports(q)
    with pytest.raises(ConfigError, match=r"\(32, 64, 128\) in float32, float16, bfloat16, got"):
        tiles.check(q)


def test_backends_refuse_what_they_do_not_do() -> None:
    inputs = make_inputs([0, 5])
    time_bias = {"bias": "log", "a": inputs["a"], "tau": inputs["tau"]}
    with pytest.raises(ConfigError, match="backend must be one of"):
        attend(inputs, backend="cuda")
    with pytest.raises(ConfigError, match="'triton' needs a CUDA device, got cpu"):
        attend(inputs, backend="triton")
    with pytest.raises(ConfigError, match="'flash' needs a CUDA device, got cpu"):
        attend(inputs, backend="flash")
    with pytest.raises(ConfigError, match="'flash' is causal and has no time bias"):
        attend(inputs, backend="flash", **time_bias)
    with pytest.raises(ConfigError, match="'flash' is causal and has no time bias"):
        attend(inputs, backend="flash", kv_end=torch.arange(1, 6, dtype=torch.int32))
    time_bias["a"] = inputs["a"].requires_grad_()
    with pytest.raises(ConfigError, match="'flex' gives no gradient of a and tau"):
        attend(inputs, backend="flex", **time_bias)


def test_arguments_that_do_not_fit_each_other_are_refused() -> None:
    inputs = make_inputs([0, 5])
    with pytest.raises(ConfigError, match="needs a and tau with one entry for each of 4 heads"):
        attend(inputs, bias="log")
    with pytest.raises(ConfigError, match="bias must be one of"):
        attend(inputs, bias="cubic")
    with pytest.raises(DataError, match="3 query heads are not a multiple of 2 key heads"):
        attend({**inputs, "q": inputs["q"][:, :3]})
    with pytest.raises(DataError, match=r"k and v must be \(T, Hkv, D\)"):
        attend({**inputs, "v": inputs["v"][:3]})
    with pytest.raises(DataError, match="must share one of float64, float32"):
        attend({**inputs, "k": inputs["k"].half()})
    whole = {name: inputs[name].to(torch.int32) for name in ("q", "k", "v")}
    with pytest.raises(DataError, match=r"got torch\.int32"):
        attend(inputs | whole)
    with pytest.raises(DataError, match="one entry for each of 5 tokens"):
        attend({**inputs, "time_min": inputs["time_min"][:3]})
    with pytest.raises(DataError, match=r"cu_seqlens must be \(n \+ 1,\)"):
        attend({**inputs, "cu_seqlens": inputs["cu_seqlens"][:0]})


def test_more_tokens_than_positions_can_count_are_refused() -> None:
    from chronoward.kernels.varlen_attention.layout import Layout

    def tensor(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    q = tensor(2**31, 1, 32, dtype=torch.float16)
    with pytest.raises(LimitError, match="at most 2147483647 tokens a call"):
        check_shapes(q, q, q, Layout(tensor(2**31), tensor(2), None))
