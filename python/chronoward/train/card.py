"""The model card: what was trained, on what, how well it fits, and what it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chronoward.model import Model
    from chronoward.train.config import TrainConfig
    from chronoward.train.state import Progress


def _bits(evaluation: dict[str, Any]) -> str:
    bits = evaluation.get("bits_per_token", {})
    if not bits:
        return "The tuning split was empty: the fit was not measured.\n"
    lines = ["| tokens | bits per token (tuning) |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in bits.items() if value is not None]
    return "\n".join(lines) + "\n"


def _losses(evaluation: dict[str, Any]) -> str:
    return "".join(
        f"- {name}: {loss['value']:.4f} {loss['unit']} on the tuning split\n"
        for name, loss in evaluation.get("loss", {}).items()
        if loss["value"] is not None
    )


def model_card(
    model: Model,
    config: TrainConfig,
    progress: Progress,
    facts: dict[str, Any],
    evaluation: dict[str, Any],
) -> str:
    """Markdown for RUN/README.md.

    Args:
        model: the trained model.
        config: of the run.
        progress: where it ended.
        facts: counts of the data, hashes and versions, name -> value.
        evaluation: report on the tuning split; empty where there is none.
    """
    shape = model.config
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""# A chronoward model

A decoder over token timelines of health records, trained to predict the next event.

| | |
|---|---|
| parameters | {sum(p.numel() for p in model.parameters()):,} |
| shape | {shape.n_layers} layers × {shape.d_model}, {shape.n_heads} heads |
| time in attention | bias {shape.time_bias}, rotary {shape.rotary} |
| objectives | {", ".join(f"{n} × {w:g}" for n, w in config.objectives.items())} |
| repeat weight | {config.repeat_weight} |
| steps | {progress.step:,} (weights of step {progress.best_step:,}) |
| tokens seen | {progress.tokens:,} |
| why it ended | {progress.stopped} |
{rows}

## Fit

{_bits(evaluation)}
{_losses(evaluation)}
## Use

`chronoward score`, `synthesize`, `generate` and `embed` read this folder. It belongs to the
tokenizer beside it and to no other. Its risks are estimates of what gets *recorded* in a population
like the one it was trained on; check calibration on your own held-out subjects first. It is not a
medical device, and its weights may reveal facts about the subjects it was trained on: treat this
folder as patient data.
"""
