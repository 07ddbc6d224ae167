"""Finds the compiled libraries; loads that for the CPU, or says in one line why it is not there.

A library is in the package, where an installation or ``make build`` put it, or in the user's cache
folder, where ``vitkern build`` did. The package's comes first, if it is of these sources.
"""

from __future__ import annotations

import functools
import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vitkern import _host
from vitkern._build import (
    CPU,
    CUDA,
    Kind,
    cuda_sources_digest,
    find_cached,
    parameters,
    read_build_info,
    schemas_digest,
    sources_root,
)

__all__ = ["PACKAGE", "CudaLocation", "LibraryStatus", "cuda_location", "load"]

PACKAGE = Path(__file__).parent


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
    return _load(PACKAGE)


def _load(folder: Path) -> LibraryStatus:
    path = folder / parameters.LIBRARY_NAME
    if not path.is_file():
        built = _cached(folder, CPU)
        if built is not None:
            folder, path = built, built / parameters.LIBRARY_NAME
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
        return (
            f"vitkern was installed without compiled kernels: {why}; to get them, where there is a"
            " C++ compiler: vitkern build --cpu"
        )
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


@dataclass(frozen=True)
class CudaLocation:
    """Where the CUDA library is, or would be.

    ``reason`` is one line that says why it is not there, or not to be used, and None where it is.
    ``build`` is what the build recorded; ``cached``: whether ``vitkern build`` made it.
    """

    path: Path
    reason: str | None = None
    build: dict[str, Any] = field(default_factory=dict, hash=False)
    cached: bool = False


@functools.cache
def cuda_location() -> CudaLocation:
    """The CUDA library, which is not loaded here. Never raises: see ``reason``."""
    return _cuda_location(PACKAGE)


def _cuda_location(package: Path) -> CudaLocation:
    built = _cached(package, CUDA)
    cached = None
    if built is not None:
        path, build = built / parameters.CUDA_LIBRARY_NAME, _cuda_build(built)
        cached = CudaLocation(path, None, build, cached=True)
        if build.get("forced"):
            return cached
    path, build = package / parameters.CUDA_LIBRARY_NAME, _cuda_build(package)
    if not path.is_file():
        why = build.get("reason", "no build was attempted")
        reason = (
            f"vitkern was installed without CUDA kernels: {why}; to get them, where there is a"
            " CUDA toolkit: vitkern build --cuda"
        )
    elif cuda_sources_digest(package.parent) not in (None, build.get("sources")):
        reason = "csrc/cuda is not what the CUDA library was built from: make build"
    else:
        return CudaLocation(path, None, build)
    return cached or CudaLocation(path, reason, build)


def _cuda_build(folder: Path) -> dict[str, Any]:
    try:
        return read_build_info(folder, parameters.CUDA_BUILD_INFO_NAME)
    except (OSError, ValueError):
        return {}


def _cached(package: Path, kind: Kind) -> Path | None:
    """The folder with what ``vitkern build`` made of the sources of this installation."""
    cache = _host.cache_folder()
    if cache is None:
        return None
    try:
        return find_cached(cache, kind, sources_root(package))
    except OSError:  # a folder that cannot be read
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
