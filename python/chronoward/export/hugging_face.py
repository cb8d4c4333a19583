"""A RUN folder as a Hugging Face folder: architectures that transformers has, no code of ours.

    OUT/config.json, model.safetensors            Qwen3 (queries and keys normalized) or Llama
    OUT/tokenizer.json, tokenizer_config.json     a token a line of text: labels joined by newlines
    OUT/generation_config.json, README.md
    OUT/chronoward_tokenizer.json                 ours: turns token ids into events
    OUT/export.json                               what it was made of; written last

Those architectures know the order of tokens and nothing else. What the model takes from the clock,
and what its output adds by what the context holds, cannot be said in them and is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from chronoward import __version__, files
from chronoward.errors import ConfigError
from chronoward.tokenizer import TokenClass, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from chronoward.model import Block, Model, ModelConfig

MANIFEST: Final = "export.json"
SEPARATOR: Final = "\n"
_DEFAULT_CONTEXT: Final = 1024


def obstacles(model: Model, training: dict[str, Any]) -> list[str]:
    """What a model does that the architectures of transformers cannot say, each thing named.

    Args:
        model: of a RUN folder.
        training: `training` of its config.json.
    """
    config, bias = model.config, model.context_bias
    found = []
    if config.time_bias != "none":
        found.append(
            f"time_bias {config.time_bias}: attention falls off with the time between tokens"
        )
    if config.rotary != "index":
        found.append(f"rotary {config.rotary}: its angles do not count tokens")
    if model.clock is not None and bool(model.clock.weight.any()):
        found.append("clock_embedding: age and elapsed time are added to each token")
    if bool(bias.unseen.any()) or bool(bias.known.any()):
        found.append(
            "context biases: the output adds what the kind of visit and the codes so far say"
        )
    if training.get("sees_whole_visits"):
        found.append("visits seen whole: attention inside a visit goes both ways")
    return found


def export_hugging_face(
    src: Path | str, out: Path | str, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Writes the folder that `transformers.AutoModelForCausalLM.from_pretrained` reads.

    Args:
        src: RUN folder of a model trained with `portable`.
        out: a new or empty folder.
        progress: called with (files written, files).

    Returns:
        The content of `export.json`.

    Raises:
        ConfigError: the model does what those architectures cannot; each thing is named.
        FormatError: not a finished run, or its files do not belong together.
        StateError: `out` has content.
        OSError: a file cannot be read or written.
    """
    from safetensors.torch import save

    from chronoward.model import load, read_config

    run = Path(src)
    run_config = read_config(run)
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    model = load(run, tokenizer_hash=tokenizer.hash)
    if found := obstacles(model, run_config["training"]):
        message = (
            f"{run} cannot be exported to Hugging Face: {'; '.join(found)}. "
            "Train a model without these: `chronoward train --portable`"
        )
        raise ConfigError(message)
    n_context = int(run_config["training"].get("row_tokens", _DEFAULT_CONTEXT))
    tensors = _tensors(model)
    parts = {
        "model.safetensors": save(tensors, metadata={"format": "pt"}),
        "config.json": _json(_config(model.config, tokenizer, n_context)),
        "generation_config.json": _json({**_special(tokenizer), "do_sample": True}),
        "tokenizer.json": _json(_word_tokenizer(tokenizer)),
        "tokenizer_config.json": _json(_tokenizer_config(tokenizer, n_context)),
        "chronoward_tokenizer.json": (run / "tokenizer.json").read_bytes(),
        "README.md": _readme(run_config).encode(),
    }
    folder = files.make_output_folder(Path(out))
    for done, (name, payload) in enumerate(parts.items(), 1):
        files.write_bytes(folder / name, payload)
        if progress is not None:
            progress(done, len(parts))
    report = {
        "schema": 1,
        "to": "hf",
        "architecture": architecture(model.config),
        "model": run_config["weights"],
        "tokenizer": tokenizer.hash,
        "n_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "n_tokens": tokenizer.vocab_size,
        "left_out_heads": sorted(model.heads),
        "repeat_weight": run_config["training"].get("repeat_weight", "none"),
        "patient_data": "weights learned from records; treat them as records",
        "chronoward": __version__,
    }
    files.write_json(folder / MANIFEST, report)
    return report


def architecture(config: ModelConfig) -> str:
    """The class of transformers that does what the model does."""
    return "Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"


def _json(value: dict[str, Any]) -> bytes:
    return files.canonical_json(value)


def _tensors(model: Model) -> dict[str, Tensor]:
    """Weights by their names there; embeddings as our model has them after their norm."""
    import torch

    tensors = {
        "model.embed_tokens.weight": model.embed(torch.arange(model.config.vocab_size)),
        "model.norm.weight": model.final_norm.weight,
        "lm_head.weight": model.output_weight,
    }
    for layer, block in enumerate(model.blocks):
        for name, tensor in _block_weights(block).items():  # type: ignore[arg-type]
            tensors[f"model.layers.{layer}.{name}.weight"] = tensor
    return {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}


def _block_weights(block: Block) -> dict[str, Tensor]:
    d, n, n_kv = block.d_head, block.n_heads, block.n_kv_heads
    q, k, v = block.qkv_projection.weight.tensor_split([n * d, (n + n_kv) * d])
    gate, up = block.gate_and_up.weight.chunk(2)
    weights = {
        "input_layernorm": block.attention_norm.weight,
        "self_attn.q_proj": q,
        "self_attn.k_proj": k,
        "self_attn.v_proj": v,
        "self_attn.o_proj": block.attention_output.weight,
        "post_attention_layernorm": block.feed_forward_norm.weight,
        "mlp.gate_proj": gate,
        "mlp.up_proj": up,
        "mlp.down_proj": block.down.weight,
    }
    if block.query_norm is not None and block.key_norm is not None:
        weights["self_attn.q_norm"] = block.query_norm.weight
        weights["self_attn.k_norm"] = block.key_norm.weight
    return weights


def _special(tokenizer: Tokenizer) -> dict[str, int]:
    classes = tokenizer.token_class.tolist()
    return {
        "pad_token_id": classes.index(TokenClass.PAD),
        "eos_token_id": classes.index(TokenClass.END),
    }


def _config(shape: ModelConfig, tokenizer: Tokenizer, n_context: int) -> dict[str, Any]:
    # rope_theta is what transformers 4 reads, rope_parameters what 5 does; so with dtype
    theta = float(shape.rotary_base)
    return {
        **_special(tokenizer),
        "architectures": [architecture(shape)],
        "model_type": "qwen3" if shape.qk_norm else "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.d_model,
        "intermediate_size": shape.d_ff,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.d_head,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "max_position_embeddings": n_context,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def _word_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Hugging Face's tokenizer of our labels: a label a line, since labels may hold blanks."""
    labels = tokenizer.labels
    special = [
        {
            "id": token,
            "content": labels[token],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token in sorted(_special(tokenizer).values())
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": SEPARATOR},
            "behavior": "Removed",
            "invert": False,
        },
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {label: token for token, label in enumerate(labels)},
            "unk_token": "",  # which is no label: what is not in the vocabulary is an error
        },
    }


def _tokenizer_config(tokenizer: Tokenizer, n_context: int) -> dict[str, Any]:
    special = _special(tokenizer)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": tokenizer.labels[special["pad_token_id"]],
        "eos_token": tokenizer.labels[special["eos_token_id"]],
        "model_max_length": n_context,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }


def _readme(run_config: dict[str, Any]) -> str:
    return f"""# A chronoward model for transformers

A decoder over token timelines of health records ({run_config["weights"][:16]}), exported by
chronoward {__version__}. `AutoModelForCausalLM.from_pretrained` loads it without code of ours.

A token is a line of text (`year:1950`, then `age:43`, …). Continuations that transformers draws
keep no grammar and have no clock: chronoward's own `generate`, `score` and `synthesize` do. The
weights were learned from patients' records and may reveal some of them: treat this folder as
patient data. It is not a medical device.
"""
