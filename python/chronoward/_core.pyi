"""
C++ core of chronoward: tokenise, pack, decode.
"""

from __future__ import annotations

__all__: list[str] = ["RULES_VERSION"]
RULES_VERSION: int = 1
__version__: str = "0.1.0"
