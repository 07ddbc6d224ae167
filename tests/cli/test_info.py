"""``vitkern info``: with the library as it is here, and where there is none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from vitkern import _library, cli
from vitkern.bench import machine
from vitkern.cli import info
from vitkern.dispatch import OPERATORS
from vitkern.ops import _cpu

REASON = "vitkern was installed without compiled kernels: no C++ compiler"


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without the compiled library."""
    missing = _library.LibraryStatus(False, Path("_C.abi3.so"), REASON, {"vitkern": "0.1.0"})
    monkeypatch.setattr(_library, "load", lambda: missing)
    monkeypatch.setattr(machine, "load", lambda: missing)
    monkeypatch.setattr(_cpu, "_STATUS", missing)


def as_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.main(["info", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys)
    assert found["machine"]["torch"] == torch.__version__
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["packages"]["timm"]
    assert set(found["ops"]) >= {"attention", "linear", "mlp", "window_attention"}
    assert all(backends["eager"] is None for backends in found["ops"].values())
    library = found["library"]
    assert library["available"] == (_cpu.missing() is None)
    if library["available"]:
        assert library["isa"] in library["isas_runnable"]
        assert set(library["isas_runnable"]) <= set(library["isas_compiled"])
        assert library["build"]["compiler"]
        assert found["ops"]["linear"]["cpu"] is None


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("vitkern", torch.__version__, "library", "eager", "timm", "VITKERN_BUILD_CPU"):
        assert word in text


def test_lines_end_where_their_text_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """`vitkern info | grep`: no spaces up to the width of a table."""
    assert cli.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 20
    assert [line for line in lines if line != line.rstrip()] == []


def test_without_library(capsys: pytest.CaptureFixture[str], no_library: None) -> None:
    found = as_json(capsys)
    assert found["library"]["available"] is False
    assert found["library"]["reason"] == REASON
    assert found["library"]["isas_runnable"] == []
    assert found["machine"]["isa"] is None
    assert found["ops"]["linear"]["cpu"] == f"no C++ library: {REASON}"
    assert found["ops"]["linear"]["eager"] is None


def test_text_without_library(capsys: pytest.CaptureFixture[str], no_library: None) -> None:
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"missing: {REASON}" in text
    assert text.count("] no C++ library:") == 1  # said once, with a number where it repeats
    number = re.search(r"\[(\d)\] no C\+\+ library:", text)
    assert number is not None
    on_cpu = [name for name, operator in OPERATORS.items() if "cpu" in operator.backends]
    assert text.count(f"no [{number[1]}]") == len(on_cpu)


def test_environment_variables_are_those_of_the_build(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITKERN_BUILD_CPU", "0")
    monkeypatch.delenv("MAX_JOBS", raising=False)
    found = as_json(capsys)["environment"]
    assert found["VITKERN_BUILD_CPU"] == "0"
    assert found["MAX_JOBS"] is None
    assert {"VITKERN_BUILD_CXXFLAGS", "CXX"} <= set(found)


def test_missing_packages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = {"no_such_package": "for nothing: pip install 'a[b]'"}
    monkeypatch.setattr(info, "OPTIONAL", needs)
    assert cli.main(["info"]) == 0
    assert "not installed (for nothing: pip install 'a[b]')" in capsys.readouterr().out
    assert as_json(capsys)["packages"] == {"no_such_package": None}


def test_hints_do_not_name_this_package() -> None:
    """It is in no index, so its extras cannot be installed by name."""
    assert all("vitkern" not in hint for hint in info.OPTIONAL.values())
    assert "pip install timm" in info.OPTIONAL["timm"]
    assert "pip install torchvision" in info.OPTIONAL["torchvision"]
