"""Builds csrc/cpu's kernels, without PyTorch, into a program that runs them under a sanitizer.

PyTorch is not instrumented, and a thread sanitizer would see races where it merely does not see the
locks of PyTorch's threads. The kernels know their host by a few pointers (csrc/cpu/runtime.h), so
that host.hpp can be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitkern._build import Compiler, find_compiler, parameters
from vitkern._build.units import BuildUnavailable, Log, Unit, compile_stale, digest, link, locked

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

SANITIZERS = {"address": "address,undefined", "thread": "thread"}
"""What a build is called, and the compiler's name for it."""


def build(
    folder: Path, sanitizer: str, isas: Sequence[str], *, sources: Path = ROOT / "csrc"
) -> Path:
    """Bring the program in a folder up to date; its path.

    Args:
        folder: for objects and the program.
        sanitizer: a key of SANITIZERS.
        isas: instruction sets, by the names of their files.
        sources: the folder with ``cpu``.

    Raises:
        BuildUnavailable: no compiler.
        BuildFailed: the compiler's message is its ``output``.
    """
    compiler = find_compiler()
    if not isinstance(compiler, Compiler):
        raise BuildUnavailable(compiler)
    flags = {isa.name: isa.flags for isa in parameters.ISAS}
    each = f"-DVITKERN_EACH_ISA(f)={' '.join(f'f({isa})' for isa in isas)}"
    # After the flags of a real build. Only -O1: what it does not drop is what can be found.
    watched = (
        "-O1", "-g1", f"-fsanitize={SANITIZERS[sanitizer]}", "-fno-sanitize-recover=undefined",
        f"-I{sources}", f"-I{HERE}",
    )  # fmt: skip
    files = [(sources / "cpu" / "isa" / f"{isa}.cpp", flags[isa]) for isa in reversed(isas)]
    files.append((HERE / "driver.cpp", (each,)))
    folder.mkdir(parents=True, exist_ok=True)
    units = []
    for file, own in files:
        target = folder / f"{file.stem}.o"
        command = (
            *compiler.command, *parameters.BASE_FLAGS, *own, *watched,
            "-MMD", "-c", str(file), "-o", str(target),
        )  # fmt: skip
        units.append(Unit(file, target, command, file.name, digest(*command, compiler.version)))
    program = folder / "driver"
    with locked(folder / "lock"):
        log = Log(folder / "build.log")
        compiled = compile_stale(units, log, "minutes")
        objects = [str(unit.object) for unit in units]
        command = (*compiler.command, *objects, *watched, "-pthread")
        link(units, program, command, log, force=bool(compiled))
    return program
