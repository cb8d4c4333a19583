"""Memory that a step or a batch frees stays with the process: the next asks for the same again."""

from __future__ import annotations

import ctypes
import sys

# mallopt's parameters, from glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Keeps glibc from giving large blocks back to the system at once.

    It does so by default above 32 MiB, which is one activation of a training step; the next step
    then has every page of it zeroed and mapped again, some 100,000 page faults. For processes that
    do one thing, training or `tokenize`: what they take they hold until they end. Does nothing
    where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)
