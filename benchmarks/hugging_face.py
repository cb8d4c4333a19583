"""Hugging Face's GPT-2 (SDPA) on T1's windows, in its own environment: rate and memory of training.

Its batches are padded: eight windows in arrival order, or eight of about one length (all windows
sorted, batches shuffled). Only real tokens count. AdamW fused, clipping, no dropout, as ours.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from benchmarks import peers

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "Hugging Face GPT-2 + SDPA"
WINDOWS_PER_BATCH = 8
_SCRIPT = """
import json, random, sys, time
import torch
from transformers import GPT2Config, GPT2LMHeadModel

answer, task = sys.argv[1], json.loads(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
config = GPT2Config(
    vocab_size=task["vocab_size"], n_positions=task["longest"], n_embd=task["width"],
    n_layer=task["n_layers"], n_head=task["n_heads"], resid_pdrop=0.0, embd_pdrop=0.0,
    attn_pdrop=0.0, use_cache=False, attn_implementation="sdpa",
    bos_token_id=None, eos_token_id=None,
)
model = GPT2LMHeadModel(config).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def batch(lengths):
    longest = max(lengths)
    ids = torch.randint(0, task["vocab_size"], (len(lengths), longest))
    inside = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return ids, inside.long(), ids.masked_fill(~inside, -100)


def step(lengths):
    ids, mask, labels = batch(lengths)
    with torch.autocast("cpu", torch.bfloat16, enabled=task["bf16"]):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def batches(lengths):
    n = task["windows_per_batch"]
    found = [lengths[i:i + n] for i in range(0, len(lengths) - n + 1, n)]
    random.Random(0).shuffle(found)
    return found


def memory_kib(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


lengths = sorted(task["lengths"]) if task["grouped"] else task["lengths"]
found = batches(lengths)
for parameter in model.parameters():  # the optimizer's state exists before anything is measured
    optimizer.state[parameter] = {
        "step": torch.zeros(()), "exp_avg": torch.ones_like(parameter),
        "exp_avg_sq": torch.ones_like(parameter),
    }
resident = memory_kib("VmRSS:")
n_warm = min(task["n_warm"], len(found) - 1)
for lengths in found[:n_warm]:
    step(lengths)
start, tokens = time.process_time(), 0
for lengths in found[n_warm:]:
    step(lengths)
    tokens += sum(lengths)
seconds = time.process_time() - start
json.dump({
    "tokens": tokens, "seconds": seconds, "n_parameters": model.num_parameters(),
    "peak_gib": (memory_kib("VmHWM:") - resident) / 2**20,
}, open(answer, "w"))
"""


def train(
    lengths: Sequence[int], shape: dict[str, int], *, vocab_size: int, bf16: bool, grouped: bool
) -> dict[str, Any]:
    """One pass over windows of these lengths.

    Args:
        lengths: tokens of each window.
        shape: `d_model`, `n_layers` and `n_heads`.
        vocab_size: tokens of the vocabulary.
        bf16: matrix products in bf16 (autocast).
        grouped: batches of about one length; else in the order given.

    Returns:
        `tokens` (real), CPU `seconds`, `n_parameters`, and `peak_gib`: most resident memory minus
        what was resident once the optimizer's state existed.
    """
    task = {
        "lengths": [int(n) for n in lengths],
        "longest": int(max(lengths)),
        "vocab_size": vocab_size,
        "width": shape["d_model"],
        "n_layers": shape["n_layers"],
        "n_heads": shape["n_heads"],
        "windows_per_batch": WINDOWS_PER_BATCH,
        "bf16": bf16,
        "grouped": grouped,
        "n_warm": 1,
    }
    answer: dict[str, Any] = peers.ask("transformers", _SCRIPT, json.dumps(task))
    return answer
