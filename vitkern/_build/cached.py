"""Libraries that are built when a user says so, in the user's cache folder.

``<cache>/kernels/<kind>-<machine>-<digest of the sources>/`` has a folder for each compiler and set
of flags that a library was built with: ``build-<digest>``, with the library and its build
information. It is renamed to that when both are complete, and never written to again, so that
processes may have the library loaded; a build by force goes to a folder of its own, and its
information has ``forced``. ``work`` beside it is where compilers write, and ``lock`` lets
one process build at a time.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import parameters
from .builder import build_cpu_library, cpu_requirements, cpu_sources_digest, write_build_info
from .cuda import build_cuda_library, cuda_flags, cuda_requirements, cuda_sources_digest
from .units import BuildFailed, Progress, digest, locked, say

__all__ = [
    "CPU",
    "CUDA",
    "Kind",
    "Plan",
    "build_cached",
    "find_cached",
    "plan_cpu",
    "plan_cuda",
    "sources_root",
]


@dataclass(frozen=True)
class Kind:
    """One of the two libraries.

    Attributes:
        name: ``cpu`` or ``cuda``.
        library, info: names of its file and of that with its build information.
        sources: gives the digest of the sources in a folder that holds ``csrc``, None without.
    """

    name: str
    library: str
    info: str
    sources: Callable[[Path], str | None]


CPU = Kind("cpu", parameters.LIBRARY_NAME, parameters.BUILD_INFO_NAME, cpu_sources_digest)
CUDA = Kind(
    "cuda", parameters.CUDA_LIBRARY_NAME, parameters.CUDA_BUILD_INFO_NAME, cuda_sources_digest
)


@dataclass(frozen=True)
class Plan:
    """A build that has everything it needs.

    Attributes:
        kind: of the library.
        sources: their digest.
        tools: a digest of compiler and flags.
        run: ``run(folder, progress)`` builds there; the library and its build information.
    """

    kind: Kind
    sources: str
    tools: str
    run: Callable[[Path, Progress], tuple[Path, dict[str, Any]]]


def sources_root(package: Path) -> Path | None:
    """The folder that holds ``csrc``: the package, if it was installed, else the source tree."""
    for root in (package, package.parent):
        if (root / "csrc" / "registration.cpp").is_file():
            return root
    return None


def plan_cpu(root: Path, version: str) -> Plan:
    """How the CPU library would be built.

    Raises:
        BuildUnavailable: something is missing.
    """
    compiler, torch = cpu_requirements(root)
    isas = [isa.name for isa in parameters.isas_for(platform.machine(), test_isas=False)]
    tools = digest(
        compiler.version, version, *parameters.BASE_FLAGS, *parameters.extra_flags(), *isas
    )

    def run(folder: Path, progress: Progress) -> tuple[Path, dict[str, Any]]:
        return build_cpu_library(root, folder, version=version, test_isas=False, progress=progress)

    return Plan(CPU, cpu_sources_digest(root) or "", tools, run)


def plan_cuda(root: Path, version: str, architectures: Sequence[int] = ()) -> Plan:
    """How the CUDA library would be built.

    Raises:
        BuildUnavailable: something is missing.
    """
    nvcc, chosen = cuda_requirements(root, architectures)
    tools = digest(nvcc.version, version, *cuda_flags(chosen))

    def run(folder: Path, progress: Progress) -> tuple[Path, dict[str, Any]]:
        return build_cuda_library(
            root, folder, version=version, architectures=chosen, progress=progress
        )

    return Plan(CUDA, cuda_sources_digest(root) or "", tools, run)


def find_cached(cache: Path, kind: Kind, root: Path | None) -> Path | None:
    """The folder with the library of these sources that was built, or asked for, last; or None.

    A library that somebody else could have put there is none.
    """
    kernels = cache / "kernels"
    if root is None or not any(kernels.glob(f"{kind.name}-{platform.machine()}-*")):
        return None  # without reading the sources
    sources = kind.sources(root)
    if sources is None:
        return None
    found = [path for path in _home(cache, kind, sources).glob("build-*") if _is_safe(path, kind)]
    return max(found, key=lambda path: (path / kind.info).stat().st_mtime_ns, default=None)


def build_cached(cache: Path, plan: Plan, *, force: bool = False) -> Path:
    """The folder with the library that was planned, built unless it is there; by force anew.

    Raises:
        BuildFailed: it does not compile, or the folder cannot be written.
    """
    home = _home(cache, plan.kind, plan.sources)
    name = plan.tools[:16] + (f"f{time.time_ns():x}" if force else "")
    final, work = home / f"build-{name}", home / "work"
    try:
        work.mkdir(parents=True, exist_ok=True)
        with locked(home / "lock", "another process builds these kernels: waiting for it"):
            if _is_safe(final, plan.kind):
                os.utime(final / plan.kind.info)
                return final
            if force:
                shutil.rmtree(work / "objects", ignore_errors=True)
            library, info = plan.run(work, _say_progress)
            _publish(plan.kind, library, info | {"forced": force}, final)
            shutil.rmtree(work / "objects", ignore_errors=True)
            library.unlink(missing_ok=True)
    except OSError as error:
        raise BuildFailed(f"the build could not write to {home}: {error}", "") from error
    return final


def _home(cache: Path, kind: Kind, sources: str) -> Path:
    return cache / "kernels" / f"{kind.name}-{platform.machine()}-{sources}"


def _publish(kind: Kind, library: Path, info: dict[str, Any], final: Path) -> None:
    temporary = final.with_name(f"{final.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    shutil.copy2(library, temporary / kind.library)
    write_build_info(temporary, info, kind.info)
    shutil.rmtree(final, ignore_errors=True)  # incomplete, or not this user's
    temporary.rename(final)


def _is_safe(folder: Path, kind: Kind) -> bool:
    """Whether a complete library is there that only this user, or root, can have written."""
    if not folder.name.removeprefix("build-").isalnum():
        return False  # not renamed yet
    try:
        states = [path.stat() for path in (folder, folder / kind.library, folder / kind.info)]
    except OSError:
        return False
    owners = {0, os.getuid()} if hasattr(os, "getuid") else {state.st_uid for state in states}
    return all(
        state.st_uid in owners and not state.st_mode & stat.S_IWOTH for state in states
    )  # fmt: skip


def _say_progress(done: int, count: int, label: str, seconds: float) -> None:
    say(f"{done} of {count} compiled after {seconds:.0f} s: {label}")
