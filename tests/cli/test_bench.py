"""``vitkern bench``: which rows, what it prints and writes, how it ends."""

from __future__ import annotations

import argparse
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vitkern import cli
from vitkern.bench import measure, models, report
from vitkern.bench.measure import Result
from vitkern.bench.models import TARGETS, WIDE, Row, TimmMissing
from vitkern.bench.parity import Check, Parity
from vitkern.bench.timing import QUICK, Summary
from vitkern.cli import _output, bench


def rows(*argv: str) -> list[Row]:
    parser = argparse.ArgumentParser()
    bench.configure(parser)
    return bench.rows(parser.parse_args(argv))


def test_rows() -> None:
    assert rows() == rows("--quick") == list(TARGETS)
    assert rows("--wide") == list(WIDE)
    assert rows("a", "b") == [Row("a", 1), Row("b", 1)]
    assert rows("a", "--batch", "1", "8", "--train") == [Row("a", 1, "train"), Row("a", 8, "train")]
    assert rows("a", "--batch", "16", "--step") == [Row("a", 16, "step")]
    assert rows("a", "--dtype", "bfloat16") == [Row("a", 1, dtype="bfloat16")]
    assert {row.model for row in rows("--batch", "2")} == {row.model for row in TARGETS}
    assert {row.batch for row in rows("--batch", "2")} == {2}
    assert rows("a", "--products", "int8") == [Row("a", 1, form="int8")]
    forms = rows("--products", "bfloat16")
    assert forms == [replace(one, form="bfloat16") for one in TARGETS if one.mode == "eval"]


@pytest.mark.parametrize("command", ["bench", "tune", "profile"])
@pytest.mark.parametrize(
    "argv, message",
    [
        (["--train"], "--products is for inference, and does not go with --train"),
        (["--dtype", "bfloat16"], "--products takes a model in float32: it does not go with"),
    ],
)
def test_products_of_what_has_none(
    capsys: pytest.CaptureFixture[str], command: str, argv: list[str], message: str
) -> None:
    assert cli.main([command, "vit_tiny_patch16_224", "--products", "int8", *argv]) == 2
    assert capsys.readouterr().err.startswith(f"vitkern: {message}")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Measures nothing; lists the calls. The model whose name contains ``deit`` is wrong."""
    calls: list[dict[str, Any]] = []

    def fake(row: Row, plan: Any, **options: Any) -> Result:
        calls.append({"row": row, "plan": plan, "threads": torch.get_num_threads(), **options})
        wrong = "deit" in row.model
        parity = Parity((Check("output", 1.0 if wrong else 1e-7, 1e-7, 3e-7),))
        one = Summary(1.0, 1.0, 1.0, 3)
        if wrong:
            return Result(row, parity, {"cpu": 1}, 0, notes=["not timed"])
        return Result(row, parity, {"cpu": 1}, 0, one, one, one)

    monkeypatch.setattr(measure, "measure", fake)
    return calls


def test_a_file_and_a_table(
    measured: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "out.json"
    argv = ["bench", "vit_tiny_patch16_224", "--batch", "1", "2", "--quick", "--json", str(path)]
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    assert text.count("vit_tiny_patch16_224") == 2
    assert "1.00×" in text
    document = report.read_json(path)
    assert [row["row"]["batch"] for row in document["rows"]] == [1, 2]
    assert [call["plan"] for call in measured] == [QUICK, QUICK]
    assert not any(call["with_memory"] or call["with_faults"] for call in measured)


def test_an_interruption_keeps_the_rows_so_far(
    measured: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake, path = measure.measure, tmp_path / "out.json"

    def interrupted(row: Row, plan: Any, **options: Any) -> Result:
        if row.batch == 2:
            raise KeyboardInterrupt
        return fake(row, plan, **options)

    monkeypatch.setattr(measure, "measure", interrupted)
    argv = ["bench", "vit_tiny_patch16_224", "--batch", "1", "2", "--json", str(path)]
    assert cli.main(argv) == 130
    assert [row["row"]["batch"] for row in report.read_json(path)["rows"]] == [1]


def test_json_on_the_output_is_all_there_is(
    measured: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "vit_tiny_patch16_224", "--no-page-faults", "--json", "-"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["rows"][0]["ok"] is True
    assert output.err == "vit_tiny_patch16_224, batch 1 (1 of 1)\n"
    assert measured[0]["with_memory"]
    assert measured[0]["with_faults"]


def test_threads(measured: list[dict[str, Any]]) -> None:
    before = torch.get_num_threads()
    try:
        assert cli.main(["bench", "vit_tiny_patch16_224", "--threads", "3"]) == 0
    finally:
        torch.set_num_threads(before)
    assert measured[0]["threads"] == 3


def test_a_wrong_model_is_status_1_and_the_others_are_measured(
    measured: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "deit_tiny_patch16_224", "vit_tiny_patch16_224"]) == 1
    assert len(measured) == 2
    assert "deit_tiny_patch16_224, batch 1: not timed" in capsys.readouterr().out


def test_names_are_checked_before_anything_is_measured(measured: list[dict[str, Any]]) -> None:
    assert cli.main(["bench", "vit_tiny_patch16_224", "nosuchmodel"]) == 2
    assert measured == []


def test_without_timm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise TimmMissing("timm is not installed: pip install timm")

    monkeypatch.setattr(models, "require_timm", missing)
    assert cli.main(["bench"]) == 1
    assert cli.main(["patch-report", "vit_tiny_patch16_224"]) == 1
    line = "vitkern: timm is not installed: pip install timm\n"
    assert capsys.readouterr().err == line * 2


def test_each_row_is_announced_as_it_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def fake(row: Row, plan: Any, **options: Any) -> Result:
        seen.append(capsys.readouterr().err)
        return Result(row, Parity((Check("output", 0.0, 0.0, 1e-7),)), {}, 0)

    monkeypatch.setattr(measure, "measure", fake)
    assert cli.main(["bench", "vit_tiny_patch16_224", "--batch", "1", "8"]) == 0
    assert seen == [
        "vit_tiny_patch16_224, batch 1 (1 of 2)\n", "vit_tiny_patch16_224, batch 8 (2 of 2)\n",
    ]  # fmt: skip


def test_a_terminal_of_80_columns_shows_every_figure(
    measured: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rich.console import Console

    monkeypatch.setattr(_output, "console", lambda: Console(width=80, highlight=False))
    assert cli.main(["bench", "vit_tiny_patch16_224"]) == 0
    text = capsys.readouterr().out
    assert "speed-up: 1.00× [1.00, 1.00]" in text
    assert "…" not in text


@pytest.mark.parametrize("name", ["file", "file/out.json", "folder"])
def test_a_file_that_cannot_be_written_is_told_first_and_with_its_option(
    measured: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    name: str,
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    status = cli.main(["bench", "vit_tiny_patch16_224", "--json", str(path)])
    error = capsys.readouterr().err
    if name == "file":
        assert status == 0  # it is replaced
        return
    assert status == 1
    assert measured == []
    why = f"{tmp_path}/file is not a folder" if "/" in name else "it is a folder"
    assert error == f"vitkern: --json: cannot write {path}: {why}\n"


def test_a_folder_without_permission(
    measured: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    path = tmp_path / "out.json"
    assert cli.main(["bench", "vit_tiny_patch16_224", "--json", str(path)]) == 1
    assert measured == []
    assert f"--json: cannot write {path}: no permission to write in" in capsys.readouterr().err


def test_a_disk_that_is_full_is_one_line_too(
    measured: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(report, "write_json", full)
    path = tmp_path / "out.json"
    assert cli.main(["bench", "vit_tiny_patch16_224", "--json", str(path)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"vitkern: --json: cannot write {path}: No space left on device"


def test_help_says_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["bench", "--help"])
    assert "about 3 to 4 minutes" in " ".join(capsys.readouterr().out.split())
