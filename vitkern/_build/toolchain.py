"""Finds the compiler and torch, without importing torch."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Compiler", "TorchInstallation", "find_compiler", "find_torch"]


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that runs."""

    command: tuple[str, ...]
    version: str

    def accepts(self, flags: Iterable[str]) -> bool:
        """Whether the compiler knows the flags (and the target has them)."""
        command = [*self.command, *flags, "-Werror", "-x", "c++", "-E", os.devnull]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class TorchInstallation:
    """torch's folder and version."""

    root: Path
    version: str

    @property
    def include(self) -> Path:
        return self.root / "include"

    @property
    def library(self) -> Path:
        return self.root / "lib"

    @property
    def release(self) -> tuple[int, int]:
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


def find_compiler() -> Compiler | str:
    """The compiler, or one line that says why there is none."""
    chosen = os.environ.get("CXX", "").strip()
    candidates = [shlex.split(chosen)] if chosen else [["c++"], ["g++"], ["clang++"]]
    for command in candidates:
        if shutil.which(command[0]) is None:
            continue
        try:
            result = subprocess.run(
                [*command, "--version"], capture_output=True, text=True, check=False
            )
        except OSError as error:
            return f"the C++ compiler does not run ({error})"
        if result.returncode != 0:
            return f"the C++ compiler does not run ({shlex.join(command)} --version fails)"
        return Compiler(tuple(command), result.stdout.partition("\n")[0].strip())
    return f"no C++ compiler (CXX={chosen})" if chosen else "no C++ compiler (c++, g++, clang++)"


def find_torch() -> TorchInstallation | str:
    """The torch of this Python, or one line that says why there is none to build against."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return "no torch in the build environment (pip needs --no-build-isolation to see it)"
    root = Path(next(iter(spec.submodule_search_locations)))
    version_file = root / "version.py"
    match = None
    if version_file.is_file():
        text = version_file.read_text(encoding="utf-8")
        match = re.search(r"^__version__\s*=\s*['\"](\d+\.\d+[^'\"]*)", text, re.MULTILINE)
    if match is None:
        return "the torch in the build environment has no readable version"
    if not (root / "include/torch/csrc/stable/library.h").is_file():
        return f"torch {match[1]} in the build environment has no stable C++ headers"
    return TorchInstallation(root, match[1])
