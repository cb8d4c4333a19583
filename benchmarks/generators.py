"""Other generators at the shapes of G1 and G2: Hugging Face `generate` and CTranslate2.

A GPT-2 of the same width, depth, heads, vocabulary and feed-forward arithmetic with random weights,
the same number of rows, prompts of four tokens, plain sampling, no end: tokens drawn per CPU-second
of one thread, prefill in the time. Each in the peers' own environment, best of a few runs.
"""

from __future__ import annotations

from benchmarks.peers import ask

PEER = "generators"
_SCRIPT = """
import json, sys, tempfile, time
import ctranslate2, torch, transformers
from ctranslate2.converters import transformers as converters

torch.set_num_threads(1)
torch.manual_seed(0)
vocab, width, layers, heads, slots, new, runs = map(int, sys.argv[2:9])
config = transformers.GPT2Config(
    vocab_size=vocab, n_positions=4 + new, n_embd=width, n_layer=layers, n_head=heads,
    bos_token_id=0, eos_token_id=1, pad_token_id=1,
)
model = transformers.GPT2LMHeadModel(config).eval()
prompt = torch.tensor([[3, 4, 5, 6]] * slots)

def rate(draw):
    best, n = 0.0, 0
    for _ in range(runs):
        start = time.process_time()
        n = draw()
        best = max(best, n / (time.process_time() - start))
    assert n == slots * new, n
    return best

def hugging_face(cache):
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0,
        min_new_tokens=new, max_new_tokens=new, cache_implementation=cache,
    )
    return out[:, 4:].numel()

class Tokenizer:
    bos_token, eos_token, unk_token = "t0", "t1", "t2"

class Loader(type(converters._MODEL_LOADERS["GPT2Config"])):
    def get_vocabulary(self, model, tokenizer):
        return [f"t{i}" for i in range(vocab)]

spec = Loader()(model, Tokenizer())
answer = {}
with torch.inference_mode():
    answer["transformers dynamic"] = rate(lambda: hugging_face(None))
    answer["transformers static"] = rate(lambda: hugging_face("static"))
start = [[f"t{i}" for i in (3, 4, 5, 6)]] * slots
with tempfile.TemporaryDirectory() as folder:
    spec.validate()
    spec.optimize(quantization=None)
    spec.save(folder)
    for dtype in ("float32", "bfloat16", "int8"):
        if dtype not in ctranslate2.get_supported_compute_types("cpu"):
            continue
        generator = ctranslate2.Generator(
            folder, device="cpu", compute_type=dtype, inter_threads=1, intra_threads=1
        )
        def ct2():
            found = generator.generate_batch(
                start, max_length=new, min_length=new, sampling_topk=0, beam_size=1,
                include_prompt_in_result=False,
            )
            return sum(len(row.sequences_ids[0]) for row in found)
        answer["ctranslate2 " + dtype] = rate(ct2)
json.dump(answer, open(sys.argv[1], "w"))
"""


def rates(
    *, vocab: int, width: int, layers: int, heads: int, slots: int, n_new: int, runs: int
) -> dict[str, float]:
    """Generated tokens per CPU-second by peer and cache or dtype.

    Raises:
        PeerUnavailableError: no environment, and none could be built.
        RuntimeError: a peer failed, or drew another number of tokens.
    """
    numbers = (vocab, width, layers, heads, slots, n_new, runs)
    answer: dict[str, float] = ask(PEER, _SCRIPT, *map(str, numbers))
    return answer
