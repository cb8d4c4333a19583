"""How much a device holds of rollouts: rows, prefixes, pages, and the memory that they take.

A row's pages are its own for good. A prefix takes pages as it needs them, from a pool that the host
keeps account of: only the host knows when the last rollout of a prefix has ended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from chronoward.engine.memory import available_bytes, free_bytes_of_gpu
from chronoward.errors import LimitError

if TYPE_CHECKING:
    from chronoward.model import ModelConfig

# A tile of queries of the attention of a prefill: prefixes begin at multiples of it, so that what a
# prefix becomes does not depend on those that are prefilled with it.
PREFILL_TILE = 128
_VOCABULARY_BYTES = 32  # a row and token: logits, biases and what they are added from, marks


@dataclass(frozen=True, kw_only=True)
class DeviceRoom:
    """Sizes that are fixed once."""

    n_rows: int = 256
    n_prefixes: int = 64
    """Prefixes that may be kept at once."""
    prefix_tokens: int = 1024
    """Most tokens of one."""
    n_prefix_pages: int | None = None
    """Pages of all of them; None: as many as if each had its most tokens."""
    own_tokens: int = 1024
    """Most tokens that a row takes: the prefix's last and all it draws but the last."""
    max_context: int | None = None
    """Tokens of prefix and row after which the row's rollout has to be cut; None: no such rule."""
    page_tokens: int = 64
    n_steps: int = 16
    """Steps between two looks of the host."""
    n_queued: int = 1024
    """Jobs that may wait."""
    dtype: torch.dtype = torch.bfloat16
    """Of weights and activations."""
    stored: torch.dtype | None = None
    """Of keys and values; None: the same. fp8 (e4m3) halves them and rounds them."""

    @classmethod
    def of_contexts(
        cls,
        n_rows: int,
        max_context: int,
        *,
        dtype: torch.dtype,
        stored: torch.dtype | None,
        n_steps: int,
    ) -> DeviceRoom:
        """Room in which any prompt up to `max_context` tokens runs in any row.

        As many jobs may wait as run. Prefixes have half the rows' tokens (a context that was cut
        keeps half of its own), a page each for the shortest, and room for the longest two, so that
        the one whose rollouts are handed out and one that was cut can always lie side by side.
        """
        a_context = -(-max_context // cls.page_tokens)
        return cls(
            n_rows=n_rows,
            n_prefixes=2 * n_rows + 2,
            prefix_tokens=max_context,
            n_prefix_pages=n_rows * -(-a_context // 2) + 2 * n_rows + 2 * a_context,
            own_tokens=max_context,
            max_context=max_context,
            n_steps=n_steps,
            n_queued=n_rows,
            dtype=dtype,
            stored=stored,
        )

    @property
    def own_pages(self) -> int:
        """Pages of a row."""
        return -(-self.own_tokens // self.page_tokens)

    @property
    def longest_prefix_pages(self) -> int:
        """Pages of a prefix of most tokens."""
        return -(-self.prefix_tokens // self.page_tokens)

    @property
    def pool_pages(self) -> int:
        """Pages of all prefixes together."""
        return self.n_prefix_pages or self.n_prefixes * self.longest_prefix_pages

    @property
    def n_pages(self) -> int:
        """Page 0, which is nobody's, then those of the rows, then those of the prefixes."""
        return 1 + self.n_rows * self.own_pages + self.pool_pages

    @property
    def prefill_tokens(self) -> int:
        """Tokens of one call of a prefill, however many of them are used."""
        return max(1, -(-self.prefix_tokens // PREFILL_TILE)) * PREFILL_TILE

    def cache_bytes(self, config: ModelConfig) -> int:
        """Of keys and values of all pages, and their scales."""
        stored = self.stored or self.dtype
        scale_bytes = 4 if stored.itemsize == 1 else 0
        a_token = 2 * config.n_layers * config.n_kv_heads
        a_token *= config.d_head * stored.itemsize + scale_bytes
        return self.n_pages * self.page_tokens * a_token

    def check(self, config: ModelConfig, device: torch.device) -> None:
        """Compares what this takes with what there is, before any is taken.

        Raises:
            LimitError: there is less.
        """
        cache = self.cache_bytes(config)
        rest = self.n_rows * config.vocab_size * _VOCABULARY_BYTES
        rest += self.n_prefixes * config.vocab_size + config.n_parameters() * self.dtype.itemsize
        is_gpu = device.type == "cuda"
        available = free_bytes_of_gpu(device) if is_gpu else available_bytes()
        if available is not None and cache + rest > available:
            n_tokens = self.n_pages * self.page_tokens
            message = (
                f"{n_tokens:,} tokens of keys and values take {cache / 2**30:.1f} GiB, weights and "
                f"logits {rest / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are available on "
                f"{device}: fewer slots, a shorter context or fewer bits"
            )
            raise LimitError(message)


class PrefixPlace(NamedTuple):
    """Where a prefix lies: its number, and its pages in order."""

    number: int
    pages: tuple[int, ...]


class PrefixPlaces:
    """Which numbers and pages are free.

    Args:
        room: sizes.
    """

    def __init__(self, room: DeviceRoom) -> None:
        self._page_tokens = room.page_tokens
        self._numbers = deque(range(room.n_prefixes))
        self._pages = deque(range(room.n_pages - room.pool_pages, room.n_pages))

    def take(self, n_tokens: int) -> PrefixPlace | None:
        """A place for a prefix; None where there is none now."""
        n_pages = -(-n_tokens // self._page_tokens)
        if not self._numbers or len(self._pages) < n_pages:
            return None
        pages = tuple(self._pages.popleft() for _ in range(n_pages))
        return PrefixPlace(self._numbers.popleft(), pages)

    def give(self, place: PrefixPlace) -> None:
        """Takes a place back; nobody may be reading it."""
        self._numbers.append(place.number)
        self._pages.extend(place.pages)
