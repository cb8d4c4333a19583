"""Hugging Face on the GPU beside G5: `generate` with a dynamic or a static cache, `generate_batch`.

A GPT-2 of the same width, depth and vocabulary, random weights, sampling without cuts, nothing that
ends a sequence. What cannot be run is a reason in the line, and never loses a number of ours.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CACHES = ("dynamic", "static")
_STOPPED = "continuous batching ended before its requests had"


@dataclass(frozen=True)
class Peer:
    """What is built and how many rows it takes at once."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_rows: int
    device: str
    dtype: torch.dtype

    def model(self, attention: str = "sdpa") -> Any:
        """The model on its device, in evaluation mode."""
        from transformers import GPT2Config, GPT2LMHeadModel

        made = GPT2Config(
            vocab_size=self.vocab_size, n_positions=4096, n_embd=self.d_model,
            n_layer=self.n_layers, n_head=self.n_heads, attn_implementation=attention,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        return GPT2LMHeadModel(made).to(self.device, self.dtype).eval()

    def prompts(self, n: int, n_prompt: int) -> torch.Tensor:
        """Random tokens (n, n_prompt), the same in every call."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(3, self.vocab_size, (n, n_prompt), generator=generator)

    def wait(self) -> None:
        """Until the GPU has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()


@torch.no_grad()
def generate_seconds(model: Any, peer: Peer, n_prompt: int, n_new: int, cache: str) -> float:
    """Seconds of `generate` for all rows; a static cache is compiled by the first call."""
    tokens = peer.prompts(peer.n_rows, n_prompt).to(peer.device)
    options = {"do_sample": True, "top_k": 0, "pad_token_id": 0, "max_new_tokens": n_new}
    if cache == "static":
        options["cache_implementation"] = "static"
    start = time.perf_counter()
    model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
    peer.wait()
    return time.perf_counter() - start


def step_ms(peer: Peer, context: int, cache: str = "dynamic", n_new: int = 33) -> float:
    """Milliseconds of a decode step at a mean context."""
    model, n_prompt = peer.model(), context - n_new // 2
    if cache == "dynamic":
        generate_seconds(model, peer, 8, 2, cache)
    else:  # warmed up at the shape that is measured, which is what gets compiled
        generate_seconds(model, peer, n_prompt, n_new, cache)
    first = generate_seconds(model, peer, n_prompt, 1, cache)
    whole = generate_seconds(model, peer, n_prompt, n_new, cache)
    return 1e3 * (whole - first) / (n_new - 1)


def batch_seconds(
    peer: Peer, prompts: Sequence[Sequence[int]], lengths: Sequence[int], *, n_first: int = 0
) -> float:
    """Seconds of continuous batching, which `generate_batch` is made of: request by request, each
    with its own number of new tokens, after one request that warms it up.

    Args:
        peer: the model.
        prompts: tokens of each request.
        lengths: new tokens of each.
        n_first: above 0: the seconds of these requests with so many new tokens each are taken off.
    """
    from transformers import GenerationConfig

    model = peer.model()
    config = GenerationConfig(
        do_sample=True, top_k=0, pad_token_id=0, eos_token_id=-1, max_new_tokens=max(lengths)
    )
    with model.continuous_batching_context_manager(generation_config=config) as manager:
        _answer(manager, peer, prompts[:1], lengths[:1])
        whole = _answer(manager, peer, prompts, lengths)
        if n_first:
            whole -= _answer(manager, peer, prompts, [n_first] * len(prompts))
    return whole


def _answer(
    manager: Any, peer: Peer, prompts: Sequence[Sequence[int]], lengths: Sequence[int]
) -> float:
    start = time.perf_counter()
    for tokens, n_new in zip(prompts, lengths, strict=True):
        manager.add_request(list(tokens), max_new_tokens=n_new)
    n_ended = 0
    while n_ended < len(prompts):
        result = manager.get_result(timeout=1)
        if result is None and not manager.is_running():
            raise RuntimeError(_STOPPED)
        if result is not None and result.is_finished():
            if result.error is not None:
                raise RuntimeError(result.error)
            n_ended += 1
    peer.wait()
    return time.perf_counter() - start


def batch_step_ms(peer: Peer, context: int, n_new: int = 33) -> float:
    """Milliseconds of a decode step of continuous batching, all rows side by side."""
    prompts = peer.prompts(peer.n_rows, context - n_new // 2).tolist()
    seconds = batch_seconds(peer, prompts, [n_new] * len(prompts), n_first=1)
    return 1e3 * seconds / (n_new - 1)


def job_seconds(peer: Peer, n_prompt: int, lengths: Sequence[int], cache: str) -> float:
    """Seconds of a job in batches in order of its rollouts, each until its longest has ended."""
    model, n = peer.model(), peer.n_rows
    longest = sorted(max(lengths[i : i + n]) for i in range(0, len(lengths), n))
    middle = longest[len(longest) // 2]
    if cache == "dynamic":
        generate_seconds(model, peer, 8, 2, cache)
    else:
        generate_seconds(model, peer, n_prompt, middle, cache)
    return len(longest) * generate_seconds(model, peer, n_prompt, middle, cache)


def job_batch_seconds(peer: Peer, n_prompt: int, n_rollouts: int, lengths: Sequence[int]) -> float:
    """Seconds of a job by continuous batching, which may share the blocks of equal prompts."""
    prefixes = peer.prompts(-(-len(lengths) // n_rollouts), n_prompt).tolist()
    prompts = [prefixes[i // n_rollouts] for i in range(len(lengths))]
    return batch_seconds(peer, prompts, lengths)


def or_reason(measure: Callable[[], float]) -> tuple[float | None, str | None]:
    """What Hugging Face takes, or why it could not be measured."""
    try:
        return measure(), None
    except Exception as error:  # its failure must not lose our own number
        return None, f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
