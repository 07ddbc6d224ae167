"""The build parameters and the incremental builder."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from vitkern import _build
from vitkern._build import parameters

ROOT = Path(__file__).resolve().parents[2]


def test_instruction_sets_are_consistent() -> None:
    names = [isa.name for isa in parameters.ISAS]
    assert len(set(names)) == len(names)
    for isa in parameters.ISAS:
        assert re.fullmatch(r"[a-z0-9_]+", isa.name)
        assert isa.macro == f"VITKERN_ISA_{isa.name.upper()}"
        assert all(flag.startswith("-m") for flag in isa.flags)
        assert isa.x86_only or not isa.flags
    every_flag = {*parameters.BASE_FLAGS, *(f for isa in parameters.ISAS for f in isa.flags)}
    assert not any(flag.startswith(("-march", "-mcpu", "-mtune")) for flag in every_flag)
    assert "-ffast-math" not in every_flag


def test_instruction_sets_of_an_architecture() -> None:
    x86 = {isa.name for isa in parameters.isas_for("x86_64")}
    assert x86 == {"generic", "avx2", "avx512", "avx512_bf16", "amx", "avx512_emulated"}
    assert {isa.name for isa in parameters.isas_for("aarch64")} == {"generic"}
    shipped = {isa.name for isa in parameters.isas_for("x86_64", test_isas=False)}
    assert x86 - shipped == {"avx512_emulated"}


def test_every_source_has_a_row() -> None:
    sources = {path.stem for path in (ROOT / "csrc/cpu/isa").glob("*.cpp")}
    assert sources <= {isa.name for isa in parameters.ISAS}


def test_stable_abi_version_is_the_required_torch() -> None:
    assert parameters.HOST_FLAGS == ("-DTORCH_TARGET_VERSION=0x020a000000000000",)
    requirement = "torch>=" + ".".join(map(str, parameters.MINIMUM_TORCH))
    assert f'"{requirement}"' in (ROOT / "pyproject.toml").read_text()


def test_every_environment_variable_is_documented() -> None:
    used = set()
    for path in [ROOT / "setup.py", *(ROOT / "vitkern/_build").glob("*.py")]:
        used |= set(re.findall(r"environ\.get\(\s*\"(\w+)\"", path.read_text()))
    documented = parameters.__doc__ or ""
    assert used and all(f"``{name}``" in documented for name in used)


@pytest.mark.parametrize(
    ("value", "mode"), [("", "auto"), ("0", "0"), ("1", "1"), ("Auto", "auto")]
)
def test_mode(monkeypatch: pytest.MonkeyPatch, value: str, mode: str) -> None:
    monkeypatch.setenv("VITKERN_BUILD_CPU", value)
    assert parameters.build_mode("CPU") == mode


def test_mode_refuses_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITKERN_BUILD_CPU", "yes")
    with pytest.raises(ValueError, match="VITKERN_BUILD_CPU='yes': expected auto, 0 or 1"):
        parameters.build_mode("CPU")


def test_cuda_kernels_in_a_source_tree_are_built_where_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VITKERN_BUILD_CUDA", raising=False)
    assert parameters.build_mode("CUDA") == "auto"
    assert parameters.build_mode("CUDA", optional=True) == "0"
    assert parameters.build_mode("CPU", optional=True) == "auto"
    assert "none unless VITKERN_BUILD_CUDA=1" in parameters.not_wanted("CUDA")
    monkeypatch.setenv("VITKERN_BUILD_CUDA", "1")
    assert parameters.build_mode("CUDA", optional=True) == "1"
    monkeypatch.setenv("VITKERN_BUILD_CUDA", "0")
    assert parameters.not_wanted("CUDA") == "VITKERN_BUILD_CUDA=0"


def test_finds_torch_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    found = _build.find_torch()
    assert isinstance(found, _build.TorchInstallation)
    assert found.version == torch.__version__
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "no torch in the build environment" in str(_build.find_torch())


class Builder:
    """Builds a project and tells which objects were compiled."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "build" / "test"

    def __call__(self, **kwargs: Any) -> set[str]:
        before = self.objects()
        kwargs = {"version": "0", "test_isas": True, **kwargs}
        self.library, self.info = _build.build_cpu_library(self.root, self.folder, **kwargs)
        after = self.objects()
        return {name for name in after if after[name] != before.get(name)}

    def objects(self) -> dict[str, int]:
        # A compiled file's object is a new one: its date is that of the compiler's start.
        return {path.stem: path.stat().st_mtime_ns for path in self.folder.rglob("*.o")}

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / "csrc" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def result(self) -> int:
        # A copy: a library that is loaded already is not loaded anew.
        copy = self.library.with_name(f"copy{len(list(self.folder.glob('copy*')))}.so")
        copy.write_bytes(self.library.read_bytes())
        return int(ctypes.CDLL(str(copy)).vitkern_scale())


@pytest.fixture
def builder(project: Path) -> Builder:
    return Builder(project)


@needs.compiler
def test_compiles_only_what_is_stale(builder: Builder) -> None:
    everything = {"registration", "scale", "generic"}
    if platform.machine() == "x86_64":
        everything.add("avx512_emulated")
    assert builder() == everything
    assert builder.result() == 6
    inode = builder.library.stat().st_ino
    assert builder() == set()
    assert builder.library.stat().st_ino == inode  # not linked again either

    builder.edit("cpu/isa/generic.cpp", "return x", "return x + 5")
    assert builder() == {"generic"}
    assert builder.result() == 21
    builder.edit("cpu/scale.h", "FACTOR 3", "FACTOR 4")
    assert builder() == {"registration", "scale"}
    assert builder.result() == 28


@needs.compiler
def test_it_says_so_before_it_compiles(
    builder: Builder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Setting up would be silent for minutes otherwise."""
    count = len(builder())
    first, last = capsys.readouterr().err.splitlines()
    assert first == f"vitkern: compiling {count} files (2 to 7 minutes on 2 cores)"
    assert last.startswith(f"vitkern: compiled {count} of {count} files in ")
    builder()
    assert capsys.readouterr().err == ""
    builder.edit("cpu/isa/generic.cpp", "return x", "return x + 5")
    builder()
    assert capsys.readouterr().err.startswith("vitkern: compiling 1 file\n")


@needs.compiler
def test_new_and_removed_files(builder: Builder) -> None:
    builder()
    (builder.root / "csrc/cpu/more.cpp").write_text("int more() { return 1; }\n")
    assert builder() == {"more"}
    (builder.root / "csrc/cpu/more.cpp").unlink()
    assert builder() == set()
    # Without its source an instruction set is gone: the host files see that by its macro.
    (builder.root / "csrc/cpu/isa/generic.cpp").unlink()
    assert builder() == {"registration", "scale"}
    assert builder.info["isas"] == (["avx512_emulated"] if platform.machine() == "x86_64" else [])
    assert builder.result() == -1


@needs.compiler
def test_flags_are_dependencies(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = builder()
    monkeypatch.setenv("VITKERN_BUILD_CXXFLAGS", "-DEXTRA='a b'")
    assert builder() == everything
    assert "-DEXTRA=a b" in builder.info["flags"]["all"]


@needs.compiler
def test_compiler_errors_name_the_file_and_the_log(builder: Builder) -> None:
    builder()
    builder.edit("cpu/scale.cpp", "return", "retrun")
    with pytest.raises(
        _build.BuildFailed, match=r"^csrc/cpu/scale.cpp did not compile \(log: "
    ) as e:
        builder()
    assert "retrun" in e.value.output
    assert "retrun" in (builder.folder / "build.log").read_text()
    builder.edit("cpu/scale.cpp", "retrun", "return")
    assert builder() == {"scale"}


@needs.compiler
def test_many_compiler_errors_are_a_short_line(builder: Builder) -> None:
    for number in range(5):
        (builder.root / f"csrc/cpu/wrong{number}.cpp").write_text("retrun\n")
    with pytest.raises(_build.BuildFailed, match=r"wrong2.cpp and 2 more did not compile \(log: "):
        builder()


@needs.compiler
@pytest.mark.skipif(platform.system() != "Linux", reason="macOS finds out when it loads")
def test_missing_symbols_are_errors_of_the_build(builder: Builder) -> None:
    builder.edit("cpu/scale.cpp", "FACTOR *", "nowhere() *")
    builder.edit("cpu/scale.h", "int scale(int);", "int scale(int); int nowhere();")
    with pytest.raises(_build.BuildFailed, match="did not link") as error:
        builder()
    assert "nowhere" in error.value.output


@needs.compiler
def test_unknown_instruction_set(builder: Builder) -> None:
    (builder.root / "csrc/cpu/isa/sse9.cpp").write_text("")
    with pytest.raises(_build.BuildError, match=r"no row in .*parameters\.py for sse9"):
        builder()


@needs.compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs instruction sets to refuse")
def test_a_compiler_without_an_instruction_set_leaves_it_out(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = _build.find_compiler()
    assert isinstance(compiler, _build.Compiler)
    old = tmp_path / "old-c++"
    old.write_text(
        '#!/bin/sh\ncase " $* " in *" -mavx2 "*) echo "unknown option" >&2; exit 1;; esac\n'
        f'exec {compiler.command[0]} "$@"\n'
    )
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    assert builder() == {"registration", "scale", "generic"}
    assert builder.info["isas_skipped"] == {
        "avx512_emulated": "the compiler does not know its flags"
    }


def test_reasons_without_a_compiler(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    with pytest.raises(_build.BuildUnavailable, match=r"^no C\+\+ compiler \(CXX=/nonexistent\)$"):
        builder()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(_build.BuildUnavailable, match=r"^no C\+\+ compiler \(c\+\+, g\+\+"):
        builder()


def test_build_information_round_trip(tmp_path: Path) -> None:
    assert _build.read_build_info(tmp_path) == {}
    path = _build.write_build_info(tmp_path, {"kernels": False, "reason": "×"})
    assert path.name == parameters.BUILD_INFO_NAME
    assert _build.read_build_info(tmp_path) == {"kernels": False, "reason": "×"}
