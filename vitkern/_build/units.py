"""Compiles files and links them: in parallel, and only what is stale."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from . import parameters

__all__ = [
    "BuildError",
    "BuildFailed",
    "BuildUnavailable",
    "Log",
    "Progress",
    "Unit",
    "compile_stale",
    "digest",
    "link",
    "locked",
    "say",
]


Progress = Callable[[int, int, str, float], None]
"""Called after each file: how many are done, of how many, the file's label, seconds so far."""


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
class Unit:
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


def compile_stale(
    units: Sequence[Unit], log: Log, takes: str, progress: Progress | None = None
) -> int:
    """Compile what is stale, and return how many files that were; ``takes``: how long all take.

    Raises:
        BuildFailed: a file did not compile.
    """
    stale = [unit for unit in units if _is_stale(unit)]
    if stale:
        whole = f" ({takes})" if len(stale) == len(units) else ""
        say(f"compiling {len(stale)} file{'s' * (len(stale) != 1)}{whole}")
    with ThreadPoolExecutor(parameters.job_count()) as pool:
        started = time.perf_counter()
        futures = {pool.submit(_compile, unit, log): unit for unit in stale}
        for done, future in enumerate(as_completed(futures) if progress is not None else (), 1):
            if future.exception() is None and future.result() is None and progress is not None:
                seconds = time.perf_counter() - started
                progress(done, len(stale), futures[future].label, seconds)
        errors = [error for future in futures if (error := future.result()) is not None]
    if errors:
        labels = ", ".join(label for label, _ in errors[:3])
        if len(errors) > 3:
            labels += f" and {len(errors) - 3} more"
        raise BuildFailed(
            f"{labels} did not compile (log: {_shown(log.path)})",
            "".join(output for _, output in errors),
        )
    return len(stale)


def link(
    units: Sequence[Unit], library: Path, command: Sequence[str], log: Log, *, force: bool
) -> None:
    """Make the library by the command (which names no output), unless it is what it would be.

    Raises:
        BuildFailed: it did not link.
    """
    keyfile = library.with_suffix(".key")
    key = digest(*command, *(unit.key for unit in units))
    if (
        not force
        and library.is_file()
        and keyfile.is_file()
        and keyfile.read_text(encoding="utf-8") == key
    ):
        return
    keyfile.unlink(missing_ok=True)
    temporary = library.with_suffix(".tmp")
    output, failed = log.run((*command, "-o", str(temporary)))
    if failed:
        raise BuildFailed(f"the library did not link (log: {_shown(log.path)})", output)
    os.replace(temporary, library)
    keyfile.write_text(key, encoding="utf-8")


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _is_stale(unit: Unit) -> bool:
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


def _compile(unit: Unit, log: Log) -> tuple[str, str] | None:
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


class Log:
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
def locked(path: Path, waiting: str | None = None) -> Iterator[None]:
    """One build at a time in a folder, whoever started the others; ``waiting`` is said if any."""
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _shown(path: Path) -> str:
    """A path as short as it can be said."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def say(message: str) -> None:
    print(f"vitkern: {message}", file=sys.stderr, flush=True)
