"""The Triton kernels of decode attention in the interpreter, against fp64 sums in NumPy.

fp32 and fp16 only: the interpreter keeps bf16 as bits and multiplies those. fp8 keys are bytes to
the kernels, so they can be tested here.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from chronoward.kernels.decode_attention import Rows, grouped, paged_attention, places, write_pages
from chronoward.kernels.decode_attention.paged import BIASES
from chronoward.kernels.decode_attention.pages import FP8, as_fp8
from tests.kernels.packed_inputs import ATOL, error
from tests.kernels.paged_inputs import Decoding, make_decoding, oracle, plain
from tests.kernels.pairwise import pairwise
from torch import Tensor

# name -> own tokens, number of each row's prefix, tokens of the prefixes
LAYOUTS: dict[str, tuple[list[int], list[int], list[int]]] = {
    "length-1": ([1, 1, 1], [-1, -1, -1], []),
    "one-prefix": ([3, 17, 1, 65], [0, 0, 0, 0], [70]),
    "mixed-prefixes": ([2, 33, 0, 4, 16], [1, -1, 0, 1, 2], [16, 67, 0]),
    "one-long-many-short": ([140, 1, 2, 1], [-1, 0, 0, 0], [5]),
    "all-idle": ([0, 0], [-1, 0], [17]),
}
FACTORS: dict[str, tuple[Any, ...]] = {
    "layout": tuple(LAYOUTS),
    "d_head": (32, 64, 128),
    "bias": BIASES,
    "dtype": (torch.float32, torch.float16),
    "fp8": (False, True),
    "page_tokens": (16, 32),
    "heads": ((1, 1), (6, 2), (2, 2)),
    "strides": ("contiguous", "projection", "last-dimension"),
    "times": ("steps", "equal"),
}
QUICK = pairwise(FACTORS)
_CROSSED = ("layout", "d_head", "bias", "dtype", "fp8")
ALL = [
    dict(zip(_CROSSED, values, strict=True))
    | {
        name: FACTORS[name][(n // step) % len(FACTORS[name])]
        for name, step in (("page_tokens", 1), ("heads", 2), ("strides", 1), ("times", 5))
    }
    for n, values in enumerate(itertools.product(*(FACTORS[name] for name in _CROSSED)))
]


def identity(case: dict[str, Any]) -> str:
    return "-".join(str(x).removeprefix("torch.") for x in case.values())


def attend(case: Decoding, bias: str = "log", backend: str = "triton", **changes: Any) -> Tensor:
    values = {"q": case.q, "pages": case.pages, "rows": case.rows} | changes
    return paged_attention(**values, bias=bias, a=case.a, tau=case.tau, backend=backend)


def assert_close(x: Tensor, theirs: Tensor, truth: Tensor) -> None:
    assert torch.isfinite(x).all()
    floor = ATOL * max(truth.numel() ** 0.5, float(truth.norm()))
    assert error(x, truth) <= 2 * error(theirs, truth) + floor


def check(case: dict[str, Any]) -> None:
    own, prefix, prefixes = LAYOUTS[case["layout"]]
    shape = {n: case[n] for n in ("heads", "d_head", "page_tokens", "dtype", "strides", "times")}
    made = make_decoding(own, prefix, prefixes, **shape, stored=FP8 if case["fp8"] else None)
    truth = oracle(made, case["bias"])
    # fp8: the rounding of what is stored is the larger part, and is in the reference's error
    low = attend(made, case["bias"], "reference") if case["fp8"] else plain(made, case["bias"])
    mine = attend(made, case["bias"])
    assert_close(mine, low, truth)
    idle = made.rows.length == 0
    assert not mine[idle].any()


@pytest.mark.parametrize("case", QUICK, ids=identity)
def test_errors_are_at_most_twice_those_of_plain_torch(case: dict[str, Any]) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=identity)
def test_errors_are_at_most_twice_those_of_plain_torch_everywhere(case: dict[str, Any]) -> None:
    check(case)


def test_neighbors_do_not_change_a_byte_of_a_row() -> None:
    """Not those that share its prefix, nor how many they are."""
    own, prefix = [7, 70, 20, 1, 33, 12, 5], [0, 0, 1, 0, 1, 0, -1]
    case = make_decoding(own, prefix, [66, 20], heads=(2, 1))
    together = attend(case)
    for kept in ([1], [6, 3, 1]):
        some = {n: x[kept] for n, x in case.rows._asdict().items() if not n.startswith("prefix_")}
        tables = {"prefix_table": case.rows.prefix_table, "prefix_length": case.rows.prefix_length}
        some["order"], some["first"] = grouped(some["prefix"])
        alone = attend(case, q=case.q[kept], rows=Rows(**(some | tables)))
        assert torch.equal(alone, together[kept])


def test_a_shared_prefix_says_what_a_copy_for_each_row_says() -> None:
    case = make_decoding([3, 18, 1], [0, 0, 0], [32], heads=(2, 1))
    copies = case.rows._replace(
        table=torch.cat([case.rows.prefix_table[:, :2].expand(3, -1), case.rows.table], 1),
        length=case.rows.length + 32,
        prefix=torch.full((3,), -1, dtype=torch.int32),
    )
    shared, copied = attend(case), attend(case, rows=copies)
    assert error(shared, copied) <= ATOL * float(shared.norm())


@pytest.mark.parametrize("stored", [torch.float16, FP8], ids=str)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_written_tokens_lie_where_the_rows_say(stored: torch.dtype, backend: str) -> None:
    own = [1, 16, 0, 17]
    case = make_decoding(own, [-1] * 4, [], heads=(6, 3), dtype=torch.float16, stored=stored)
    place = places(case.rows, 16)
    assert place[2] == 0
    k, v = (torch.randn(4, 3, 64)[..., :32].half() for _ in range(2))
    write_pages(k, v, case.pages, place, backend=backend)
    parts = ((case.pages.keys, case.pages.key_scale), (case.pages.values, case.pages.value_scale))
    for row, length in enumerate(own):
        page, slot = case.rows.table[row, max(length - 1, 0) // 16], max(length - 1, 0) % 16
        for (numbers, scales), x in zip(parts, (k, v), strict=True):
            found = numbers[page, :, slot]
            if stored == FP8:
                packed, scale = as_fp8(x[row])
                assert torch.equal(scales[page, :, slot], scale)
                assert torch.equal(found.view(torch.uint8), packed.view(torch.uint8))
            else:
                assert torch.equal(found, x[row])


def test_offsets_beyond_int32_are_reached() -> None:
    """The pages in use lie past element 2**31 of the keys and of the values."""
    case = make_decoding([20, 3], [0, -1], [18], heads=(2, 2), d_head=128, dtype=torch.float16)
    near = attend(case)
    moved = 2**31 // (2 * 16 * 128) + 5
    torch.utils.deterministic.fill_uninitialized_memory = False  # few of the pages are touched
    size = (moved + len(case.pages.keys), *case.pages.keys.shape[1:])
    far = [torch.empty(size, dtype=torch.float16) for _ in range(2)]
    torch.utils.deterministic.fill_uninitialized_memory = True
    for x, kept in zip(far, (case.pages.keys, case.pages.values), strict=True):
        x[moved:] = kept
    clock = torch.zeros((size[0], 16), dtype=torch.int32)
    clock[moved:] = case.pages.time_min
    pages = case.pages._replace(keys=far[0], values=far[1], time_min=clock)
    rows = case.rows._replace(
        table=case.rows.table + moved, prefix_table=case.rows.prefix_table + moved
    )
    assert torch.equal(attend(case, pages=pages, rows=rows), near)


def test_every_fp8_number_is_unpacked_exactly() -> None:
    """Keys of one number each beside zeros: their scores are the numbers."""
    codes = torch.tensor([x for x in range(256) if x & 0x7F != 0x7F], dtype=torch.uint8)
    numbers = codes.view(FP8).float()
    case = make_decoding([len(codes)], [-1], [], heads=(1, 1), stored=FP8)
    case.pages.keys.view(torch.uint8).zero_()
    case.pages.values.view(torch.uint8).zero_()
    case.pages.value_scale.fill_(1.0)
    place = torch.arange(len(codes))
    page, slot = case.rows.table[0, place // 16].long(), place % 16
    case.pages.values.view(torch.uint8)[page, 0, slot, 0] = codes
    case.pages.key_scale.fill_(0.0)  # all keys weigh the same: the output is the mean
    mean = attend(case, "none")[0, 0, 0]
    assert mean == pytest.approx(float(numbers.double().mean()), abs=1e-5)
    for code in (0x01, 0x07, 0x08, 0x7E, 0x81, 0xFE):
        alone = case.rows._replace(length=torch.ones(1, dtype=torch.int32))
        case.pages.values.view(torch.uint8)[page[0], 0, slot[0], 0] = code
        value = torch.tensor([code], dtype=torch.uint8).view(FP8).float()
        assert attend(case, "none", rows=alone)[0, 0, 0] == value


def test_the_operators_pass_opcheck() -> None:
    torch.use_deterministic_algorithms(False)  # opcheck compares memory nobody has written
    case = make_decoding([3, 17], [0, -1], [18])
    utils = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.chronoward.decode_attention.default,
        (case.q, list(case.pages), list(case.rows), case.a, case.tau, "log"),
        test_utils=utils,
    )
    k, v = torch.randn(2, 1, 32), torch.randn(2, 1, 32)
    pages, place = case.pages, places(case.rows, 16)
    torch.library.opcheck(
        torch.ops.chronoward.decode_attention_write.default,
        (k, v, pages.keys.nan_to_num(), pages.values.nan_to_num(), pages.time_min, place),
        test_utils=utils,
    )

    def attention(q: Tensor) -> Tensor:
        return attend(case, q=q).square().sum()

    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(case.q), attention(case.q))
