"""Shape of a model. Few dials: a preset by name, a vocabulary size, and what is derived."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from chronoward.errors import ConfigError, FormatError

ROTARY = ("index", "time", "half", "none")
TIME_BIAS = ("log", "linear", "none")

# name -> d_model, n_layers, n_heads, n_kv_heads, d_ff, tied
PRESETS: dict[str, tuple[int, int, int, int, int, bool]] = {
    "tiny": (96, 2, 3, 3, 256, False),  # about 1 M with 4,000 tokens: minutes on a CPU
    "small": (320, 8, 10, 5, 864, True),  # about 10 M
    "base": (768, 12, 12, 4, 2816, True),  # about 120 M with 30,000 tokens
    "large": (1024, 24, 16, 4, 3456, True),  # about 350 M
}
# What architectures of other libraries have as well: tokens and their order, no clock.
PORTABLE: dict[str, Any] = {
    "rotary": "index",
    "time_bias": "none",
    "clock_embedding": False,
    "n_visit_kinds": 1,
}
# Features of the clock: years since birth, days and tokens since the context began.
N_CLOCK_KNOTS = (21, 16, 12)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a decoder is made of.

    Raises:
        ConfigError: sizes that do not fit each other, or an unknown choice.
    """

    vocab_size: int
    """Number of tokens."""
    d_model: int = 96
    """Width of the residual stream."""
    n_layers: int = 2
    """Number of blocks."""
    n_heads: int = 3
    """Query heads a block."""
    n_kv_heads: int = 3
    """Key and value heads a block; divides n_heads."""
    d_ff: int = 256
    """Width of the gated feed-forward layer."""
    rotary: str = "half"
    """What the rotary angles count: index, time, half of each, or none."""
    time_bias: str = "linear"
    """How attention falls off with elapsed time: log, linear or none."""
    qk_norm: bool = True
    """Normalize queries and keys of each head."""
    tied: bool = True
    """The output matrix is the embedding."""
    rotary_base: float = 10_000.0
    """Longest wavelength of index angles, in tokens over 2 pi."""
    wavelength_hours: tuple[float, float] = (1.0, 876_600.0)
    """Shortest and longest wavelength of time angles: one hour to 100 years."""
    bias_days: tuple[float, float] = (1.0, 3652.5)
    """Smallest and largest initial scale of the time bias over a block's heads."""
    n_visit_kinds: int = 1
    """Kinds of visit with output biases of their own; the first is outside of visits."""
    clock_embedding: bool = True
    """Add what the clock says to each token: the age, and how long the context is."""
    norm_eps: float = 1e-6
    """Added to mean squares before the root."""

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff")
        for name in (*sizes, "n_visit_kinds"):
            if getattr(self, name) < 1:
                message = f"{name} must be positive, got {getattr(self, name)}"
                raise ConfigError(message)
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 4:
            message = (
                f"d_model {self.d_model} over {self.n_heads} heads must give a multiple of 4 a head"
            )
            raise ConfigError(message)
        if self.n_heads % self.n_kv_heads:
            message = f"n_kv_heads {self.n_kv_heads} must divide n_heads {self.n_heads}"
            raise ConfigError(message)
        if self.rotary not in ROTARY or self.time_bias not in TIME_BIAS:
            message = f"rotary is one of {ROTARY} and time_bias one of {TIME_BIAS}"
            raise ConfigError(message)

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    @classmethod
    def preset(cls, name: str, vocab_size: int, **changes: Any) -> ModelConfig:
        """A named size, with any field changed.

        Raises:
            ConfigError: no preset of that name.
        """
        if name not in PRESETS:
            message = f"preset must be one of {', '.join(PRESETS)}, got {name!r}"
            raise ConfigError(message)
        d_model, n_layers, n_heads, n_kv_heads, d_ff, tied = PRESETS[name]
        config = cls(
            vocab_size=vocab_size,
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            d_ff=d_ff,
            tied=tied,
        )
        return replace(config, **changes)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, Any], source: str) -> ModelConfig:
        """The config that `to_json` wrote.

        Args:
            value: the JSON object.
            source: file named in errors.

        Raises:
            FormatError: unknown or missing fields.
        """
        known = {f.name for f in fields(cls)}
        if set(value) != known:
            odd = sorted(set(value) ^ known)
            message = f"{source}: model config has unknown or missing fields {odd}"
            raise FormatError(message)
        arguments: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        return cls(**arguments)

    def n_parameters(self) -> int:
        """Number of parameters, without building the model."""
        d, f, kv = self.d_model, self.d_ff, self.n_kv_heads * self.d_head
        norms = 2 * d + (2 * self.d_head if self.qk_norm else 0)
        bias = {"log": 2, "linear": 1, "none": 0}[self.time_bias] * self.n_heads
        block = d * (d + 2 * kv) + d * d + 3 * d * f + norms + bias
        heads = self.vocab_size * (d * (1 if self.tied else 2) + 3 * self.n_visit_kinds)
        clock = sum(N_CLOCK_KNOTS) * d if self.clock_embedding else 0
        return heads + self.n_layers * block + d + clock
