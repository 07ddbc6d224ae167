"""JSON files and tables of results that are made up."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from vitkern.bench import report
from vitkern.bench.contention import Contention
from vitkern.bench.machine import describe
from vitkern.bench.measure import Faults, Result
from vitkern.bench.memory import Memory
from vitkern.bench.models import Row
from vitkern.bench.parity import Check, Parity
from vitkern.bench.peak import Share
from vitkern.bench.timing import Summary

WITHOUT_FAULTS: dict[str, Any] = {
    "faults": Faults(9000, 100),
    "faults_left": Faults(3, 2),
    "speedup_without_faults": Summary(1.5, 1.4, 1.6, 9),
}


def result(**changes: Any) -> Result:
    values: dict[str, Any] = {
        "row": Row("vit_tiny_patch16_224", 8),
        "parity": Parity((Check("output", 4e-7, 3e-7, 7e-7),)),
        "backends": {"cpu": 37},
        "skipped": 1,
        "eager": Summary(0.250, 0.240, 0.260, 9),
        "patched": Summary(0.125, 0.120, 0.130, 9),
        "speedup": Summary(2.0, 1.9, 2.1, 9),
        "flops": 20_000_000_000,
        "peak": Summary(200.0, 195.0, 203.0, 10),
        "eager_share": Share(0.4, 0.39),
        "patched_share": Share(0.8, 0.78),
        "memory": Memory(30_000_000, 20_000_000, 22_000_000, 1_000_000),
    }
    return Result(**(values | changes))


def shown(*results: Result, width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(report.fitted(report.table(results, describe()), console))
    return console.export_text()


def test_json_round_trip(tmp_path: Path) -> None:
    rows = [result().to_dict(), result(**WITHOUT_FAULTS).to_dict()]
    document = report.document("models", describe(), rows)
    path = tmp_path / "new" / "models.json"
    report.write_json(path, document)
    assert report.read_json(path) == document
    assert document["machine"]["slug"] == describe().slug
    assert document["rows"][0]["row"] == {
        "model": "vit_tiny_patch16_224", "batch": 8, "mode": "eval", "dtype": "float32",
    }  # fmt: skip
    assert document["rows"][0]["memory"]["packed"] == 22_000_000
    assert document["rows"][1]["speedup_without_faults"]["median"] == 1.5
    assert document["rows"][1]["faults_left"] == {"eager": 3, "patched": 2}


def test_a_failed_result_is_json_too() -> None:
    failed = result(parity=Parity((Check("output", math.inf, 1e-7, 3e-7),)), eager=None)
    text = json.dumps(failed.to_dict(), allow_nan=False)
    assert json.loads(text)["ok"] is False
    assert json.loads(text)["parity"]["checks"][0]["error"] is None
    assert json.loads(json.dumps(result(parity=None).to_dict()))["ok"] is False


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    report.write_json(path, {"schema": report.SCHEMA, "rows": [1]})
    with pytest.raises(ValueError, match="JSON compliant"):
        report.write_json(path, {"schema": report.SCHEMA, "rows": [math.nan]})
    assert report.read_json(path)["rows"] == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_no_temporary_file_stays_where_renaming_fails(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.mkdir()
    with pytest.raises(OSError):
        report.write_json(path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("text", ["[]", '{"schema": 0}', "{}"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a result file of schema 1"):
        report.read_json(path)


def test_merging_keeps_other_rows_of_the_same_machine(tmp_path: Path) -> None:
    path = tmp_path / "ops.json"
    old = report.document("ops", describe(), [{"name": "a", "x": 1}, {"name": "b", "x": 1}])
    new = report.document("ops", describe(), [{"name": "b", "x": 2}, {"name": "c", "x": 2}])
    assert report.merged(path, new) == new  # there is no file
    report.write_json(path, old)
    assert [(r["name"], r["x"]) for r in report.merged(path, new)["rows"]] == [
        ("a", 1), ("b", 2), ("c", 2),
    ]  # fmt: skip
    report.write_json(path, {**old, "machine": {**old["machine"], "torch": "other"}})
    assert report.merged(path, new) == new


def test_table() -> None:
    text = shown(result())
    for cell in ("250", "125", "2.00× [1.90, 2.10]", "80% (40%)", "4.0e-07 (3.0e-07)", "20 (30)"):
        assert cell in text
    assert "no faults" not in text
    assert "1.50×" in shown(result(**WITHOUT_FAULTS))
    assert any(
        "eager 9000, patched 100; where" in line
        for line in report.notes([result(**WITHOUT_FAULTS)])
    )


def test_rows_that_were_not_timed() -> None:
    bare = Result(Row("vit_tiny_patch16_224", 1, "train"), None, {}, 3, notes=["it fails: why"])
    assert "vit_tiny_patch16_224 train" in shown(bare)
    assert report.notes([bare]) == ["it fails: why"]
    assert any(
        line == f"{bare.row.label}: it fails: why" for line in report.notes([bare, result()])
    )


def test_a_busy_machine_is_told() -> None:
    assert not any("busy" in line for line in report.notes([result()]))
    busy = result(peak=Summary(150.0, 100.0, 200.0, 10))
    assert any("was busy" in line for line in report.notes([busy]))


def test_others_that_took_the_processors_are_told() -> None:
    idle = result(contention=Contention(0.1, 2, 2))
    busy = result(contention=Contention(1.5, 2, 2), row=Row("vit_base_patch16_224", 1))
    assert "(busy)" not in shown(idle)
    assert "other processes" not in " ".join(report.notes([idle]))
    for width in (200, 80):
        assert shown(idle, busy, width=width).count("2.00× [1.90, 2.10] (busy)") == 1
    first = report.notes([idle, busy])[0]
    assert first.startswith(
        "vit_base_patch16_224, batch 1: other processes used 1.5 of the machine's 2 cores, so do"
        " not believe"
    )
    assert json.loads(json.dumps(busy.to_dict()))["contention"]["busy"] is True


def test_a_narrow_console_gets_every_figure_in_lines() -> None:
    both = result(**WITHOUT_FAULTS), result(row=Row("swin_tiny_patch4_window7_224", 8, "train"))
    wide, narrow = shown(*both), shown(*both, width=80)
    assert "│" in wide
    assert "│" not in narrow
    assert "…" not in narrow
    for pair in (
        "batch: 8",
        "eager ms: 250",
        "patched ms: 125",
        "speed-up: 2.00× [1.90, 2.10]",
        "no faults: 1.50×",
        "FMA peak: 80% (40%)",
        "error: 4.0e-07 (3.0e-07)",
        "peak MB: 20 (30)",
        "packed MB: 22",
    ):
        assert pair in narrow
    assert "\nswin_tiny_patch4_window7_224 train" in narrow
    assert all(len(line) <= 80 for line in narrow.splitlines())
    assert narrow.count("packed MB") == 2


def test_a_table_that_just_fits_is_a_table() -> None:
    made = Table(title="a title")
    made.add_column("one\ntwo", no_wrap=True)
    made.add_column("three", no_wrap=True)
    made.add_row("12345", "1234567890")
    needs = 5 + 10 + 2 * 2 + 3  # cells, padding, frame
    assert report.fitted(made, Console(width=needs)) is made
    lines = str(report.fitted(made, Console(width=needs - 1)))
    assert lines == "a title\n\n12345\n  three: 1234567890\n"
