"""``vitkern report``: what it measures, writes and says, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bench.page import made
from vitkern import cli
from vitkern.bench import machine
from vitkern.bench.page import measuring
from vitkern.bench.page.measuring import Task
from vitkern.bench.report import read_json


@pytest.fixture
def results(tmp_path: Path) -> Path:
    made.write(tmp_path / "results", "models", [made.model()])
    made.write(tmp_path / "results", "peers", [made.peers()])
    return tmp_path / "results"


def test_from_stored_results(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "new" / "r.html", tmp_path / "n.svg"
    made.write(results, "coverage", [])
    argv = ["report", "--from", str(results), "--out", str(out), "--picture", str(picture)]
    assert cli.main(argv) == 0
    assert out.read_text().startswith("<!doctype html>")
    assert picture.read_text().startswith("<svg")
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{out}: 8 results of 1 machines, 0 slower"
    assert second.startswith("not shown: acme-one-2-cores-avx2/coverage-2026-11-20.json: ")


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """One row a kind, which is measured at once; lists the kinds, and whether they were quick."""
    asked: list[tuple[str, bool]] = []

    def fake(kind: str, *, quick: bool = False) -> list[Task]:
        asked.append((kind, quick))
        row = {"ops": made.op(ok=True), "models": made.model(), "peers": made.peers()}[kind]
        return [Task(row["name"], kind, lambda progress: row, lambda why: row | {"ok": False})]

    monkeypatch.setattr(measuring, "tasks", fake)
    threads = torch.get_num_threads()
    yield asked
    torch.set_num_threads(threads)


def test_all_is_measured_stored_and_shown(
    tasks: list[tuple[str, bool]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, results = tmp_path / "r.html", tmp_path / "results"
    argv = ["report", "--quick", "--results", str(results), "--out", str(out)]
    assert cli.main([*argv, "--threads", "1"]) == 0
    assert tasks == [("ops", True), ("models", True), ("peers", True)]
    output = capsys.readouterr()
    assert "9 results of 1 machines" in output.out
    assert output.err.splitlines() == ["ops (1 of 1)", "models (1 of 1)", "peers (1 of 1)"]
    folder = results / machine.describe().slug
    document = read_json(folder / "peers-quick.json")
    assert document["versions"].keys() >= {"torch", "openvino", "onnxruntime"}
    assert document["machine"]["threads"] == 1
    assert "vit_tiny_patch16_224" in out.read_text()
    tasks.clear()
    assert cli.main([*argv, "--only", "ops"]) == 0
    assert tasks == [("ops", True)]


def test_one_that_is_wrong_is_status_1(
    tasks: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = measuring.tasks

    def wrong(kind: str, *, quick: bool = False) -> list[Task]:
        row = made.op(ok=False, check={"error": 1.0, "eager_error": 1e-7, "allowed": 2e-7})
        if kind == "ops":
            return [Task(row["name"], kind, lambda progress: row, lambda why: row)]
        return fake(kind, quick=quick)

    monkeypatch.setattr(measuring, "tasks", wrong)
    argv = ["report", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "r.html")]
    assert cli.main(argv) == 1
    assert "not timed, the output is wrong" in (tmp_path / "r.html").read_text()


def test_who_interrupts_sees_what_there_is_and_can_go_on(
    tasks: list[tuple[str, bool]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake, stop = measuring.tasks, [True]

    def interrupted(progress: Any) -> dict[str, Any]:
        if stop:
            raise KeyboardInterrupt
        return made.op("mlp-cpu-b-float32", ok=True)

    def two(kind: str, *, quick: bool = False) -> list[Task]:
        return [*fake(kind, quick=quick), Task("mlp-cpu-b-float32", "b", interrupted, lambda w: {})]

    monkeypatch.setattr(measuring, "tasks", two)
    out = tmp_path / "r.html"
    argv = ["report", "--only", "ops", "--results", str(tmp_path / "s"), "--out", str(out)]
    assert cli.main(argv) == 130
    assert "incomplete: it was interrupted" in out.read_text()
    stop.clear()
    capsys.readouterr()
    assert cli.main(argv) == 0
    assert capsys.readouterr().err == "b (2 of 2)\n"
    assert "incomplete" not in out.read_text()


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--from", "r", "--quick"], "--from measures nothing, and does not go with --quick"),
        (["--from", "r", "--only", "ops"], "--from measures nothing, and does not go with --only"),
        (["--picture", "n.png"], "--picture: n.png does not end in .svg"),
        (["--out", "-"], "--out: - is no file"),
    ],
)
def test_a_wrong_call_is_one_line_before_any_work(
    tasks: list[tuple[str, bool]],
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    message: str,
) -> None:
    assert cli.main(["report", *argv]) == 2
    assert capsys.readouterr().err == f"vitkern: {message}\n"
    assert tasks == []


def test_a_machine_that_is_not_there(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["report", "--from", str(results), "--out", str(tmp_path / "r.html")]
    assert cli.main([*argv, "--machine", "acme-two"]) == 2
    error = capsys.readouterr().err
    assert error == "vitkern: --machine: 'acme-two' is none of acme-one-2-cores-avx2\n"
    assert not (tmp_path / "r.html").exists()


def test_a_machine_that_is_not_there_is_said_at_once(
    tasks: list[tuple[str, bool]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["report", "--results", str(tmp_path / "results"), "--machine", "acme-two"]
    assert cli.main([*argv, "--out", str(tmp_path / "r.html")]) == 2
    assert "--machine: 'acme-two' is none of " in capsys.readouterr().err
    assert tasks == []


def test_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["report", "--out", str(tmp_path / "r.html"), "--from"]
    assert cli.main([*argv, str(tmp_path / "missing")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli.main([*argv, str(tmp_path / "empty")]) == 1
    assert capsys.readouterr().err == "vitkern: there are no results to show\n"


def test_a_page_that_cannot_be_written(
    tasks: list[tuple[str, bool]], results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (results / "file").write_text("")
    out = results / "file" / "r.html"
    assert cli.main(["report", "--results", str(results), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error == f"vitkern: --out: cannot write {out}: {results}/file is not a folder\n"
    assert tasks == []
