"""Builds the wheel, with the CPU kernels where that is possible.

Metadata is in pyproject.toml. How the library is compiled, and which environment variables say
so, is in vitkern/_build (see the top of parameters.py).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import warnings
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
LIBRARY = build.parameters.LIBRARY_NAME


class Kernels:
    """The library for one run of setup.py: built at most once, or the reason why there is none."""

    def __init__(self) -> None:
        try:
            self.mode = build.parameters.build_mode("CPU")
            cuda = build.parameters.build_mode("CUDA")
        except ValueError as error:
            sys.exit(f"vitkern: {error}")
        if cuda == "1":
            sys.exit("vitkern: VITKERN_BUILD_CUDA=1: this version compiles no CUDA library")
        self.library: Path | None = None
        self.info: dict[str, Any] = {}

    def make(self, version: str, *, in_place: bool, strict: bool = False) -> None:
        """Build once; ``strict`` makes a compiler error fatal though the mode is ``auto``."""
        if self.info:
            return
        # The two differ in their files (tests' instruction sets), so each has its own objects.
        folder = ROOT / "build" / ("vitkern" if in_place else "vitkern-wheel")
        try:
            if self.mode == "0":
                raise build.BuildUnavailable("VITKERN_BUILD_CPU=0")
            self.library, self.info = build.build_cpu_library(
                ROOT, folder, version=version, test_isas=in_place
            )
        except build.BuildError as error:
            failed = isinstance(error, build.BuildFailed)
            if failed:
                print(error.output, file=sys.stderr)
            self.info = {"kernels": False, "vitkern": version, "reason": str(error)}
            if self.mode == "1" or (strict and failed):
                if in_place:
                    self.install(ROOT / "vitkern")  # no stale library stays behind
                sys.exit(f"vitkern: kernels not built: {error}")
            message = f"vitkern: pure Python, without kernels: {error}"
            if strict:
                print(message, file=sys.stderr)
            else:
                warnings.warn(message, stacklevel=1)  # pip hides output, but shows warnings

    def install(self, package: Path) -> None:
        """Put the library (if any) and its build information into a package folder."""
        target = package / LIBRARY
        if self.library is None:
            target.unlink(missing_ok=True)
        elif not _same_file(self.library, target):
            # Replaced, never overwritten: running processes have the old file mapped.
            temporary = target.with_suffix(f".{os.getpid()}")
            shutil.copy2(self.library, temporary)
            os.replace(temporary, target)
        build.write_build_info(package, self.info)


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
        return kernels.library is not None


class BuildPackage(build_py):
    """Adds the library to the package: in place for editable installs."""

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
            kernels.install(Path(self.build_lib) / "vitkern")


class BuildWheel(bdist_wheel):
    """Tags the wheel by what was built: cp310-abi3 with the library, py3-none-any without."""

    def run(self) -> None:
        kernels.make(self.distribution.get_version(), in_place=False)
        self.root_is_pure = kernels.library is None
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
