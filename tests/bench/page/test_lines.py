"""What becomes of stored files: every row a line, and what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.page import made
from vitkern.bench.page.lines import READERS, load
from vitkern.bench.report import read_json

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def test_all_that_is_stored_in_the_repository_is_read() -> None:
    stored = load(RESULTS)
    expected = 0
    for path in RESULTS.rglob("*.json"):
        document = read_json(path)
        if document["kind"] in READERS:
            expected += sum(len(row.get("entries", [0])) for row in document["rows"])
    assert len(stored.lines) == expected > 300
    assert all("is not shown here" in text or "are not shown here" in text
               for text in stored.left_out)  # fmt: skip
    assert {line.what for line in stored.lines} == {"op", "model"}
    assert all(line.figures.seconds or line.reason for line in stored.lines)


def test_a_model_an_op_and_peers(tmp_path: Path) -> None:
    made.write(tmp_path, "models", [made.model()])
    made.write(tmp_path, "ops", [made.op("layer_norm-cpu-swin-t-stage0-bfloat16", form="bfloat16")])
    made.write(tmp_path, "peers", [made.peers()])
    lines = load(tmp_path).lines
    (model,) = [line for line in lines if line.method == "pairs"]
    assert (model.subject, model.batch, model.precision) == ("vit_tiny_patch16_224", 8, "float32")
    assert model.figures.seconds is not None
    assert (model.figures.seconds.median, model.figures.memory) == (0.1, 20_000_000)
    assert (model.figures.error, model.eager.error, model.allowed) == (4e-7, 3e-7, 7e-7)
    (op,) = [line for line in lines if line.what == "op"]
    assert (op.subject, op.case, op.precision) == ("layer_norm", "swin-t-stage0", "bfloat16")
    assert (op.system, op.form, op.ours) == ("vitkern cpu", "bfloat16", True)
    systems = {(line.system, line.precision) for line in lines if line.method == "peers"}
    assert ("torch.compile, frozen", "bfloat16") in systems
    assert ("vitkern", "bfloat16") in systems
    (absent,) = [line for line in lines if line.system == "ONNX Runtime"]
    assert absent.reason == "not installed: pip install it"
    (eager,) = [line for line in lines if line.system == "eager"]
    assert eager.speedup is None
    assert not eager.ours


def test_a_model_that_was_not_timed_has_its_reason(tmp_path: Path) -> None:
    notes = ["not timed, parity failed: output: error 1"]
    times = dict.fromkeys(("eager", "patched", "speedup", "patched_share", "eager_share", "memory"))
    row = made.model() | times | {"ok": False, "notes": notes}
    made.write(tmp_path, "models", [row])
    (line,) = load(tmp_path).lines
    assert line.reason == notes[0]
    assert line.figures.seconds is None


def test_what_cannot_be_read_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = made.write(tmp_path, "models", [made.model(), {"name": "no row"}, "no dict"])
    (path.parent / "cut.json").write_text(path.read_text()[:100])
    (path.parent / "schema.json").write_text('{"schema": 99, "kind": "models"}')
    (path.parent / "list.json").write_text("[1, 2]")
    made.write(tmp_path, "coverage", [], name="coverage")
    made.write(tmp_path, "ops", [made.op("no-name")], name="ops")
    made.write(tmp_path, "peers", [made.peers()], name="peers", machine={"threads": None})
    stored = load(tmp_path)
    assert len(stored.lines) == 1
    told = "\n".join(stored.left_out)
    for name in ("cut.json", "schema.json", "list.json", "coverage.json", "peers.json"):
        assert f"/{name}: " in told
    assert "row 2 is damaged" in told
    assert "row 3 is damaged" in told
    assert "'no-name' is no name of a benchmark" in told


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load(tmp_path / "missing")
