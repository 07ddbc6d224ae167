"""Loads the compiled library, or says in one line why it is not there."""

from __future__ import annotations

import functools
import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vitkern._build import parameters, read_build_info, schemas_digest

__all__ = ["LibraryStatus", "load"]

REBUILD = "pip install --no-build-isolation, in an environment with torch and a C++ compiler"


@dataclass(frozen=True)
class LibraryStatus:
    """Whether the compiled kernels can be used.

    ``reason`` is one line that says why not, and None where they can. ``build`` is what the build
    recorded: compiler, flags and instruction sets, the versions of torch and of vitkern, the date.
    """

    available: bool
    path: Path
    reason: str | None = None
    build: dict[str, Any] = field(default_factory=dict, hash=False)


@functools.cache
def load() -> LibraryStatus:
    """Load the library once and register its operators. Never raises: see ``reason``."""
    return _load(Path(__file__).parent)


def _load(folder: Path) -> LibraryStatus:
    path = folder / parameters.LIBRARY_NAME
    try:
        build = read_build_info(folder)
    except (OSError, ValueError) as error:
        return LibraryStatus(False, path, f"unreadable build information: {_line(error)}")
    reason = _reason_not_to_load(path, build)
    if reason is None:
        try:
            torch.ops.load_library(str(path))
        except (OSError, RuntimeError) as error:
            reason = f"the compiled library does not load: {_line(error)}"
    return LibraryStatus(reason is None, path, reason, build)


def _reason_not_to_load(path: Path, build: dict[str, Any]) -> str | None:
    if not path.is_file():
        why = build.get("reason", "no build was attempted")
        return f"vitkern was installed without compiled kernels: {why}; to get them: {REBUILD}"
    built_for, installed = build.get("vitkern"), _installed_version()
    if installed is not None and built_for != installed:
        return f"the compiled library is of vitkern {built_for}, not {installed}: build it again"
    schemas = schemas_digest(path.parent.parent)
    if schemas is not None and schemas != build.get("schemas"):
        # A source tree that moved on: an operator may be missing or have other arguments.
        return "csrc/registration.cpp is not what the compiled library was built from: make build"
    minimum = parameters.MINIMUM_TORCH
    if _release(torch.__version__) < minimum:
        wanted = ".".join(map(str, minimum))
        return f"torch {torch.__version__} is too old for the compiled library (needs {wanted})"
    return None


def _installed_version() -> str | None:
    try:
        return importlib.metadata.version("vitkern")
    except importlib.metadata.PackageNotFoundError:
        return None  # used from a source tree that was never installed


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
