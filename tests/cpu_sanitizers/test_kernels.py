"""Accesses of memory, undefined behaviour and races of the CPU kernels, on random calls."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import needs
from tests.cpu_sanitizers import build
from vitkern.ops import _cpu

CALLS = 200
"""Of each kernel on each instruction set, gradients included."""

KERNELS = 9


def _run(program: Path, calls: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, str(calls)], capture_output=True, text=True, check=False)


@needs.library
@pytest.mark.parametrize("sanitizer", build.SANITIZERS)
def test_nothing_is_found(sanitizer: str) -> None:
    isas = _cpu.isas()  # that this machine runs
    folder = build.ROOT / "build" / f"cpu-sanitized-{sanitizer}"
    result = _run(build.build(folder, sanitizer, isas), CALLS)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stderr == ""
    *names, summary = result.stdout.splitlines()
    assert names == isas
    assert summary == f"{len(isas) * KERNELS * CALLS} calls, 0 failed"


@pytest.mark.parametrize(
    "sanitizer, file, right, wrong, message",
    [
        pytest.param(
            "address", "kernels/layer_norm.h",
            "for (; i + W <= n; i += W) store(out + i, load(x + i) + load(res + i));",
            "for (; i < n; i += W) store(out + i, load(x + i) + load(res + i));",
            "0 bytes to the right of", id="a-vector-too-many",
        ),
        pytest.param(
            "address", "simd/vec.h", "t[i] = to_float(p[i]);", "t[i + W - n + 1] = to_float(p[i]);",
            "out of bounds", id="an-index-too-large",
        ),
        pytest.param(
            "thread", "kernels/layer_norm.h",
            "double* totals = partial + task * 2 * padded;", "double* totals = partial;",
            "data race", id="tasks-share-a-sum",
        ),
        pytest.param(
            "thread", "kernels/layer_norm.h", "(float)n), sc = splat(scale);",
            "(float)n), sc = splat(r % 5 ? scale : 0.f / 0.f);", "dx.* is -?nan",
            id="a-result-is-not-finite",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_found(
    sanitizer: str, file: str, right: str, wrong: str, message: str, tmp_path: Path
) -> None:
    sources = tmp_path / "csrc"
    shutil.copytree(build.ROOT / "csrc" / "cpu", sources / "cpu")
    path = sources / "cpu" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    result = _run(build.build(tmp_path / "build", sanitizer, ["generic"], sources=sources), 100)
    assert result.returncode != 0
    assert re.search(message, result.stderr), result.stderr[-2000:]
