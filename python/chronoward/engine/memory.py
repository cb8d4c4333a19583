"""How much memory there is, asked before the key-value cache takes its part."""

from __future__ import annotations

from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Memory that may still be taken: of the machine, or of the control group if that is less.

    Returns:
        Bytes; None where the system does not say.
    """
    found = [n for n in (_of_machine(), _of_group()) if n is not None]
    return min(found, default=None)


def free_bytes_of_gpu(device: torch.device) -> int:
    """Memory of a GPU that may still be taken: what is free, and what torch keeps without use."""
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + kept)


def _of_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable:")), None)


def _of_group() -> int | None:
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        used = int((_GROUP / "memory.current").read_text())
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - used)
