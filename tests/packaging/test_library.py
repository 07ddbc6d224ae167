"""The compiled library, where this checkout has one, and its loader."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vitkern import _build, _library
from vitkern._build import parameters

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def library() -> Path:
    status = _library.load()
    if not status.available:
        pytest.skip(str(status.reason))
    return status.path


def run_python(code: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def tool(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_status_is_a_reason_or_a_library() -> None:
    status = _library.load()
    assert status is _library.load()
    assert status.available is (status.reason is None)
    if status.reason is not None:
        assert "\n" not in status.reason


def test_a_built_library_loads() -> None:
    """The `library` fixture skips a library that does not load; this test fails then."""
    if not _build.read_build_info(_library.load().path.parent).get("kernels", False):
        pytest.skip("no library was built")
    assert _library.load().reason is None


def test_loads_in_a_fresh_process(library: Path) -> None:
    code = """
import torch
from vitkern._library import load
status = load()
print(status.available, status.reason)
print(len([s for s in torch._C._jit_get_all_schemas() if s.name.startswith("vitkern")]))
print(sorted(status.build["isas"]))
"""
    loaded, operators, isas = run_python(code)
    assert loaded == "True None"
    assert int(operators) > 0
    assert isas == str(sorted(_library.load().build["isas"]))


def test_uses_the_stable_abi_only(library: Path) -> None:
    """Nothing of torch's C++ interface is wanted: that would tie the library to one torch."""
    names = tool("nm", "-D", "-C", "--undefined-only", str(library)).splitlines()
    wanted = [name.split(maxsplit=1)[1] for name in names if name.strip()]
    assert not [name for name in wanted if re.search(r"\b(at|c10|torch|caffe2)::", name)]
    assert not [name for name in wanted if name.startswith("Py")]


def test_exports_nothing(library: Path) -> None:
    names = tool("nm", "-D", "-C", "--defined-only", str(library)).splitlines()
    own = [name for name in names if "vitkern" in name]
    assert not own


def test_instruction_sets_share_no_inline_functions(library: Path) -> None:
    """The linker keeps one of several inline functions of a name.

    If an AVX-512 file's were kept, the baseline would run it too: an illegal instruction on
    other machines. Kernel code lives in a namespace per instruction set; this finds what does not,
    std:: templates among it.
    """
    objects = list((ROOT / "build/vitkern/objects").rglob("*.o"))
    if not objects:
        pytest.skip("the objects are not here")
    sources = {
        path.relative_to(ROOT / "csrc").with_suffix("") for path in ROOT.glob("csrc/**/*.cpp")
    }
    defined: dict[str, set[str]] = {}
    for path in objects:
        name = path.relative_to(ROOT / "build/vitkern/objects").with_suffix("")
        if name not in sources:
            continue  # a removed file's
        lines = tool("nm", "-C", "--defined-only", str(path)).splitlines()
        weak = re.compile(r"^[0-9a-f]+ [WVu] (.*)$")
        defined[name.as_posix()] = {match[1] for line in lines if (match := weak.match(line))}
    flagged = {f"cpu/isa/{isa.name}" for isa in parameters.ISAS if isa.flags}
    for one, other in itertools.combinations(sorted(defined), 2):
        if {one, other} & flagged:
            assert not defined[one] & defined[other], f"in both {one} and {other}"


# The loader's reasons


def test_no_library(tmp_path: Path) -> None:
    status = _library._load(tmp_path)
    assert not status.available
    assert status.reason is not None and "no build was attempted" in status.reason
    _build.write_build_info(tmp_path, {"kernels": False, "reason": "no C++ compiler (c++)"})
    status = _library._load(tmp_path)
    assert status.reason is not None and ": no C++ compiler (c++);" in status.reason


def test_broken_library(tmp_path: Path) -> None:
    (tmp_path / parameters.LIBRARY_NAME).write_bytes(b"not a library")
    _build.write_build_info(tmp_path, {"vitkern": _library._installed_version()})
    status = _library._load(tmp_path)
    assert not status.available
    assert status.reason is not None
    assert status.reason.startswith("the compiled library does not load: ")
    assert "\n" not in status.reason


def test_library_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / parameters.LIBRARY_NAME).write_bytes(b"")
    _build.write_build_info(tmp_path, {"vitkern": "0.0.1"})
    monkeypatch.setattr(_library, "_installed_version", lambda: "0.1.0")
    assert _library._load(tmp_path).reason == (
        "the compiled library is of vitkern 0.0.1, not 0.1.0: build it again"
    )


def test_library_older_than_the_schemas(tmp_path: Path) -> None:
    package = tmp_path / "vitkern"
    package.mkdir()
    (package / parameters.LIBRARY_NAME).write_bytes(b"")
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc/registration.cpp").write_text("new")
    _build.write_build_info(package, {"vitkern": _library._installed_version(), "schemas": "old"})
    assert _library._load(package).reason == (
        "csrc/registration.cpp is not what the compiled library was built from: make build"
    )


def test_old_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / parameters.LIBRARY_NAME).write_bytes(b"")
    _build.write_build_info(tmp_path, {"vitkern": _library._installed_version()})
    monkeypatch.setattr("torch.__version__", "2.9.1+cpu")
    assert _library._load(tmp_path).reason == (
        "torch 2.9.1+cpu is too old for the compiled library (needs 2.10)"
    )


def test_unreadable_build_information(tmp_path: Path) -> None:
    (tmp_path / parameters.BUILD_INFO_NAME).write_text("{")
    reason = _library._load(tmp_path).reason
    assert reason is not None and reason.startswith("unreadable build information: ")
