"""glibc's allocator, as a measurement needs it; set by environment variables of a child process.

By default glibc gives large blocks back to the system as soon as they are freed. PyTorch frees
every intermediate result, so the next one is fresh memory, and each of its pages costs a fault.
Kernels that need fewer and smaller intermediates save these faults. That is a real gain for users,
but none of the arithmetic, so both figures are reported.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

__all__ = ["KEEP", "RETURN", "is_glibc", "page_faults", "trim"]


def _tunables(
    mmap_max: int, mmap_threshold: int, trim_threshold: int, top_pad: int
) -> dict[str, str]:
    """The settings under both of their names: old and new glibc each know one of them."""
    values = {
        "mmap_max": mmap_max,
        "mmap_threshold": mmap_threshold,
        "trim_threshold": trim_threshold,
        "top_pad": top_pad,
        "arena_max": 1,  # threads of the autograd engine would use others, with other rules
    }
    names = {
        "MALLOC_MMAP_MAX_": mmap_max,
        "MALLOC_MMAP_THRESHOLD_": mmap_threshold,
        "MALLOC_TRIM_THRESHOLD_": trim_threshold,
        "MALLOC_TOP_PAD_": top_pad,
        "MALLOC_ARENA_MAX": 1,
    }
    joined = ":".join(f"glibc.malloc.{key}={value}" for key, value in values.items())
    return {"GLIBC_TUNABLES": joined, **{key: str(value) for key, value in names.items()}}


KEEP = _tunables(0, 32 << 20, 1 << 40, 64 << 20)
"""Freed memory stays with the process: no page faults but the first ones, on either side."""

RETURN = _tunables(1 << 20, 64 << 10, 64 << 10, 0)
"""Freed memory goes back at once: the resident size is what is in use."""


def is_glibc() -> bool:
    """Whether the settings mean anything here."""
    try:
        return sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError, AttributeError):
        return False


def page_faults(run: Callable[[], object]) -> int | None:
    """Minor page faults of one call, of all threads; None where the system does not count."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def trim() -> None:
    """Give back all memory that is free."""
    if is_glibc():
        ctypes.CDLL(None).malloc_trim(0)
