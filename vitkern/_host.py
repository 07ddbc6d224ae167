"""The processor and the version of vitkern: what results and decisions depend on.

Names neither the host nor its user.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

__all__ = ["cores", "first_processor", "processor", "version"]


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def first_processor() -> str:
    """What Linux's ``/proc/cpuinfo`` says of the first processor; empty where there is none."""
    if sys.platform != "linux":
        return ""
    try:
        return Path("/proc/cpuinfo").read_text().strip().split("\n\n")[0]
    except OSError:
        return ""


def processor() -> str:
    """The name that Python knows, which on Linux is that of the architecture only."""
    return platform.processor() or platform.machine() or "unknown"


def version(package: str = "vitkern") -> str | None:
    """Of an installed package; None where it is not (a source tree that was never installed)."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
