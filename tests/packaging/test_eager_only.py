"""A machine without the compiled library and without a compiler: there tests pass on ``eager``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, clean_environment

# Tests of every kind that ask what the machine has: for kernels, the library, a compiler.
ASK = (
    "bench/gpu/test_check.py::test_each_backend_is_a_system",
    "bench/page/test_measuring.py",
    "ops/test_compile.py::test_inductor",
    "ops/test_forms.py",
    "ops/test_kernels.py::test_attention_of_large_scores",
    "ops/test_kernels.py::test_slopes_of_activations",
    "packaging/test_build.py",
    "patching/test_report.py",
)


@pytest.mark.slow
def test_tests_know_what_there_is_not(project: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests", project / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin").mkdir()  # all that is on the path: no compiler
    ours = ("PYTEST_", "VITKERN_", "TRITON_")
    environment = {n: v for n, v in clean_environment().items() if not n.startswith(ours)} | {
        "PATH": str(tmp_path / "bin"),
        "PYTHONPATH": str(project),
        "VITKERN_CACHE_DIR": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider"]
        + [os.path.join("tests", one) for one in ASK],
        cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-1000:]
    skipped = [line for line in result.stdout.splitlines() if line.startswith("SKIPPED")]
    for reason in (
        "without compiled kernels",
        "Inductor has no C++ compiler",
        "no C++ compiler (c++",
    ):
        assert any(reason in line for line in skipped), f"nothing was skipped for {reason!r}"
