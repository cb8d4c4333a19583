"""The code blocks of a documentation page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PEERS = ("meds_torchdata", "transformers")


def blocks(page: Path) -> dict[str, list[str]]:
    """Python blocks in order, by the peer whose package they import; "" for our own."""
    found: dict[str, list[str]] = {name: [] for name in ("", *PEERS)}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        owner = next((peer for peer in PEERS if f"from {peer} import" in block), "")
        found[owner].append(block)
    return found
