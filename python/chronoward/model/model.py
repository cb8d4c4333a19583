"""The decoder: what differs from a textbook one is that attention knows the time between tokens.

Inputs are packed rows: T tokens of several timelines one after the other, `cu_seqlens` their
bounds. There is no batch dimension; several rows are one longer row. Embeddings are normalized on
entry, so that the residual stream starts at scale one whatever the embedding's own scale.
The model does not know what a token means.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from chronoward.kernels.varlen_attention import varlen_attention
from chronoward.model.blocks import Block, RMSNorm, rotary_frequencies
from chronoward.model.config import N_CLOCK_KNOTS
from chronoward.model.context_bias import ContextBias

if TYPE_CHECKING:
    from collections.abc import Callable

    from chronoward.model.config import ModelConfig
    from chronoward.model.context_bias import Context

MINUTES_PER_DAY, MINUTES_PER_YEAR = 1440, 525_960
YEARS_PER_KNOT = 5
LAST_DAY, LAST_INDEX = 43_830.0, 4095.0
EMBEDDING_STD = 0.02


def places_in_segments(time_min: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """Index inside the segment and minutes since its first token, for each token of a packed row.

    Args:
        time_min: int32 (T,).
        cu_seqlens: int32 (n + 1,).

    Returns:
        int64 (T,) and int64 (T,).
    """
    position = torch.arange(time_min.shape[0], device=time_min.device, dtype=torch.int32)
    segment = torch.searchsorted(cu_seqlens, position, right=True) - 1
    start = cu_seqlens[segment.clamp(min=0)].long().clamp(max=max(time_min.shape[0] - 1, 0))
    return position.long() - start, time_min.long() - time_min[start].long()


def clock_features(time_min: Tensor, index: Tensor, elapsed_min: Tensor) -> Tensor:
    """Three clocks, each as weights of two neighbouring knots (hat functions that sum to one).

    Args:
        time_min: int (T,), minutes since birth (where it is known): knots every 5 years up to 100.
        index: int64 (T,), place of each token in its segment.
        elapsed_min: int64 (T,), minutes since the segment's first token. Days and tokens have even
            knots of log(1 + x) up to 120 years and 4,095 tokens.

    Returns:
        fp32 (T, sum(N_CLOCK_KNOTS)).
    """
    _, n_days, n_tokens = N_CLOCK_KNOTS
    places = (
        time_min.double() / (MINUTES_PER_YEAR * YEARS_PER_KNOT),
        (elapsed_min.double() / MINUTES_PER_DAY).log1p() * ((n_days - 1) / math.log1p(LAST_DAY)),
        index.double().log1p() * ((n_tokens - 1) / math.log1p(LAST_INDEX)),
    )
    parts = []
    for place, n_knots in zip(places, N_CLOCK_KNOTS, strict=True):
        away = place.clamp(0, n_knots - 1)[:, None] - torch.arange(n_knots, device=place.device)
        parts.append((1 - away.abs()).clamp(min=0))
    return torch.cat(parts, dim=1).float()


class Model(nn.Module):
    """A decoder over packed token timelines.

    Attributes:
        config: its shape.
        heads: modules of further objectives by name (`hazard`), saved with the model.
        attention_backend: backend of `varlen_attention`; None lets it choose by device.
    """

    index_frequency: Tensor
    time_frequency: Tensor

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.attention_backend: str | None = None
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.heads = nn.ModuleDict()
        self.embedding_norm_eps = config.norm_eps
        self.clock = (
            nn.Linear(sum(N_CLOCK_KNOTS), config.d_model, bias=False)
            if config.clock_embedding
            else None
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = RMSNorm(config.d_model, config.norm_eps)
        self.output = (
            None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        )
        self.context_bias = ContextBias(config.vocab_size, config.n_visit_kinds)
        index, time = rotary_frequencies(config)
        self.register_buffer("index_frequency", index, persistent=False)
        self.register_buffer("time_frequency", time, persistent=False)
        self._initialize(seed)

    @torch.no_grad()
    def _initialize(self, seed: int) -> None:
        """Matrices: normal, std 1/√fan_in, residual outputs a further 1/√(2 layers) smaller;
        embedding, output and clock 0.02; norms 1; biases as `ContextBias` and `TimeBias` say."""
        generator = torch.Generator().manual_seed(seed)
        shrink = (2 * self.config.n_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2 or name.startswith("context_bias."):
                continue
            std = parameter.shape[1] ** -0.5
            if name.endswith(("attention_output.weight", "down.weight")):
                std *= shrink
            elif name in ("embedding.weight", "output.weight", "clock.weight"):
                std = EMBEDDING_STD
            parameter.normal_(0.0, std, generator=generator)

    def embed(self, token_id: Tensor) -> Tensor:
        """What tokens say at any time.  # int (T,) -> (T, d_model)"""
        rows: Tensor = self.embedding(token_id)
        unit: Tensor = functional.normalize(rows, dim=-1, eps=self.embedding_norm_eps)
        return unit * math.sqrt(self.config.d_model)

    def begin(
        self, embedded: Tensor, time_min: Tensor, index: Tensor, elapsed_min: Tensor
    ) -> Tensor:
        """Start of the residual stream: embedded tokens and their clocks.

        Args:
            embedded: (T, d_model), see `embed`.
            time_min, index, elapsed_min: int (T,), see `clock_features`.

        Returns:
            (T, d_model).
        """
        if self.clock is None:
            return embedded
        features = clock_features(time_min, index, elapsed_min)
        added: Tensor = self.clock(features.to(embedded))
        return embedded + added

    def rotary(self, index: Tensor, elapsed_min: Tensor) -> tuple[Tensor, Tensor] | None:
        """cos and sin of the rotary angles.

        Args:
            index: int64 (T,), place of each token in its segment.
            elapsed_min: int64 (T,), minutes since the segment's first token.

        Returns:
            Two fp32 (T, D / 2), or None without rotary. Angles are taken in fp64: 120 years of
            minutes at a wavelength of one hour leave fp32 no digits.
        """
        if self.config.rotary == "none":
            return None
        angle = torch.cat(
            [
                index.double()[:, None] * self.index_frequency,
                elapsed_min.double()[:, None] * self.time_frequency,
            ],
            dim=1,
        )
        return angle.cos().float(), angle.sin().float()

    def forward(
        self,
        token_id: Tensor,
        time_min: Tensor,
        cu_seqlens: Tensor,
        kv_end: Tensor | None = None,
    ) -> Tensor:
        """Hidden state of each token after the final norm.

        Args:
            token_id: int32 or int64 (T,).
            time_min: int32 (T,), clock of each token in minutes.
            cu_seqlens: int32 (n + 1,), bounds of the timelines in the row.
            kv_end: int32 (T,), end of the keys each query sees; None is causal.

        Returns:
            (T, d_model).
        """
        index, elapsed_min = places_in_segments(time_min, cu_seqlens)
        angles = self.rotary(index, elapsed_min)
        x = self.begin(self.embed(token_id), time_min, index, elapsed_min)

        def attend(q: Tensor, k: Tensor, v: Tensor, **bias: Tensor | None) -> Tensor:
            out: Tensor = varlen_attention(
                q,
                k,
                v,
                time_min,
                cu_seqlens,
                kv_end=kv_end,
                bias=self.config.time_bias,
                backend=self.attention_backend,
                **bias,
            )
            return out

        for block in self.blocks:
            x = block(x, angles, attend)
        hidden: Tensor = self.final_norm(x)
        return hidden

    @property
    def output_weight(self) -> Tensor:
        """Matrix of the output layer.  # (V, d_model)"""
        return self.embedding.weight if self.output is None else self.output.weight

    def logits(self, hidden: Tensor, context: Context) -> Tensor:
        """Scores of the next token.

        Args:
            hidden: (n, d_model).
            context: of the same places, see `ContextBias.context`.

        Returns:
            (n, V).
        """
        scores: Tensor = self.context_bias(functional.linear(hidden, self.output_weight), context)
        return scores

    @torch.no_grad()
    def generate(
        self,
        token_id: Tensor,
        time_min: Tensor,
        choose: Callable[[Tensor], tuple[int, int] | None],
    ) -> tuple[Tensor, Tensor]:
        """Continues one timeline by a full forward pass a token: slow, the engine's oracle.

        Args:
            token_id: int (n,), the prefix.
            time_min: int32 (n,).
            choose: takes the logits (V,) of the next token and returns it with its clock, or None
                to stop.

        Returns:
            Prefix and continuation: token ids int64 and times int32.
        """
        tokens, times = token_id.long(), time_min.to(torch.int32)
        while True:
            bounds = torch.tensor([0, tokens.shape[0]], dtype=torch.int32, device=tokens.device)
            hidden = self(tokens, times, bounds)
            last = torch.tensor([tokens.shape[0] - 1], device=tokens.device)
            context = self.context_bias.context(tokens, bounds, last)
            chosen = choose(self.logits(hidden[last], context)[0])
            if chosen is None:
                return tokens, times
            tokens = torch.cat([tokens, tokens.new_tensor([chosen[0]])])
            times = torch.cat([times, times.new_tensor([chosen[1]])])
