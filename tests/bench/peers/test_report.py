"""Tables, lines and a picture of results that are made up."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vitkern.bench.contention import Contention
from vitkern.bench.machine import describe
from vitkern.bench.models import Row
from vitkern.bench.peak import Share
from vitkern.bench.peers import report
from vitkern.bench.peers.result import Against, Entry, PeersResult, against_best
from vitkern.bench.report import fitted
from vitkern.bench.timing import Comparison, Summary

SUMMARY = Summary(0.0215, 0.0211, 0.0224, 9)
LONG = "fails: [ONNXRuntimeError] : 1 : an operator that has a name of many words and no kernel"


def entry(name: str, vendor: str, precision: str = "fp32", **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "seconds": SUMMARY,
        "speedup": Summary(1.35, 1.3, 1.4, 9),
        "share": Share(0.87, 0.85),
        "cosine": 0.99873,
        "error": 2.5e-3,
    }
    ours = vendor == "vitkern"
    return Entry(name, vendor, precision, ours, not ours and name != "eager", **values | changes)


def absent(name: str, vendor: str, precision: str, reason: str) -> Entry:
    nothing = dict.fromkeys(("seconds", "speedup", "share", "cosine", "error"))
    return entry(name, vendor, precision, reason=reason, **nothing)


def result(**changes: Any) -> PeersResult:
    values: dict[str, Any] = {
        "row": Row("vit_tiny_patch16_224", 8),
        "entries": [
            entry("eager", "PyTorch"),
            entry("late int8", "OpenVINO", "int8"),
            absent("ONNX Runtime", "ONNX Runtime", "fp32", LONG),
            absent("OpenVINO bf16", "OpenVINO", "bf16", "not on this processor"),
            entry("vitkern", "vitkern"),
        ],
        "against": [Against("vitkern", "fp32", "OpenVINO", Summary(1.08, 1.05, 1.11, 9))],
        "flops": 20_000_000_000,
        "peak": Summary(200.0, 195.0, 203.0, 10),
        "floor": 0.0187,
    }
    return PeersResult(**values | changes)


def shown(made: Any, width: int = 160) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(fitted(made, console))
    return console.export_text()


def test_a_table_has_a_line_for_each_system_by_precision() -> None:
    text = shown(report.table(result(), describe()))
    assert "vit_tiny_patch16_224, batch 8" in text
    assert "peak 200 GFLOP/s" in text
    lines = [line for line in text.splitlines() if line.startswith("│")]
    assert [line.split("│")[1].strip() for line in lines] == [
        "eager", "ONNX Runtime", "vitkern", "OpenVINO bf16", "late int8",
    ]  # fmt: skip
    for cell in ("fp32", "21.5 [21.1, 22.4]", "1.35×", "87%", "0.99873", "2.5e-03"):
        assert cell in lines[2]
    assert "not on this processor" in lines[3]
    assert "[ONNXRuntimeError]" in lines[1]  # brackets are no markup
    assert text.count("├") == 2  # a line between precisions


@pytest.mark.parametrize("width", [80, 160])
def test_ours_beside_the_best_peer(width: int) -> None:
    busy = result(contention=Contention(1.5, 2, 2), row=Row("vit_base_patch16_224", 1))
    alone = result(against=[Against("vitkern int8", "int8", None, None)])
    text = shown(report.summary_table([result(), busy, alone]), width)
    assert text.count("1.08× [1.05, 1.11]") == 2
    assert text.count("(busy)") == 1
    assert "OpenVINO" in text
    assert "no int8 ran" in text


def test_notes_have_reasons_in_full_and_once() -> None:
    other = result(row=Row("vit_base_patch16_224", 1), entries=[entry("eager", "PyTorch")])
    both = report.notes([result(), result()])
    assert both.count(f"ONNX Runtime: {LONG}") == 1
    one = report.notes([result(), other])
    assert f"vit_tiny_patch16_224, batch 8: ONNX Runtime: {LONG}" in one
    assert not any("busy" in line for line in one)
    busy = result(contention=Contention(1.5, 2, 2), peak=Summary(150.0, 100.0, 200.0, 10))
    text = "\n".join(report.notes([busy]))
    assert "other processes used 1.5 of the machine's 2 cores, so do not believe" in text
    assert "the machine was busy" in text
    assert not any("page faults" in line for line in report.notes([result()]))
    counted = result(entries=[entry("eager", "PyTorch", faults=12), entry("a", "A", faults=99)])
    assert any(
        "eager had only up to 12 page faults a pass" in line for line in report.notes([counted])
    )
    assert report.notes([PeersResult(Row("a", 1), notes=["why"])]) == ["why"]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"p.{ending}"
    empty = PeersResult(Row("a", 1), notes=["why"])
    report.draw([result(), result(floor=None), empty], describe(), path)
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert path.read_bytes().startswith(magic[ending])
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_bars_labels_and_the_floor(tmp_path: Path) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    colors = report.vendor_colors([result()])
    assert len(set(colors.values())) == len(colors) == 4
    report._panel(axes, result(), colors)
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "eager fp32", "ONNX Runtime fp32", "vitkern fp32", "OpenVINO bf16", "late int8",
    ]  # fmt: skip
    bars = [bar.get_width() for bar in axes.patches]
    assert bars == pytest.approx([21.5] * 3)
    (floor,) = (line for line in axes.lines if line.get_linestyle() == "--")
    assert floor.get_xdata()[0] == pytest.approx(18.7)
    texts = [text.get_text() for text in axes.texts]
    assert " 21.5 ms, 1.08× as fast as OpenVINO" in texts
    assert " not on this processor" in texts


def test_the_best_peer_is_of_the_same_precision_and_then_a_faster_one_of_a_finer() -> None:
    seconds = {"eager": 1.0, "a": 4.0, "b": 3.0, "c": 2.0, "a8": 3.5, "ours": 1.5}
    times = Comparison({name: (value, 2 * value, value) for name, value in seconds.items()})

    def timed(name: str, vendor: str, precision: str = "fp32") -> Entry:
        return entry(name, vendor, precision, seconds=times.summary(name))

    entries = [
        timed("eager", "PyTorch"),
        timed("a", "A"),
        timed("b", "B"),
        timed("c", "C", "int8"),
        absent("d", "D", "fp32", "fails"),
        timed("ours", "vitkern"),
    ]
    (one,) = against_best(entries, times)
    assert (one.ours, one.peer) == ("ours", "b")
    for precision, peers in (("bf16", [None, "b"]), ("int8", ["c"])):
        coarser = [*entries[:-1], timed("ours", "vitkern", precision)]
        assert [found.peer for found in against_best(coarser, times)] == peers
    slower = [*entries[:3], timed("a8", "A", "int8"), timed("ours", "vitkern", "int8")]
    assert [found.peer for found in against_best(slower, times)] == ["a8", "b"]
    assert one.ratio is not None
    assert (one.ratio.median, one.ratio.count) == (2.0, 3)
    entries[-1].seconds = None
    assert against_best(entries, times) == []
