"""Builds csrc/cuda against the emulation of tests/cuda_emulation, for the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitkern._build import Compiler, find_compiler, parameters
from vitkern._build.units import (
    BuildUnavailable,
    Log,
    Unit,
    compile_stale,
    digest,
    link,
    locked,
)

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc" / "cuda"
EMULATION = ROOT / "tests" / "cuda_emulation"
LIBRARY = "libvitkern_cuda_emulated.so"

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1", "-g1")

_FLAGS = (
    "-x", "c++", parameters.CXX_STANDARD, "-O2", "-march=native", "-ffp-contract=off", "-fPIC",
    "-fvisibility=hidden", "-DVITKERN_EMULATED", "-DVITKERN_SM90A", "-Wall", "-Wno-unknown-pragmas",
)  # fmt: skip


def build(
    folder: Path, *, sources: Path = SOURCES, only: Sequence[str] = (), flags: Sequence[str] = ()
) -> Path:
    """Bring the emulated library in a folder up to date, with a line that says so; its path.

    Args:
        folder: for objects and the library.
        sources: the folder with the ``.cu`` files.
        only: names of files to take, without ``.cu``; all by default. What the library says about
            itself is always there.
        flags: for the compiler, after all others.

    Raises:
        BuildUnavailable: no source tree, or no compiler.
        BuildFailed: the compiler's message is its ``output``.
    """
    if not (SOURCES / "library.cu").is_file() or not (EMULATION / "emulation.hpp").is_file():
        raise BuildUnavailable(
            "the emulation of CUDA kernels needs vitkern's source tree (csrc/cuda and"
            f" tests/cuda_emulation), and {ROOT} is none"
        )
    compiler = find_compiler()
    if isinstance(compiler, str):
        raise BuildUnavailable(compiler)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        log = Log(folder / "build.log")
        names = {*only, "library"} if only else {path.stem for path in sources.glob("*.cu")}
        units = _units(folder / "objects", sources, sorted(names), compiler, flags)
        compiled = compile_stale(units, log, "CUDA kernels for the CPU: half a minute on 2 cores")
        objects = [str(unit.object) for unit in units]
        command = (*compiler.command, "-shared", *objects, *flags)
        link(units, folder / LIBRARY, command, log, force=bool(compiled))
    return folder / LIBRARY


def _units(
    objects: Path, sources: Path, names: Sequence[str], compiler: Compiler, flags: Sequence[str]
) -> list[Unit]:
    files = [*(sources / f"{name}.cu" for name in names), EMULATION / "control.cpp"]
    units = []
    for file in files:
        target = objects / f"{file.stem}.o"
        command = (
            *compiler.command, *_FLAGS, f"-I{EMULATION}", f"-I{sources}", *flags,
            "-MMD", "-c", str(file), "-o", str(target),
        )  # fmt: skip
        units.append(Unit(file, target, command, file.name, digest(*command, compiler.version)))
    return units
