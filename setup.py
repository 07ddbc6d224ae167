"""Builds the wheel, with the kernels where that is possible.

Metadata is in pyproject.toml. How the libraries are compiled, and which environment variables say
so, is in vitkern/_build (see the top of parameters.py).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def load_build_package() -> ModuleType:
    """vitkern._build on its own: importing vitkern needs torch, which may not be here."""
    folder = ROOT / "vitkern" / "_build"
    spec = importlib.util.spec_from_file_location(
        "_vitkern_build", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = load_build_package()


class Part:
    """A library for one run of setup.py: built at most once, or the reason why there is none.

    Args:
        kind: ``CPU`` or ``CUDA``, as the environment variables call it.
        build: ``build(folder, version, in_place)`` gives the library and its build information.
        library, info: names of the two files in the package.
    """

    def __init__(
        self, kind: str, build: Callable[[Path, str, bool], Any], library: str, info: str
    ) -> None:
        self.kind, self.build, self.names = kind, build, (library, info)
        self.library: Path | None = None
        self.info: dict[str, Any] = {}

    def make(self, version: str, *, in_place: bool, strict: bool = False) -> None:
        """Build once; ``strict`` makes a compiler error fatal though the mode is ``auto``."""
        if self.info:
            return
        try:
            built = (ROOT / "vitkern" / self.names[0]).is_file()
            mode = build.parameters.build_mode(self.kind, optional=in_place and not built)
        except ValueError as error:
            sys.exit(f"vitkern: {error}")
        # The two may differ in their files (tests' instruction sets): each has its own objects.
        name = "vitkern" if in_place else "vitkern-wheel"
        folder = ROOT / "build" / (name if self.kind == "CPU" else f"{name}-{self.kind.lower()}")
        try:
            if mode == "0":
                raise build.BuildUnavailable(build.parameters.not_wanted(self.kind))
            self.library, self.info = self.build(folder, version, in_place)
        except build.BuildError as error:
            failed = isinstance(error, build.BuildFailed)
            if failed:
                print(error.output, file=sys.stderr)
            self.info = {"kernels": False, "vitkern": version, "reason": str(error)}
            if mode == "1" or (strict and failed):
                if in_place:
                    self.install(ROOT / "vitkern")  # no stale library stays behind
                name = "CUDA kernels" if self.kind == "CUDA" else "kernels"
                sys.exit(f"vitkern: {name} not built: {error}")
            self.warn(mode, str(error), strict)

    def warn(self, mode: str, reason: str, strict: bool) -> None:
        """Say that there is no library; no word of CUDA kernels that nobody asked for."""
        if self.kind == "CUDA":
            if mode != "0":
                print(f"vitkern: without CUDA kernels: {reason}", file=sys.stderr)
            return
        message = f"vitkern: pure Python, without kernels: {reason}"
        if strict:
            print(message, file=sys.stderr)
        else:
            warnings.warn(message, stacklevel=1)  # pip hides output, but shows warnings

    def install(self, package: Path) -> None:
        """Put the library (if any) and its build information into a package folder."""
        target = package / self.names[0]
        if self.library is None:
            target.unlink(missing_ok=True)
        elif not _same_file(self.library, target):
            # Replaced, never overwritten: running processes have the old file mapped.
            temporary = target.with_suffix(f".{os.getpid()}")
            shutil.copy2(self.library, temporary)
            os.replace(temporary, target)
        build.write_build_info(package, self.info, self.names[1])


class Kernels:
    """All libraries."""

    def __init__(self) -> None:
        names = build.parameters
        self.parts = (
            Part("CPU", _build_cpu, names.LIBRARY_NAME, names.BUILD_INFO_NAME),
            Part("CUDA", _build_cuda, names.CUDA_LIBRARY_NAME, names.CUDA_BUILD_INFO_NAME),
        )

    @property
    def built(self) -> bool:
        """Whether there is any."""
        return any(part.library is not None for part in self.parts)

    def make(self, version: str, *, in_place: bool, strict: bool = False) -> None:
        """Build each once."""
        for part in self.parts:
            part.make(version, in_place=in_place, strict=strict)

    def install(self, package: Path) -> None:
        """Put them into a package folder."""
        for part in self.parts:
            part.install(package)


def _build_cpu(folder: Path, version: str, in_place: bool) -> Any:
    return build.build_cpu_library(ROOT, folder, version=version, test_isas=in_place)


def _build_cuda(folder: Path, version: str, in_place: bool) -> Any:
    return build.build_cuda_library(ROOT, folder, version=version)


def _same_file(one: Path, other: Path) -> bool:
    try:
        a, b = one.stat(), other.stat()
    except FileNotFoundError:
        return False
    return (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)


kernels = Kernels()


class VitkernDistribution(Distribution):
    """Binary exactly if the library was built."""

    def has_ext_modules(self) -> bool:
        return kernels.built


class BuildPackage(build_py):
    """Adds the libraries to the package: in place for editable installs."""

    def run(self) -> None:
        version = self.distribution.get_version()
        if self.editable_mode:
            kernels.make(version, in_place=True)
            super().run()
            kernels.install(ROOT / "vitkern")
        else:
            kernels.make(version, in_place=False)
            shutil.rmtree(self.build_lib, ignore_errors=True)  # nothing of an older build
            super().run()
            package = Path(self.build_lib) / "vitkern"
            kernels.install(package)
            # For `vitkern build`: whoever installs without a compiler may get one.
            if (ROOT / "csrc").is_dir():
                shutil.copytree(ROOT / "csrc", package / "csrc")


class BuildWheel(bdist_wheel):
    """Tags the wheel by what was built: cp310-abi3 with a library, py3-none-any without."""

    def run(self) -> None:
        kernels.make(self.distribution.get_version(), in_place=False)
        self.root_is_pure = not kernels.built
        super().run()


class BuildKernels(Command):
    """``make build``: the library in place. Missing tools are no error, what they say is."""

    description = "build the compiled library in place"
    user_options: ClassVar[list[tuple[str, str, str]]] = []

    def initialize_options(self) -> None: ...

    def finalize_options(self) -> None: ...

    def run(self) -> None:
        kernels.make(self.distribution.get_version(), in_place=True, strict=True)
        kernels.install(ROOT / "vitkern")


setup(
    distclass=VitkernDistribution,
    cmdclass={
        "build_py": BuildPackage,
        "bdist_wheel": BuildWheel,
        "build_kernels": BuildKernels,
    },
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
