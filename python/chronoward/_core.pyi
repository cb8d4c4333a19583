"""
C++ core of chronoward: tokenise, pack, decode.
"""

from __future__ import annotations

import typing

import numpy
import numpy.typing

__all__: list[str] = ["RULES_VERSION", "philox4x32", "splitmix64"]

def philox4x32(
    key: typing.SupportsInt | typing.SupportsIndex, counters: numpy.typing.NDArray[numpy.uint32]
) -> numpy.typing.NDArray[numpy.uint32]:
    """
    Philox4x32-10 blocks: uint32 (n, 4) counters to uint32 (n, 4) words.
    """

def splitmix64(words: numpy.typing.NDArray[numpy.uint64]) -> numpy.typing.NDArray[numpy.uint64]:
    """
    splitmix64 of each uint64 word.
    """

RULES_VERSION: int = 1
__version__: str = "0.1.0"
