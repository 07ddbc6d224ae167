"""The CUDA library: built without a GPU, loaded without one, and left out with a reason."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vitkern import _build, _library
from vitkern._build import parameters
from vitkern._build.cuda import _architectures
from vitkern.ops._cuda import device
from vitkern.ops._cuda.library import CudaLibrary

PipWheel = Callable[..., tuple[subprocess.CompletedProcess[str], list[Path]]]
needs_nvcc = pytest.mark.skipif(isinstance(_build.find_nvcc(), str), reason=str(_build.find_nvcc()))


@needs_nvcc
def test_wheel_has_the_library(
    with_cuda_sources: Path, pip_wheel: PipWheel, tmp_path: Path
) -> None:
    result, wheels = pip_wheel(
        VITKERN_BUILD_CPU="0", VITKERN_BUILD_CUDA="1", VITKERN_CUDA_ARCHITECTURES="90;80"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = wheels
    assert "-none-any" not in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        info = json.loads(archive.read("vitkern/_cuda.build.json"))
        library = Path(archive.extract("vitkern/_cuda.so", tmp_path))
    assert info["architectures"] == "80+PTX;90"
    loaded = CudaLibrary(library)
    assert loaded.architectures == info["architectures"]
    runtime, driver = loaded.versions()
    assert runtime // 1000 == int(info["cuda"].partition(".")[0])
    assert driver >= 0
    _check_symbols(library)


def _check_symbols(library: Path) -> None:
    """It gives away its entry points only, and wants nothing of torch, CUDA or Python."""
    if shutil.which("nm") is None:
        return
    listed = subprocess.run(
        ["nm", "-D", str(library)], capture_output=True, text=True, check=True
    ).stdout
    given = re.findall(r" T (\S+)", listed)
    assert "vitkern_column_sums" in given
    assert all(name.startswith("vitkern_") for name in given), given
    ctypes.CDLL(str(library), mode=os.RTLD_NOW)  # every symbol that it wants is found
    wanted = re.findall(r" U (\S+)", listed)
    assert not [name for name in wanted if re.match(r"_?(cu|torch|Py|_ZN2at|_ZN3c10)", name)]


def test_a_missing_toolkit_is_said_in_a_line(
    with_cuda_sources: Path, pip_wheel: PipWheel, tmp_path: Path
) -> None:
    for_tools = tmp_path / "bin"
    for_tools.mkdir()
    result, _ = pip_wheel(
        VITKERN_BUILD_CPU="0", VITKERN_BUILD_CUDA="1", PATH=str(for_tools),
        CUDA_HOME=str(tmp_path), VITKERN_CUDA_ARCHITECTURES="banana",
    )  # fmt: skip
    output = result.stdout + result.stderr
    assert result.returncode != 0
    # Where there is a toolkit in its usual place, the next thing that is wrong is said.
    assert re.search(
        r"vitkern: CUDA kernels not built: (no CUDA toolkit|VITKERN_CUDA_ARCHITECTURES='banana')",
        output,
    ), output


@needs_nvcc
def test_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = _build.find_nvcc()
    assert not isinstance(nvcc, str)
    monkeypatch.setattr("vitkern._build.cuda._of_torch", lambda: (75, 80, 86, 90))
    monkeypatch.delenv("VITKERN_CUDA_ARCHITECTURES", raising=False)
    assert _architectures(nvcc) == (80, 90)
    monkeypatch.setattr("vitkern._build.cuda._of_torch", lambda: ())
    assert set(_architectures(nvcc)) <= set(parameters.CUDA_ARCHITECTURES)
    monkeypatch.setenv("VITKERN_CUDA_ARCHITECTURES", "86, 80")
    assert _architectures(nvcc) == (80, 86)
    monkeypatch.setenv("VITKERN_CUDA_ARCHITECTURES", "52")
    with pytest.raises(_build.BuildUnavailable, match="none of the wanted"):
        _architectures(nvcc)


@pytest.mark.parametrize(
    "architectures, capability, runs",
    [
        ("80;90", (8, 0), True),
        ("80;90", (8, 9), True),
        ("80;90", (7, 5), False),
        ("86;90", (8, 0), False),
        ("80;90", (10, 0), False),
        ("80+PTX;90", (12, 0), True),
        ("80;90+PTX", (8, 6), True),
        ("90+PTX", (8, 6), False),
        ("", (8, 0), False),
    ],
)
def test_which_cards_a_library_is_for(
    architectures: str, capability: tuple[int, int], runs: bool
) -> None:
    assert device.runs_on(architectures, capability) == runs


def test_a_library_of_other_sources_is_not_used(tmp_path: Path) -> None:
    package = tmp_path / "vitkern"
    package.mkdir()
    assert "no build was attempted" in str(_library._cuda_location(package).reason)
    (package / "_cuda.so").touch()
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    (tmp_path / "csrc" / "cuda" / "library.cu").write_text("changed\n")
    reason = _library._cuda_location(package).reason
    assert reason is not None and "is not what the CUDA library was built from" in reason
    (tmp_path / "csrc" / "cuda" / "library.cu").unlink()
    assert _library._cuda_location(package).reason is None


def test_a_library_that_does_not_load_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "_cuda.so").touch()
    location = _library.CudaLocation(tmp_path / "_cuda.so")
    monkeypatch.setattr(device, "cuda_location", lambda: location)
    monkeypatch.setattr(device, "load", device.load.__wrapped__)
    assert "does not load" in str(device.not_built.__wrapped__())
