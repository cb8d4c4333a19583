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

    from chronoward.tokenizer.inputs import Resolver


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b: the same in every process and on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def key_hashes(resolver: Resolver) -> NDArray[np.uint64]:
    """What each key of a resolver's reader says and what it is encoded as, uint64 (K,)."""
    known, keys = resolver.key_hash, resolver.reader.keys
    entry, match = resolver.entries()
    new = [
        text_hash(json.dumps([*keys[i], int(entry[i]), int(match[i])]))
        for i in range(len(known), len(keys))
    ]
    resolver.key_hash = np.append(known, np.array(new, np.uint64))
    return resolver.key_hash


def text_hashes(resolver: Resolver) -> NDArray[np.uint64]:
    """Hashes of the texts of a resolver's reader, uint64."""
    known, texts = resolver.text_hash, resolver.reader.texts
    new = [text_hash(text) for text in texts[len(known) :]]
    resolver.text_hash = np.append(known, np.array(new, np.uint64))
    return resolver.text_hash
