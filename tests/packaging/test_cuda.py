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
from types import SimpleNamespace

import pytest
import torch

from tests import needs
from vitkern import UnsupportedInput, _build, _library, ops
from vitkern._build import parameters
from vitkern._build.cuda import _architectures, _flags_of, cuda_requirements
from vitkern.dispatch import OPERATORS
from vitkern.ops._cuda import device
from vitkern.ops._cuda.device import DEVICE
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._cuda.library import CudaLibrary
from vitkern.ops._family import Family
from vitkern.ops.linear import cuda as linear

ROOT = Path(__file__).resolve().parents[2]
PipWheel = Callable[..., tuple[subprocess.CompletedProcess[str], list[Path]]]


@needs.nvcc
@needs.compiler
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


@needs.nvcc
@needs.compiler
def test_a_missing_host_compiler_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvcc = _build.find_nvcc()
    assert not isinstance(nvcc, str)
    assert nvcc.complaint() is None
    monkeypatch.setenv("CUDA_HOME", str(nvcc.home))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("NVCC_CCBIN", raising=False)
    with pytest.raises(
        _build.BuildUnavailable, match="nvcc has no C\\+\\+ compiler that it can use"
    ):
        cuda_requirements(ROOT, (80,))


@needs.nvcc
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
    reason = str(device.not_built.__wrapped__())
    assert "does not load" in reason and reason.endswith("vitkern build --cuda --force")


def test_a_library_for_other_cards_says_so_at_its_first_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the other backends go on."""
    library = SimpleNamespace(architectures="80;90", versions=lambda: (13000, 13010))
    monkeypatch.setattr(device, "load", lambda: library)
    monkeypatch.setattr(device, "not_built", lambda: None)
    monkeypatch.setattr(device, "_missing", device._missing.__wrapped__)
    monkeypatch.setattr(device, "_capability", lambda index: (12, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    # Tensors are where this machine has them; that they are on the card is what the kernels hear.
    kernels = CudaKernels(
        Family("cuda_of_others", ("CPU",), device.missing, automatic=False), DEVICE.library,
        lambda _: device.of_device(torch.device("cuda", 0)),
        DEVICE.processors, DEVICE.tf32, DEVICE.warpgroups,
    )  # fmt: skip
    backends = OPERATORS["linear"].backends
    monkeypatch.setitem(backends, "cuda_of_others", linear.backend(kernels))
    x = torch.ones(2, 4)
    with pytest.raises(
        UnsupportedInput,
        match=r"built for architectures 80;90; the card has compute capability 12\.0: vitkern build"
        " --cuda --force",
    ):
        ops.linear(x, torch.ones(3, 4), backend="cuda_of_others")
    assert ops.linear(x, torch.ones(3, 4)).eq(4).all()


@pytest.mark.parametrize(
    "versions, hip, reason",
    [
        ((13000, 12080), None, "built with CUDA 13.0, which the driver, of CUDA 12.8"),
        ((13000, 13000), "6.4", "a ROCm build of PyTorch; takes NVIDIA's GPUs"),
        ((13000, 13000), None, None),
    ],
)
def test_what_does_not_go_together_is_said(
    versions: tuple[int, int], hip: str | None, reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(device, "load", lambda: SimpleNamespace(versions=lambda: versions))
    monkeypatch.setattr(device, "not_built", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", hip)
    found = device._missing.__wrapped__()
    assert found is None if reason is None else str(found).startswith(reason)


def test_code_for_one_architecture(tmp_path: Path) -> None:
    """A file of its own flags, left out where the architecture is; the others know of it."""
    own, other = tmp_path / "gemm_sm90a.cu", tmp_path / "gemm.cu"
    flags = _flags_of(own, (80, 90, 100))
    assert flags is not None
    assert [flag for flag in flags if "gencode" in flag] == [
        "-gencode=arch=compute_90a,code=sm_90a"
    ]
    assert _flags_of(own, (80, 100)) is None
    assert "-DVITKERN_SM90A" in (_flags_of(other, (80, 90)) or ())
    assert "-DVITKERN_SM90A" not in (_flags_of(other, (80, 100)) or ())
