"""What pip gets, with and without what a build needs."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from vitkern import _build

pytest.importorskip("pip")

PipWheel = Callable[..., tuple["subprocess.CompletedProcess[str]", list[Path]]]

# Python imports sitecustomize at its start: here it hides torch from the build.
HIDE_TORCH = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name == "torch" else find_spec(name, *args)
"""


def contents(wheel: Path) -> tuple[set[str], dict[str, Any]]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist()), json.loads(archive.read("vitkern/_C.build.json"))


@pytest.mark.parametrize("case", ["disabled", "no compiler", "no torch"])
def test_pure_wheel(pip_wheel: PipWheel, tmp_path: Path, case: str) -> None:
    variables = {}
    if case == "disabled":
        variables["VITKERN_BUILD_CPU"] = "0"
        reason = "VITKERN_BUILD_CPU=0"
    elif case == "no compiler":
        variables["CXX"] = "/nonexistent"
        reason = "no C++ compiler (CXX=/nonexistent)"
    else:
        if isinstance(_build.find_compiler(), str):
            pytest.skip("the compiler is looked for first, and there is none")
        (tmp_path / "hide").mkdir()
        (tmp_path / "hide/sitecustomize.py").write_text(HIDE_TORCH)
        variables["PYTHONPATH"] = str(tmp_path / "hide")
        reason = "no torch in the build environment"

    result, wheels = pip_wheel(**variables)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert f"vitkern: pure Python, without kernels: {reason}" in output
    assert [wheel.name.split("-", 2)[2] for wheel in wheels] == ["py3-none-any.whl"]
    names, info = contents(wheels[0])
    assert not any(name.endswith(".so") for name in names)
    assert {"vitkern/__init__.py", "vitkern/_build/parameters.py"} <= names
    assert {f"vitkern/bench/page/page.{ending}" for ending in ("html", "css", "js")} <= names
    assert info["kernels"] is False
    assert info["reason"].startswith(reason)

    if case == "disabled":
        check_pure_import(wheels[0], tmp_path)


def check_pure_import(wheel: Path, tmp_path: Path) -> None:
    """The unpacked wheel imports and says why it has no kernels."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        "import vitkern; from vitkern._library import load; status = load(); "
        "print(vitkern.__file__, status.available, status.reason, sep='\\n')"
    )
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    file, available, reason = result.stdout.splitlines()
    assert Path(file).is_relative_to(site)
    assert available == "False"
    assert reason.startswith("vitkern was installed without compiled kernels: VITKERN_BUILD_CPU=0")


def test_required_kernels_without_a_compiler_are_an_error(pip_wheel: PipWheel) -> None:
    result, wheels = pip_wheel(VITKERN_BUILD_CPU="1", CXX="/nonexistent")
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert not wheels
    assert "vitkern: kernels not built: no C++ compiler (CXX=/nonexistent)" in output


@needs.compiler
def test_wheel_with_kernels(pip_wheel: PipWheel) -> None:
    result, wheels = pip_wheel(VITKERN_BUILD_CPU="1", SOURCE_DATE_EPOCH="86400")
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = wheels
    assert wheel.name.split("-", 2)[2].startswith("cp310-abi3-")
    names, info = contents(wheel)
    assert "vitkern/_C.abi3.so" in names
    assert not any(name.startswith("csrc") for name in names)
    assert {"vitkern/csrc/registration.cpp", "vitkern/csrc/cpu/isa/generic.cpp"} <= names
    assert info["kernels"] is True
    assert info["date"] == "1970-01-02"
    assert info["isas"] == ["generic"]  # and none of the tests' own


@needs.compiler
def test_failed_build_leaves_a_pure_wheel(pip_wheel: PipWheel, project: Path) -> None:
    (project / "csrc/cpu/scale.cpp").write_text("broken\n")
    result, wheels = pip_wheel()
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert (
        "vitkern: pure Python, without kernels: csrc/cpu/scale.cpp did not compile (log: " in output
    )
    assert [wheel.name.split("-", 2)[2] for wheel in wheels] == ["py3-none-any.whl"]
    assert not any(name.endswith(".so") for name in contents(wheels[0])[0])


def build_in_place(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_kernels"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@needs.compiler
def test_failed_build_in_place_is_an_error_and_leaves_no_stale_library(project: Path) -> None:
    library = project / "vitkern/_C.abi3.so"
    assert build_in_place(project).returncode == 0
    assert library.is_file()
    (project / "csrc/cpu/scale.cpp").write_text("broken\n")
    result = build_in_place(project)
    assert result.returncode != 0
    assert result.stderr.splitlines()[-1].startswith(
        "vitkern: kernels not built: csrc/cpu/scale.cpp did not compile (log: build/vitkern/"
    )
    assert not library.exists()
    assert "did not compile" in _build.read_build_info(project / "vitkern")["reason"]
