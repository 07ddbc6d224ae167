"""Kernels that are built when the user says so, into the cache folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from vitkern import _build, _library, building, cli
from vitkern._build import cached

PipWheel = Callable[..., tuple["subprocess.CompletedProcess[str]", list[Path]]]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("VITKERN_CACHE_DIR", str(folder))
    return folder


@needs.compiler
def test_the_library_is_found_by_its_sources(
    project: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = project / "vitkern"
    missing = _library._load(package)
    assert not missing.available
    assert missing.reason is not None and "vitkern build --cpu" in missing.reason

    version = _library._installed_version() or ""
    folder = _build.build_cached(cache, _build.plan_cpu(project, version))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "vitkern: compiling 3 files (2 to 7 minutes on 2 cores)"
    assert [line.split(" after ")[0] for line in said[1:4]] == [
        f"vitkern: {n} of 3 compiled" for n in (1, 2, 3)
    ]
    status = _library._load(package)
    assert (status.available, status.path) == (True, folder / "_C.abi3.so")
    assert status.build["isas"] == ["generic"]  # and none of the tests' own
    assert not list(folder.parent.rglob("*.o"))

    inode = status.path.stat().st_ino
    assert _build.build_cached(cache, _build.plan_cpu(project, version)) == folder
    assert (capsys.readouterr().err, status.path.stat().st_ino) == ("", inode)

    (project / "csrc/cpu/scale.h").write_text("#define FACTOR 4\n")
    assert not _library._load(package).available


@needs.compiler
def test_the_library_of_the_installation_comes_first(project: Path, cache: Path) -> None:
    package, version = project / "vitkern", _library._installed_version() or ""
    plan = _build.plan_cpu(project, version)
    folder = _build.build_cached(cache, plan)
    (package / "_C.abi3.so").write_bytes((folder / "_C.abi3.so").read_bytes())
    info = _build.read_build_info(folder)
    _build.write_build_info(package, info)
    assert _library._load(package).path == package / "_C.abi3.so"


@needs.compiler
def test_the_last_that_was_asked_for_is_taken(
    project: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build() -> Path:
        return _build.build_cached(cache, _build.plan_cpu(project, "1"))

    def age(folder: Path) -> None:
        os.utime(folder / _build.CPU.info, (1, 1))

    first = build()
    age(first)
    monkeypatch.setenv("VITKERN_BUILD_CXXFLAGS", "-DOTHER")
    second = build()
    age(second)
    assert second != first
    monkeypatch.delenv("VITKERN_BUILD_CXXFLAGS")
    assert build() == first
    assert _build.find_cached(cache, _build.CPU, project) == first


@needs.compiler
def test_several_at_once_compile_once(
    project: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = _build.plan_cpu(project, "1")
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(_build.build_cached(cache, plan)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    said = capsys.readouterr().err
    assert said.count("compiling 3 files") == 1
    assert "another process builds these kernels: waiting for it" in said


@needs.compiler
def test_a_failure_leaves_nothing_and_says_so(project: Path, cache: Path) -> None:
    (project / "csrc/cpu/scale.cpp").write_text("broken\n")
    with pytest.raises(_build.BuildFailed, match=r"csrc/cpu/scale.cpp did not compile \(log: "):
        _build.build_cached(cache, _build.plan_cpu(project, "1"))
    assert _build.find_cached(cache, _build.CPU, project) is None
    assert not list(cache.rglob("*.so"))


@needs.compiler
def test_a_cache_that_cannot_be_written(project: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(_build.BuildFailed, match="the build could not write to"):
        _build.build_cached(tmp_path / "file", _build.plan_cpu(project, "1"))


@needs.compiler
@pytest.mark.parametrize("place", ["folder", "library"])
def test_what_others_may_write_is_not_loaded(project: Path, cache: Path, place: str) -> None:
    plan = _build.plan_cpu(project, "1")
    folder = _build.build_cached(cache, plan)
    path = folder if place == "folder" else folder / _build.CPU.library
    path.chmod(path.stat().st_mode | 0o002)
    assert _build.find_cached(cache, _build.CPU, project) is None
    assert _build.build_cached(cache, plan) == folder  # and is built anew
    assert _build.find_cached(cache, _build.CPU, project) == folder


def test_half_a_library_is_none(project: Path, cache: Path) -> None:
    home = cached._home(cache, _build.CPU, str(_build.CPU.sources(project)))
    for name in ("build-1", "build-2.77"):
        (home / name).mkdir(parents=True)
        (home / name / _build.CPU.library).touch()
    (home / "build-2.77" / _build.CPU.info).write_text("{}")
    assert _build.find_cached(cache, _build.CPU, project) is None


BUILD = """
import sys
sys.path.insert(0, {site!r})
import vitkern
from vitkern.ops._cuda import device
assert "to get them, where there is a CUDA toolkit: vitkern build --cuda" in device.not_built()
path = vitkern.build_cuda([80])
assert device.not_built() is None, device.not_built()
assert device.load().architectures == "80+PTX"
print(path)
"""


@needs.nvcc
@needs.compiler
@pytest.mark.slow
def test_cuda_kernels_of_an_installed_wheel(
    with_cuda_sources: Path, pip_wheel: PipWheel, cache: Path, tmp_path: Path
) -> None:
    """The wheel has the sources; this process uses what it builds, and so does a later one."""
    result, (wheel,) = pip_wheel(VITKERN_BUILD_CPU="0", VITKERN_BUILD_CUDA="0")
    assert result.returncode == 0
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (site / "vitkern/csrc/cuda/gemm.cuh").is_file()

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=site, capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    library = run("-c", BUILD.format(site=str(site)))
    assert Path(library).is_relative_to(cache)
    assert run("-m", "vitkern.cli", "build", "--cuda") == library
    found = json.loads(run("-m", "vitkern.cli", "info", "--json"))["cuda_library"]
    assert (found["path"], found["available"]) == (library, True)


def test_a_missing_toolkit_is_said_in_a_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vitkern._build.cuda.find_nvcc", lambda: "no CUDA toolkit (here)")
    absent = _library.CudaLocation(Path("_cuda.so"), "absent")
    monkeypatch.setattr(_library, "cuda_location", lambda: absent)
    assert cli.main(["build", "--cuda"]) == 1
    assert capsys.readouterr().err == "vitkern: not built: no CUDA toolkit (here)\n"


def test_nothing_is_built_that_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = _library.CudaLocation(Path("/somewhere/_cuda.so"), None, {"architectures": "80+PTX"})
    monkeypatch.setattr(_library, "cuda_location", lambda: there)
    assert building.build_cuda() == there.path
    with pytest.raises(_build.BuildError, match=r"for 80\+PTX\): install with VITKERN_CUDA_ARCHI"):
        building.build_cuda([90])


def _library_of(text: str, sources: str) -> _build.Plan:
    """A build that makes a file with a text."""

    def run(folder: Path, progress: object) -> tuple[Path, dict[str, Any]]:
        (folder / "made").write_text(text)
        return folder / "made", {"sources": sources, "architectures": text}

    return _build.Plan(_build.CUDA, sources, "0" * 16, run)


def test_what_is_built_by_force_comes_first(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "vitkern"
    for folder in (package, tmp_path / "csrc" / "cuda"):
        folder.mkdir(parents=True)
    (tmp_path / "csrc" / "registration.cpp").touch()
    (tmp_path / "csrc" / "cuda" / "library.cu").write_text("sources\n")
    sources = str(_build.cuda_sources_digest(tmp_path))
    (package / "_cuda.so").write_text("of the installation, for other cards")
    _build.write_build_info(package, {"sources": sources}, _build.CUDA.info)

    first = _build.build_cached(cache, _library_of("90", sources))
    assert _library._cuda_location(package).path == package / "_cuda.so"
    assert _build.build_cached(cache, _library_of("100", sources)) == first  # it is there

    monkeypatch.setattr(_library, "PACKAGE", package)
    monkeypatch.setattr(_library, "cuda_location", lambda: _library._cuda_location(package))
    monkeypatch.setattr(building, "plan_cuda", lambda *_: _library_of("120", sources))
    monkeypatch.setattr(building.device, "look_again", lambda: None)
    assert building.build_cuda() == package / "_cuda.so"
    forced = building.build_cuda(force=True)
    assert forced.read_text() == "120"
    there = _library._cuda_location(package)
    assert (there.path, there.reason, there.cached) == (forced, None, True)
    assert (first / "_cuda.so").read_text() == "90"  # processes may have it loaded
    (tmp_path / "csrc" / "cuda" / "library.cu").write_text("other sources\n")
    assert "is not what the CUDA library was built from" in str(
        _library._cuda_location(package).reason
    )


@pytest.mark.parametrize("given", [1, "yes", None])
def test_a_force_that_is_no_bool(given: object) -> None:
    with pytest.raises(TypeError, match="force must be a bool, got"):
        building.build_cuda(force=given)  # type: ignore[arg-type] - wrong on purpose


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "build: --cpu or --cuda is required"),
        (["--cpu", "--architectures", "80"], "--architectures is for --cuda"),
        (["--cpu", "--force"], "--force is for --cuda"),
        (["--cuda", "--architectures", "75"], "--architectures must be ints of at least 80"),
    ],
)
def test_it_is_called_wrongly(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["build", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("given", ["80", 80, [80.0], [True], [None]])
def test_architectures_that_are_none(given: object) -> None:
    with pytest.raises(TypeError, match=r"architectures must be ints of at least 80, as \[80, 90"):
        building.build_cuda(given)  # type: ignore[arg-type] - wrong on purpose
