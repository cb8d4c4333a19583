"""FlexAttention with our mask and bias says what the reference says (forward; no GPU needed)."""

from __future__ import annotations

import pytest
import torch
from chronoward.kernels.varlen_attention import BIASES, varlen_attention
from tests.kernels.packed_inputs import ATOL, error, make_inputs, visit_ends


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "visits"])
@pytest.mark.parametrize("bias", BIASES)
def test_flex_says_what_the_reference_says(bias: str, causal: bool) -> None:
    bounds = [0, 3, 3, 40, 61]
    inputs = make_inputs(bounds, tail=3, d_head=16)
    options = {
        "kv_end": None if causal else visit_ends(bounds, 64),
        "bias": bias,
        "a": inputs["a"],
        "tau": inputs["tau"],
    }
    names = ("q", "k", "v", "time_min", "cu_seqlens")
    with torch.no_grad():
        flex, reference = (
            varlen_attention(*(inputs[n] for n in names), backend=backend, **options)
            for backend in ("flex", "reference")
        )
    assert error(flex, reference) <= 4 * ATOL * float(reference.norm())
