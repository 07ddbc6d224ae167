"""Compiles csrc/ into the CPU library: in parallel, and only what is stale."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import parameters
from .parameters import Isa
from .toolchain import Compiler, TorchInstallation, find_compiler, find_torch
from .units import (
    BuildFailed,
    BuildUnavailable,
    Log,
    Progress,
    Unit,
    compile_stale,
    digest,
    link,
    locked,
    say,
)

__all__ = [
    "build_cpu_library",
    "cpu_requirements",
    "cpu_sources_digest",
    "read_build_info",
    "schemas_digest",
    "write_build_info",
]


def build_cpu_library(
    root: Path,
    build_dir: Path,
    *,
    version: str,
    test_isas: bool,
    progress: Progress | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Bring the library in ``build_dir`` up to date and return it with the build information.

    ``root`` is the folder that holds ``csrc``. Raises BuildUnavailable or BuildFailed.
    """
    compiler, torch = cpu_requirements(root)
    build_dir.mkdir(parents=True, exist_ok=True)
    with locked(build_dir / "lock"):
        return _build(
            root, build_dir, compiler, torch, version=version, test_isas=test_isas,
            progress=progress,
        )  # fmt: skip


def cpu_requirements(root: Path) -> tuple[Compiler, TorchInstallation]:
    """What a build needs.

    Raises:
        BuildUnavailable: something of it is missing.
    """
    if os.name != "posix":
        raise BuildUnavailable(f"no kernels for this platform yet ({sys.platform})")
    if not (root / "csrc" / "registration.cpp").is_file():
        raise BuildUnavailable("no C++ sources (csrc/registration.cpp)")
    compiler = find_compiler()
    if isinstance(compiler, str):
        raise BuildUnavailable(compiler)
    if not compiler.accepts(parameters.BASE_FLAGS):
        raise BuildUnavailable(
            f"the C++ compiler is too old for {parameters.CXX_STANDARD} ({compiler.version})"
        )
    torch = find_torch()
    if isinstance(torch, str):
        raise BuildUnavailable(torch)
    if torch.release < parameters.MINIMUM_TORCH:
        wanted = ".".join(map(str, parameters.MINIMUM_TORCH))
        raise BuildUnavailable(f"torch {torch.version} is too old (needs {wanted} or newer)")
    return compiler, torch


def _build(
    root: Path,
    build_dir: Path,
    compiler: Compiler,
    torch: TorchInstallation,
    *,
    version: str,
    test_isas: bool,
    progress: Progress | None,
) -> tuple[Path, dict[str, Any]]:
    log = Log(build_dir / "build.log")
    csrc = root / "csrc"
    isas, skipped = _instruction_sets(csrc / "cpu" / "isa", compiler, test_isas=test_isas)
    units = _units(csrc, build_dir / "objects", compiler, torch, isas)

    start = time.perf_counter()
    compiled = compile_stale(units, log, "2 to 7 minutes on 2 cores", progress)
    library = build_dir / parameters.LIBRARY_NAME
    _link(units, library, compiler, torch, log, force=bool(compiled))
    if compiled:
        say(f"compiled {compiled} of {len(units)} files in {time.perf_counter() - start:.1f} s")
    info = {
        "kernels": True,
        "vitkern": version,
        "torch": torch.version,
        "torch_minimum": ".".join(map(str, parameters.MINIMUM_TORCH)),
        "compiler": compiler.version,
        "machine": platform.machine(),
        "isas": [isa.name for isa in isas],
        "isas_skipped": skipped,
        "flags": {
            "all": [*parameters.BASE_FLAGS, *parameters.extra_flags()],
            "host": list(parameters.HOST_FLAGS),
            **{isa.name: list(isa.flags) for isa in isas},
        },
        "schemas": schemas_digest(root),
        "date": _date(),
    }
    return library, info


def _instruction_sets(
    folder: Path, compiler: Compiler, *, test_isas: bool
) -> tuple[list[Isa], dict[str, str]]:
    """The instruction sets that have a source and that the compiler knows; and who was skipped."""
    sources = {path.stem for path in folder.glob("*.cpp")}
    unknown = sources - {isa.name for isa in parameters.ISAS}
    if unknown:
        names = ", ".join(sorted(unknown))
        raise BuildFailed(f"csrc/cpu/isa: no row in vitkern/_build/parameters.py for {names}", "")
    chosen: list[Isa] = []
    skipped: dict[str, str] = {}
    for isa in parameters.isas_for(platform.machine(), test_isas=test_isas):
        if isa.name not in sources:
            continue
        if compiler.accepts(isa.flags):
            chosen.append(isa)
        else:
            skipped[isa.name] = "the compiler does not know its flags"
            say(f"{isa.name} left out: {skipped[isa.name]} ({compiler.version})")
    return chosen, skipped


def _units(
    csrc: Path,
    objects: Path,
    compiler: Compiler,
    torch: TorchInstallation,
    isas: Sequence[Isa],
) -> list[Unit]:
    extra = parameters.extra_flags()
    common = [*compiler.command, *parameters.BASE_FLAGS, f"-I{csrc}"]
    macros = [f"-D{isa.macro}=1" for isa in isas]
    host = [*common, *parameters.HOST_FLAGS, *macros, "-isystem", str(torch.include)]
    jobs: list[tuple[Path, list[str]]] = [
        # The widest instruction sets take the longest to compile, so they start first.
        *((csrc / "cpu" / "isa" / f"{isa.name}.cpp", [*common, *isa.flags]) for isa in isas[::-1]),
        *((path, host) for path in sorted((csrc / "cpu").glob("*.cpp"))),
        (csrc / "registration.cpp", host),
    ]
    units = []
    for source, command in jobs:
        relative = source.relative_to(csrc)
        target = objects / relative.with_suffix(".o")
        full = (*command, *extra, "-MMD", "-c", str(source), "-o", str(target))
        key = digest(*full, compiler.version, torch.version)
        units.append(Unit(source, target, full, (Path("csrc") / relative).as_posix(), key))
    return units


def _link(
    units: Sequence[Unit],
    library: Path,
    compiler: Compiler,
    torch: TorchInstallation,
    log: Log,
    *,
    force: bool,
) -> None:
    extra = parameters.extra_flags()
    if sys.platform == "darwin":
        flags = ["-dynamiclib", "-undefined", "dynamic_lookup"]
    else:
        flags = ["-shared", "-Wl,-O1", "-Wl,--as-needed", "-Wl,--gc-sections"]
        if not any("sanitize" in flag for flag in extra):
            flags.append("-Wl,--no-undefined")  # a missing symbol is an error now, not at import
    # torch is loaded before the library, so that its file is never searched for: no rpath.
    torch_flags = [f"-L{torch.library}", "-ltorch_cpu"]
    objects = [str(unit.object) for unit in units]
    command = (*compiler.command, *flags, *objects, *torch_flags, *extra)
    link(units, library, command, log, force=force)


def _date() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(epoch) if epoch.isdigit() else time.time()
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%d")


def cpu_sources_digest(root: Path) -> str | None:
    """A digest of all that the library is compiled from; None where it is not there."""
    csrc = root / "csrc"
    first = csrc / "registration.cpp"
    if not first.is_file():
        return None
    files = [first, *sorted(path for path in (csrc / "cpu").rglob("*") if path.is_file())]
    contents = [f"{path.relative_to(csrc)}\0{path.read_text(encoding='utf-8')}" for path in files]
    return digest(*contents)[:16]


def schemas_digest(root: Path) -> str | None:
    """A digest of csrc/registration.cpp, the schemas; None where the sources are not there."""
    try:
        source = (root / "csrc" / "registration.cpp").read_bytes()
    except OSError:
        return None
    return hashlib.sha256(source).hexdigest()[:16]


def write_build_info(
    folder: Path, info: dict[str, Any], name: str = parameters.BUILD_INFO_NAME
) -> Path:
    """Write the build information of a library, which whoever loads it reads."""
    path = folder / name
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path


def read_build_info(folder: Path, name: str = parameters.BUILD_INFO_NAME) -> dict[str, Any]:
    """The build information in a folder; empty where there is none."""
    try:
        info = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return info if isinstance(info, dict) else {}
