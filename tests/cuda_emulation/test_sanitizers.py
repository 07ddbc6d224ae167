"""The kernels under the address and undefined-behaviour sanitizers: accesses of global memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_emulation.test_planted import _GEMM
from vitkern._build import Compiler, find_compiler
from vitkern.testing import build


def _runtime() -> str:
    """The address sanitizer's library, which has to be there before Python."""
    compiler = find_compiler()
    assert isinstance(compiler, Compiler)
    command = [*compiler.command, "-print-file-name=libasan.so"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_file():
        pytest.skip("the compiler has no shared address sanitizer")
    return path


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "LD_PRELOAD": _runtime(), "PYTHONPATH": str(build.ROOT),
        "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0",
        "UBSAN_OPTIONS": "print_stacktrace=1", "PYTHONMALLOC": "malloc",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )


def test_nothing_is_found() -> None:
    library = build.build(build.ROOT / "build" / "cuda-sanitized", flags=build.SANITIZE)
    script = Path(__file__).with_name("sanitized.py")
    result = _run(str(script), str(library))
    assert result.returncode == 0, result.stderr[-4000:]
    found = re.fullmatch(r"(\d+) cases passed", result.stdout.strip())
    assert found is not None
    assert int(found[1]) > 20


SCRIPT = """
import sys
from pathlib import Path
from tests.cuda_emulation import runs
from vitkern.testing.emulation import kernels_of
runs.{run}(kernels_of(Path(sys.argv[1]), "planted"))
"""


@pytest.mark.parametrize(
    "run, right, wrong, message",
    [
        pytest.param(
            "scattered_product", "row < rows ? source", "row <= rows ? source",
            "heap-buffer-overflow", id="a-row-too-many",
        ),
        pytest.param(
            "scattered_product", "offsets[EACH];", "offsets[EACH - 1];",
            "insufficient space|out of bounds", id="a-register-too-few",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_found(run: str, right: str, wrong: str, message: str, tmp_path: Path) -> None:
    sources = tmp_path / "cuda"
    shutil.copytree(build.SOURCES, sources)
    path = sources / _GEMM
    text = path.read_text(encoding="utf-8")
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    library = build.build(
        tmp_path / "build", sources=sources, only=["gemm", "gemm_sm90a"], flags=build.SANITIZE
    )
    result = _run("-c", SCRIPT.format(run=run), str(library))
    assert result.returncode != 0
    assert re.search(message, result.stderr), result.stderr[-2000:]
