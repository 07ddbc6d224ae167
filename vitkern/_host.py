"""What results and decisions depend on, processor and versions, and the folder for what is kept.

The names that are recorded tell neither the host nor its user.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

__all__ = ["cache_folder", "cores", "first_processor", "processor", "version"]


def cache_folder() -> Path | None:
    """``$VITKERN_CACHE_DIR``, else ``vitkern`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    None where there is no home either. The folder need not exist. All environment variables are
    listed in vitkern/_build/parameters.py.
    """
    named = os.environ.get("VITKERN_CACHE_DIR")
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # its specification: relative ones are to be ignored
        return Path(base) / "vitkern"
    try:
        return Path.home() / ".cache" / "vitkern"
    except RuntimeError:
        return None


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
