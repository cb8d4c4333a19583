"""One number a subject for all that encode reads of it: what changed is told from what did not.

It stands for mended events with their codes already looked up, and for observation periods. So a
subject counts as changed, too, where only an ancestor of its codes, and so their tokens, did.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.tokenizer.inputs import EncodeInput, Resolver


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b: the same in every process and on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def key_hashes(given: EncodeInput, resolver: Resolver) -> NDArray[np.uint64]:
    """What each key of an input says and what it is encoded as, uint64 (K,).

    Args:
        given: of encode.
        resolver: that looked its keys up.
    """
    known = resolver.hashes
    for key, entry, match in zip(
        given.columns.keys, given.key_entry.tolist(), given.key_exact.tolist(), strict=True
    ):
        if key not in known:
            known[key] = text_hash(json.dumps([*key, entry, match]))
    return np.array([known[key] for key in given.columns.keys], np.uint64)


def text_hashes(given: EncodeInput) -> NDArray[np.uint64]:
    """Hashes of an input's texts, uint64."""
    return np.array([text_hash(text) for text in given.columns.texts], np.uint64)
