"""``vitkern profile``."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests import needs
from vitkern import cli
from vitkern.bench import contention, models
from vitkern.bench.contention import Contention

MODEL = "vit_tiny_patch16_224"


def test_a_profile_is_printed_written_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, picture = tmp_path / "p.json", tmp_path / "p.svg"
    arguments = ["profile", MODEL, "--quick", "--json", str(target), "--picture", str(picture)]
    assert cli.main(arguments) == 0
    assert "outside operators" in capsys.readouterr().out
    (row,) = json.loads(target.read_text())["rows"]
    assert row["row"]["model"] == MODEL
    assert {"op", "calls", "seconds", "flops", "bytes", "share"} <= row["ops"][0].keys()
    assert "<svg" in picture.read_text()


@needs.library
def test_products_in_int8_have_their_own_peak(tmp_path: Path) -> None:
    target = tmp_path / "p.json"
    arguments = ["profile", MODEL, "--quick", "--products", "int8", "--json", str(target)]
    assert cli.main(arguments) == 0
    (row,) = json.loads(target.read_text())["rows"]
    assert (row["form"], row["row"]["form"]) == ("int8", "int8")
    assert row["peak"] > 0


def test_an_eager_model_has_no_other_products(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["profile", MODEL, "--eager", "--products", "int8"]) == 2
    assert "does not go with --eager" in capsys.readouterr().err
    assert cli.main(["profile", MODEL, "--target", "h100", "--products", "int8"]) == 2
    assert "does not go with --products" in capsys.readouterr().err


def test_an_unknown_model_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["profile", "vit_tinny_patch16_224"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert MODEL in error


def test_a_picture_of_an_unknown_kind_is_refused_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["profile", "nosuchmodel", "--picture", "p.xyz"]) == 2
    assert "--picture: p.xyz ends in none of .png, .svg, .pdf" in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["profile", MODEL, "--picture", "p.png"]) == 1
    assert "matplotlib is not installed: pip install matplotlib" in capsys.readouterr().err


def test_a_busy_machine_is_marked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention.Meter, "result", lambda self: Contention(1.5, 2, 2))
    assert cli.main(["profile", MODEL, "--quick"]) == 0
    text = capsys.readouterr().out
    assert " ms (busy)" in text
    assert "other processes used 1.5 of the machine's 2 cores, so do not believe" in text


@pytest.mark.parametrize("option, name", [("--json", "p.json"), ("--picture", "p.svg")])
def test_a_file_that_cannot_be_written_is_told_first_and_with_its_option(
    option: str,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(row: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(models, "build", build)
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / name
    assert cli.main(["profile", MODEL, option, str(path)]) == 1
    line = f"vitkern: {option}: cannot write {path}: {tmp_path}/file is not a folder\n"
    assert capsys.readouterr().err == line
