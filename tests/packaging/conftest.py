"""A small copy of the project that builds in seconds, and the build package that it contains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

REGISTRATION = """
#include "cpu/scale.h"
extern "C" __attribute__((visibility("default"))) int vitkern_scale() { return scale(2); }
"""
SCALE = """
#include "cpu/scale.h"
int scale(int x) {
#ifdef VITKERN_ISA_GENERIC
  return FACTOR * generic::scale(x);
#else
  return -1;
#endif
}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project with C++ sources of a few lines, which include no torch headers."""
    root = tmp_path / "project"
    ignore = shutil.ignore_patterns("*.so", "*.build.json", "__pycache__")
    shutil.copytree(ROOT / "vitkern", root / "vitkern", ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, root)
    (root / "README.md").write_text("vitkern\n")
    isa = root / "csrc" / "cpu" / "isa"
    isa.mkdir(parents=True)
    (root / "csrc/registration.cpp").write_text(REGISTRATION)
    (root / "csrc/cpu/scale.cpp").write_text(SCALE)
    (root / "csrc/cpu/scale.h").write_text(
        "#pragma once\n#define FACTOR 3\nint scale(int);\nnamespace generic { int scale(int); }\n"
    )
    (isa / "generic.cpp").write_text("namespace generic { int scale(int x) { return x; } }\n")
    (isa / "avx512_emulated.cpp").write_text("namespace emulated { int f() { return 0; } }\n")
    return root


@pytest.fixture
def with_cuda_sources(project: Path) -> Path:
    """The project with a few of the CUDA sources: what compiles in seconds."""
    folder = project / "csrc" / "cuda"
    folder.mkdir()
    for file in (ROOT / "csrc" / "cuda").iterdir():
        if file.suffix == ".cuh" or file.name in ("library.cu", "column_sums.cu"):
            shutil.copy(file, folder)
    return project


@pytest.fixture
def pip_wheel(
    project: Path, tmp_path: Path
) -> Callable[..., tuple[subprocess.CompletedProcess[str], list[Path]]]:
    """Builds the project's wheel with given environment variables."""

    def build(**variables: str) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
        out = tmp_path / "wheels"
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
        result = subprocess.run(
            [*command, "--no-index", "-v", "-w", str(out), str(project)],
            env={**clean_environment(), "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return result, sorted(out.glob("*.whl"))

    return build


def clean_environment() -> dict[str, str]:
    """The environment without variables that steer the build."""
    dropped = {"CXX", "MAX_JOBS", "PYTHONPATH", "SOURCE_DATE_EPOCH"}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith("VITKERN_BUILD_")
    }


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
