"""What a training run is told: one frozen dataclass, kept in the run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from chronoward.errors import ConfigError, require_at_least
from chronoward.model.config import PORTABLE

OBJECTIVES = ("next_event", "next_visit", "subtime", "gap", "hazard")
VISIT_OBJECTIVES = {"next_visit", "gap", "subtime"}  # asked at borders of visits only
DTYPES = ("fp32", "bf16")
SET_LOSSES = ("bce", "focal")

# peak learning rate by preset: smaller models take larger steps
LEARNING_RATES = {"tiny": 2e-2, "small": 1e-2, "base": 6e-3, "large": 4e-3}
# rows of a step by preset: a run of minutes learns more from many small steps
ROWS_PER_STEP = {"tiny": 1, "small": 4, "base": 32, "large": 64}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of a training run. Threads are not among them.

    Raises:
        ConfigError: a value out of range or an unknown name.
    """

    preset: str = "tiny"
    """Size of the model: tiny, small, base or large."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of ModelConfig that differ from the preset."""
    portable: bool = False
    """Only what architectures of other libraries have too (`chronoward export --to hf`): tokens and
    their order. No time in attention, no clock, no output biases by what the context holds."""
    objectives: dict[str, float] = field(default_factory=lambda: {"next_event": 1.0})
    """Weight of each objective."""
    outcomes: tuple[str, ...] = ()
    """Outcome names or YAML files of the hazard objective."""
    set_loss: str = "bce"
    """Loss of the next_visit objective's sets: bce or focal."""
    repeat_weight: str = "none"
    """Down-weight repeated codes: none, raven or exp."""
    learning_rate: float | None = None
    """Peak learning rate; None takes the preset's."""
    warmup_steps: int = 50
    """Steps of linear warm-up (at most a tenth of the run)."""
    final_share: float = 0.02
    """Learning rate at the end, as a share of the peak."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices (not of the embedding, norms or biases)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's averaging constants. The second one spans the steps between two occurrences of a rare
    code: over fewer, steps that lower its probability weigh more than the ones that raise it."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    row_tokens: int = 2048
    """Tokens of a packed row: the longest context."""
    rows_per_step: int | None = None
    """Rows of one step; None takes the preset's."""
    rows_per_pass: int | None = None
    """Rows that are in memory at once: a step of more adds up the gradients of several passes. None
    takes all of a step's."""
    average: float | None = None
    """Decay of a moving average of the weights, such as 0.999, which is then evaluated and kept in
    place of the last ones; None: no average."""
    dtype: str | None = None
    """Arithmetic of the matrix products: fp32 or bf16 (weights stay fp32). None: fp32 on a CPU,
    bf16 on a GPU; a run keeps what it began with, wherever it goes on."""
    redraw_times: bool = True
    """Train on durations drawn from their tokens' buckets, as rollouts draw them."""
    seed: int = 0
    """Seeds the weights and the order of the data."""
    epochs: float = 10.0
    """Most passes over the train split."""
    max_steps: int | None = None
    """Most steps."""
    minutes: float | None = None
    """Time to train for; turned into a number of steps by timing a few before the start, and anew
    by all so far after each look at the tuning split. How many there are then depends on the
    machine's speed, so only a run without `minutes` gives the same weights again."""
    evaluations: int = 10
    """How often the tuning split is looked at, evenly over the run."""
    evaluation_tokens: int = 65_536
    """Tokens of the tuning split that are looked at: the same ones each time and for each seed."""
    patience: int = 3
    """Evaluations without a new best before the run stops."""

    def __post_init__(self) -> None:
        unknown = set(self.objectives) - set(OBJECTIVES)
        if not self.objectives or unknown:
            message = f"objectives are {', '.join(OBJECTIVES)}; got {sorted(self.objectives)}"
            raise ConfigError(message)
        if any(not math.isfinite(w) or w <= 0 for w in self.objectives.values()):
            message = "the weight of an objective must be positive"
            raise ConfigError(message)
        if ("hazard" in self.objectives) != bool(self.outcomes):
            message = "the hazard objective and a list of outcomes go together"
            raise ConfigError(message)
        if self.preset not in LEARNING_RATES:
            message = f"preset must be one of {', '.join(LEARNING_RATES)}, got {self.preset!r}"
            raise ConfigError(message)
        if self.portable and {**PORTABLE, **self.model} != {**self.model, **PORTABLE}:
            message = f"portable means {PORTABLE}; got {self.model}"
            raise ConfigError(message)
        if self.set_loss not in SET_LOSSES:
            message = f"set_loss must be one of {', '.join(SET_LOSSES)}, got {self.set_loss!r}"
            raise ConfigError(message)
        if self.dtype is not None and self.dtype not in DTYPES:
            message = f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}"
            raise ConfigError(message)
        self._check_numbers()

    def _check_numbers(self) -> None:
        require_at_least(1, self, "row_tokens", "evaluations", "evaluation_tokens", "patience")
        for name in (
            "learning_rate",
            "rows_per_step",
            "rows_per_pass",
            "clip_norm",
            "epochs",
            "max_steps",
            "minutes",
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                message = f"{name} must be positive, got {value}"
                raise ConfigError(message)
        if self.average is not None and not 0 < self.average < 1:
            message = f"average must lie between 0 and 1, got {self.average}"
            raise ConfigError(message)
        if self.warmup_steps < 0 or self.weight_decay < 0 or not 0 <= self.final_share <= 1:
            message = "warmup_steps and weight_decay must not be negative, final_share in 0..1"
            raise ConfigError(message)

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after warm-up."""
        return self.learning_rate or LEARNING_RATES[self.preset]

    @property
    def n_rows(self) -> int:
        """Rows of one step."""
        return self.rows_per_step or ROWS_PER_STEP[self.preset]

    @property
    def sees_whole_visits(self) -> bool:
        """Whether attention inside a visit goes both ways: where the next visit's set is all that
        is asked, and nothing that an event inside it would give away."""
        return "next_visit" in self.objectives and set(self.objectives) <= VISIT_OBJECTIVES

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
