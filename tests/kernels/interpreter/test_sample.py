"""The Triton sampler in the interpreter against the C++ sampler, draw by draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chronoward.kernels.sample import Column, Fault, kernel, sample
from scipy.stats import chi2
from tests.engine.toy import DAY, LONG_GAP, V, toy_grammar
from tests.kernels.sampling import CASES, IN_VISIT, Both, faulty, toy_both

from chronoward import philox

# case -> rows, steps
QUICK = {
    "plain": (2, 2),
    "tempered": (1, 1),
    "all-cuts": (1, 1),
    "silent": (2, 3),
    "silent-beyond-every-gap": (1, 2),
    "near-the-cap": (1, 2),
}


def compare(case: str, n_rows: int, n_steps: int) -> None:
    both = toy_both(case, n_rows)
    draw = np.random.default_rng(2)
    for _ in range(n_steps):
        shape = (n_rows, len(both.tables.token_class))
        logits = torch.from_numpy(draw.normal(size=shape).astype(np.float32))
        logits[:, LONG_GAP] += 2
        if len(both.running()) == 0:
            break
        core = both.core_step(logits)
        draws = sample(logits, both.slots, both.keys, both.tables, both.rule, backend="triton")
        both.assert_same(draws, core)


@pytest.mark.parametrize("case", QUICK)
def test_the_kernels_draw_what_the_core_draws(case: str) -> None:
    compare(case, *QUICK[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_kernels_draw_what_the_core_draws_for_longer(case: str) -> None:
    compare(case, 3, 8)


def test_a_cut_among_equals_keeps_the_smaller_ids() -> None:
    """Several blocks, all logits equal: three of top-k, none of the rest."""
    both = Both(toy_grammar(n_more_codes=60), IN_VISIT, 1, top_k=3)
    assert kernel.block_tokens(V + 60) < V + 60
    logits = torch.zeros(1, V + 60)
    core = both.core_step(logits)
    draws = sample(logits, both.slots, both.keys, both.tables, both.rule, backend="triton")
    both.assert_same(draws, core)
    np.testing.assert_allclose(draws.log_p, np.log(1 / 3), atol=1e-6)


def test_rows_that_cannot_go_on_say_why_and_leave_the_others_alone() -> None:
    both = Both(toy_grammar(), IN_VISIT, 6)
    logits, expected = faulty(both)
    draws = sample(logits, both.slots, both.keys, both.tables, both.rule, backend="triton")
    found = {row: Fault(x) for row, x in enumerate(both.slots[:, Column.FAULT].tolist()) if x}
    assert found == expected
    assert draws.status.tolist() == [0, 7, 7, 7, 0, 7]
    assert draws.token[[0, 4]].gt(0).all()


@pytest.mark.slow
def test_draws_follow_the_legal_softmax() -> None:
    """Chi-square over 400 rows of one step, none of them a token that is not legal."""
    n = 400
    logits = torch.linspace(0, 1, V).repeat(n, 1)
    both = Both(toy_grammar(), IN_VISIT, n, clock=DAY)
    _, tokens, _, _ = core = both.core_step(logits)
    draws = sample(logits, both.slots, both.keys, both.tables, both.rule, backend="triton")
    both.assert_same(draws, core)
    legal = np.unique(tokens)
    expected = np.exp(np.linspace(0, 1, V)[legal])
    expected *= n / expected.sum()
    counts = np.bincount(draws.token.numpy(), minlength=V)
    assert counts[legal].sum() == n
    statistic = ((counts[legal] - expected) ** 2 / expected).sum()
    assert statistic < chi2.ppf(0.9999, len(legal) - 1)


def test_the_operator_passes_opcheck() -> None:
    torch.use_deterministic_algorithms(False)  # opcheck compares memory nobody has written
    both = toy_both("plain", 1)
    torch.library.opcheck(
        torch.ops.chronoward.sample.default,
        (torch.zeros(1, V + 60), both.slots, both.keys, list(both.tables), *both.rule),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_counters_are_those_of_the_cpu() -> None:
    """value_u is word 2 of the block that philox gives for (step, rollout, subject)."""
    both = toy_both("plain", 2)
    logits = torch.zeros(2, V + 60)
    draws = sample(logits, both.slots, both.keys, both.tables, both.rule, backend="triton")
    key, subject = (int(x) & (2**64 - 1) for x in both.keys[0])
    counters = np.array([[0, row, subject & 0xFFFFFFFF, subject >> 32] for row in range(2)])
    words = philox.philox4x32(key, counters.astype(np.uint32))
    assert draws.value_u.tolist() == philox.to_uniforms(words)[:, 2].tolist()
