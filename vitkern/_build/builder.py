"""Compiles csrc/ into the CPU library: in parallel, and only what is stale."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import parameters
from .parameters import Isa
from .toolchain import Compiler, TorchInstallation, find_compiler, find_torch

__all__ = [
    "BuildError",
    "BuildFailed",
    "BuildUnavailable",
    "build_cpu_library",
    "read_build_info",
    "schemas_digest",
    "write_build_info",
]


class BuildError(Exception):
    """The library was not built; the message is one line."""


class BuildUnavailable(BuildError):
    """Something that a build needs is missing."""


class BuildFailed(BuildError):
    """The compiler or the linker failed."""

    def __init__(self, message: str, output: str) -> None:
        super().__init__(message)
        self.output = output


@dataclass(frozen=True)
class _Unit:
    """One source file, its object file and the command between them."""

    source: Path
    object: Path
    command: tuple[str, ...]
    label: str  # the source as messages name it
    key: str  # a digest of all that the object depends on, other than files

    @property
    def depfile(self) -> Path:
        return self.object.with_suffix(".d")

    @property
    def keyfile(self) -> Path:
        return self.object.with_suffix(".key")


def build_cpu_library(
    root: Path, build_dir: Path, *, version: str, test_isas: bool
) -> tuple[Path, dict[str, Any]]:
    """Bring the library in ``build_dir`` up to date and return it with the build information.

    ``root`` is the folder that holds ``csrc``. Raises BuildUnavailable or BuildFailed.
    """
    compiler, torch = _requirements(root)
    build_dir.mkdir(parents=True, exist_ok=True)
    with _locked(build_dir / "lock"):
        return _build(root, build_dir, compiler, torch, version=version, test_isas=test_isas)


def _requirements(root: Path) -> tuple[Compiler, TorchInstallation]:
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
) -> tuple[Path, dict[str, Any]]:
    log = _Log(build_dir / "build.log")
    csrc = root / "csrc"
    isas, skipped = _instruction_sets(csrc / "cpu" / "isa", compiler, test_isas=test_isas)
    units = _units(csrc, build_dir / "objects", compiler, torch, isas)

    stale = [unit for unit in units if _is_stale(unit)]
    if stale:
        whole = " (1 to 3 minutes on 2 cores)" if len(stale) == len(units) else ""
        _say(f"compiling {len(stale)} file{'s' * (len(stale) != 1)}{whole}")
    start = time.perf_counter()
    with ThreadPoolExecutor(parameters.job_count()) as pool:
        futures = [pool.submit(_compile, unit, log) for unit in stale]
        errors = [error for future in futures if (error := future.result()) is not None]
    if errors:
        labels = ", ".join(label for label, _ in errors)
        raise BuildFailed(
            f"{labels} did not compile (log: {_shown(log.path)})",
            "".join(output for _, output in errors),
        )

    library = build_dir / parameters.LIBRARY_NAME
    _link(units, library, compiler, torch, log, force=bool(stale))
    if stale:
        _say(f"compiled {len(stale)} of {len(units)} files in {time.perf_counter() - start:.1f} s")
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
            _say(f"{isa.name} left out: {skipped[isa.name]} ({compiler.version})")
    return chosen, skipped


def _units(
    csrc: Path,
    objects: Path,
    compiler: Compiler,
    torch: TorchInstallation,
    isas: Sequence[Isa],
) -> list[_Unit]:
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
        key = _digest(*full, compiler.version, torch.version)
        units.append(_Unit(source, target, full, (Path("csrc") / relative).as_posix(), key))
    return units


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _is_stale(unit: _Unit) -> bool:
    """Whether the object is missing, or older than a file it was made from, or made otherwise."""
    try:
        made = unit.object.stat().st_mtime_ns
        if unit.keyfile.read_text(encoding="utf-8") != unit.key:
            return True
        return any(path.stat().st_mtime_ns > made for path in _dependencies(unit.depfile))
    except FileNotFoundError:
        return True


def _dependencies(depfile: Path) -> list[Path]:
    """The files that a compiler's depfile names (a Makefile rule with escaped spaces)."""
    _, _, names = depfile.read_text(encoding="utf-8").replace("\\\n", " ").partition(": ")
    return [Path(name) for name in shlex.split(names)]


def _compile(unit: _Unit, log: _Log) -> tuple[str, str] | None:
    """Compile one file; its label and the compiler's output if that fails."""
    unit.object.parent.mkdir(parents=True, exist_ok=True)
    unit.keyfile.unlink(missing_ok=True)
    started = time.time_ns()
    output, failed = log.run(unit.command)
    if failed:
        return unit.label, output
    if output:
        print(output, file=sys.stderr, end="")  # warnings
    # A file edited while the compiler ran has to count as newer than the object.
    os.utime(unit.object, ns=(started, started))
    unit.keyfile.write_text(unit.key, encoding="utf-8")
    return None


def _link(
    units: Sequence[_Unit],
    library: Path,
    compiler: Compiler,
    torch: TorchInstallation,
    log: _Log,
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
    temporary = library.with_suffix(".tmp")
    objects = [str(unit.object) for unit in units]
    command = (*compiler.command, *flags, "-o", str(temporary), *objects, *torch_flags, *extra)
    keyfile = library.with_suffix(".key")
    key = _digest(*command, *(unit.key for unit in units))
    if (
        not force
        and library.is_file()
        and keyfile.is_file()
        and keyfile.read_text(encoding="utf-8") == key
    ):
        return
    keyfile.unlink(missing_ok=True)
    output, failed = log.run(command)
    if failed:
        raise BuildFailed(f"the library did not link (log: {_shown(log.path)})", output)
    os.replace(temporary, library)
    keyfile.write_text(key, encoding="utf-8")


class _Log:
    """Runs commands and keeps what they said in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("", encoding="utf-8")

    def run(self, command: Sequence[str]) -> tuple[str, bool]:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"$ {shlex.join(command)}\n{result.stdout}")
        return result.stdout, result.returncode != 0


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One build at a time in a folder, whoever started the others."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _date() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(epoch) if epoch.isdigit() else time.time()
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%d")


def _shown(path: Path) -> str:
    """A path as short as it can be said."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _say(message: str) -> None:
    print(f"vitkern: {message}", file=sys.stderr)


def schemas_digest(root: Path) -> str | None:
    """A digest of csrc/registration.cpp, the schemas; None where the sources are not there."""
    try:
        source = (root / "csrc" / "registration.cpp").read_bytes()
    except OSError:
        return None
    return hashlib.sha256(source).hexdigest()[:16]


def write_build_info(folder: Path, info: dict[str, Any]) -> Path:
    """Write the build information that ``vitkern._library`` reads."""
    path = folder / parameters.BUILD_INFO_NAME
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path


def read_build_info(folder: Path) -> dict[str, Any]:
    """The build information in a folder; empty where there is none."""
    try:
        info = json.loads((folder / parameters.BUILD_INFO_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return info if isinstance(info, dict) else {}
