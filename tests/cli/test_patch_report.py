"""``vitkern patch-report``."""

from __future__ import annotations

import json

import pytest

from vitkern import cli

MODEL = "vit_tiny_patch16_224"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["patch-report", MODEL, "--backend", "eager", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == MODEL
    assert {entry["backend"] for entry in found["patched"]} == {"eager"}
    assert "blocks.11" in {entry["name"] for entry in found["patched"]}


def test_table_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["patch-report", MODEL]) == 0
    text = capsys.readouterr().out
    assert "blocks.* (×12)" in text
    assert len(text.splitlines()) < 24


def test_full_names_every_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["patch-report", MODEL, "--backend", "eager", "--full"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "blocks.7.attn: linear + attention: eager" in lines


def test_what_is_skipped_has_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["patch-report", "caformer_s18", "--full"]) == 0
    assert ": skipped: " in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--full"]])
def test_nothing_to_patch_is_said(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    """The command prints the report as it is, also where there would be no line of ``--full``."""
    assert cli.main(["patch-report", "resnet18", *options]) == 0
    assert "nothing to patch: no module of a kind" in capsys.readouterr().out
