"""``vitkern bench --peers``: what it takes, prints, writes and draws, and how it ends."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from vitkern import cli
from vitkern.bench import report
from vitkern.bench.models import Row
from vitkern.bench.peers import ROWS, run
from vitkern.bench.peers.result import Against, Entry, PeersResult
from vitkern.bench.timing import Plan, Summary
from vitkern.cli import _peers, bench

MODEL = "vit_tiny_patch16_224"


def rows(*argv: str) -> list[Row]:
    parser = argparse.ArgumentParser()
    bench.configure(parser)
    return _peers.rows(parser.parse_args(["--peers", *argv]))


def test_rows() -> None:
    assert rows() == rows("--quick") == list(ROWS)
    assert all((row.mode, row.dtype) == ("eval", "float32") for row in ROWS)
    assert rows("a", "b", "--batch", "1", "8") == [Row(m, n) for m in "ab" for n in (1, 8)]
    assert {row.model for row in rows("--batch", "2")} == {row.model for row in ROWS}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Row, Plan]]:
    """Measures nothing; lists the calls. Ours is wrong on the model whose name contains deit."""
    calls: list[tuple[Row, Plan]] = []

    def fake(row: Row, plan: Plan, **options: Any) -> PeersResult:
        calls.append((row, plan))
        one = Summary(0.1, 0.09, 0.11, 3)
        wrong = "deit" in row.model
        entries = [
            Entry("eager", "PyTorch", "fp32", False, False, seconds=one),
            Entry("peer", "Peer", "fp32", False, True, "not installed: pip install peer"),
            Entry("vitkern", "vitkern", "fp32", True, False, seconds=one, wrong=wrong),
        ]
        return PeersResult(row, entries, [Against("vitkern", "fp32", None, None)])

    monkeypatch.setattr(run, "measure", fake)
    return calls


def test_a_table_a_file_and_a_picture(
    measured: list[tuple[Row, Plan]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, picture = tmp_path / "new" / "p.json", tmp_path / "p.svg"
    argv = ["bench", MODEL, "--peers", "--quick", "--batch", "1", "2", "--json", str(path)]
    assert cli.main([*argv, "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    assert text.count("100 [90.0, 110.0]") == 4
    assert text.count("peer: not installed: pip install peer") == 1
    assert "no fp32 ran" in text
    document = report.read_json(path)
    assert document["kind"] == "peers"
    assert document["versions"].keys() >= {"torch", "openvino", "onnxruntime", "nncf"}
    assert [row["row"]["batch"] for row in document["rows"]] == [1, 2]
    assert "<svg" in picture.read_text()
    assert measured == [(Row(MODEL, batch), run.QUICK_PLAN) for batch in (1, 2)]


def test_json_on_the_output_is_all_there_is(
    measured: list[tuple[Row, Plan]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", MODEL, "--peers", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["ok"] is True
    assert measured[0][1] == run.PLAN


def test_ours_that_is_wrong_is_status_1(measured: list[tuple[Row, Plan]]) -> None:
    assert cli.main(["bench", "deit_tiny_patch16_224", MODEL, "--peers"]) == 1
    assert len(measured) == 2


@pytest.mark.parametrize(
    "argv, message",
    [
        (["nosuchmodel", "--peers"], "timm has no model 'nosuchmodel'"),
        (["--peers", "--train"], "--peers does not go with --train"),
        (["--peers", "--wide"], "--peers does not go with --wide"),
        (["--peers", "--products", "int8"], "--peers does not go with --products: it has all"),
        (["--peers", "--no-memory"], "--peers does not go with --no-memory"),
        (["--peers", "--no-page-faults"], "--peers does not go with --no-page-faults"),
        (["--peers", "--dtype", "bfloat16"], "--peers does not go with --dtype"),
        (["--peers", "--picture", "p.xyz"], "--picture: p.xyz ends in none of .png, .svg, .pdf"),
        (["--peers", "--picture", "-"], "--picture: - ends in none of"),
        (["--picture", "p.png"], "--picture: only --peers draws one"),
    ],
)
def test_a_wrong_call_is_one_line_before_any_work(
    measured: list[tuple[Row, Plan]],
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    message: str,
) -> None:
    assert cli.main(["bench", *argv]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"vitkern: {message}")
    assert output.err.count("\n") == 1
    assert measured == []


@pytest.mark.parametrize("option, name", [("--json", "p.json"), ("--picture", "p.png")])
def test_a_file_that_cannot_be_written_is_status_1_before_any_work(
    measured: list[tuple[Row, Plan]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    name: str,
) -> None:
    """As it is for bench without --peers, and for profile."""
    path = tmp_path / "file" / name
    path.parent.write_text("")
    assert cli.main(["bench", MODEL, "--peers", option, str(path)]) == 1
    error = capsys.readouterr().err
    assert error == f"vitkern: {option}: cannot write {path}: {path.parent} is not a folder\n"
    assert measured == []
