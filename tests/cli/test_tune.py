"""``vitkern tune``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from vitkern import cli
from vitkern.bench import contention, models
from vitkern.bench.contention import Contention
from vitkern.dispatch.measured import STORE, timing

MODEL = "vit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of its own, and no waiting for a clock."""

    def in_turns(runs: timing.Runs, static: str, **_: object) -> timing.Seconds:
        return {name: [1.0] * 9 for name in runs}

    monkeypatch.setattr(timing, "in_turns", in_turns)
    monkeypatch.setenv("VITKERN_CACHE_DIR", str(tmp_path / "cache"))
    STORE.forget()
    yield tmp_path / "cache"
    STORE.forget()


def test_a_table_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", MODEL, "--batch", "1", "2"]) == 0
    text = capsys.readouterr().out
    assert f"{MODEL}, batch 1" in text
    assert f"{MODEL}, batch 2" in text
    assert text.count("kinds of calls") + text.count("nothing to tune") == 2


@needs.library
def test_products_in_another_form(capsys: pytest.CaptureFixture[str]) -> None:
    """int8 has kernels of its own, and decisions of its own."""
    for form, products in ((None, []), ("int8", ["--products", "int8"])):
        assert cli.main(["tune", MODEL, "--json", "-", *products]) == 0
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        assert row["row"].get("form") == form
        forms = {use["op"]: use["form"] for use in row["uses"]}
        assert forms.pop("patch_embed") is None
        assert set(forms.values()) == {form}
        # What was measured in float32 says nothing about int8.
        assert all(not use["cached"] for use in row["uses"] if use["op"] in forms)
    assert cli.main(["tune", MODEL, "--products", "int8"]) == 0
    assert "weights int8" in capsys.readouterr().out


@pytest.mark.parametrize("train", [False, True])
def test_json(tmp_path: Path, train: bool, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "t.json"
    options = ["--train"] if train else []
    assert cli.main(["tune", MODEL, "--json", str(target), *options]) == 0
    document = json.loads(target.read_text())
    assert document["kind"] == "tune"
    (entry,) = document["rows"]
    assert entry["row"] == {
        "model": MODEL, "batch": 1, "mode": "train" if train else "eval", "dtype": "float32",
    }  # fmt: skip
    assert all(use["trained"] == train for use in entry["uses"])
    assert str(tmp_path) not in target.read_text()
    capsys.readouterr()
    assert cli.main(["tune", MODEL, "--json", "-", *options]) == 0
    (again,) = json.loads(capsys.readouterr().out)["rows"]
    assert [use["op"] for use in again["uses"]] == [use["op"] for use in entry["uses"]]
    assert all(use["cached"] for use in again["uses"] if use["decision"] is not None)


def test_a_busy_machine_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention.Meter, "result", lambda self: Contention(1.5, 2, 2))
    for measured in (True, False):  # the second time there is nothing to measure
        assert cli.main(["tune", MODEL]) == 0
        text = capsys.readouterr().out
        wrong = "1.5 of the machine's 2 cores, so some choices may be wrong: --clear" in text
        assert wrong == (measured and "nothing to tune" not in text)


def test_clear(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.mkdir()
    (folder / "decisions-0123456789abcdef.json").write_text("{}")
    assert cli.main(["tune", "--clear"]) == 0
    assert capsys.readouterr().out == "forgot 1 file of decisions\n"
    assert cli.main(["tune", "--clear", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == []


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "MODEL or --clear is required"),
        (["vit_tinny_patch16_224"], f"did you mean {MODEL}"),
        ([MODEL, "--json", "/dev/null/x.json"], "--json: cannot write"),
    ],
)
def test_errors_are_one_line_and_come_first(
    argv: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(row: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(models, "build", build)
    assert cli.main(["tune", *argv]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
