"""The check of a GPU, dry: on the CPU, with a tiny model; no time is asserted."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from vitkern.bench import models
from vitkern.bench.gpu import card, check, device_tests, prepare, rows, systems
from vitkern.bench.gpu.card import Card
from vitkern.bench.gpu.device_tests import Outcome, rank
from vitkern.bench.timing import Comparison, Plan, interleave
from vitkern.ops import _cpu

DRY = [entry.row.slug for entry in rows.DRY_ROWS]


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tests of ops that pass at once; the devices that they were run on."""
    ran: list[str] = []

    def run(device: str, **_: Any) -> Outcome:
        ran.append(device)
        return Outcome(passed=3, seconds=1.0)

    monkeypatch.setattr(device_tests, "run", run)
    return ran


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are made up."""
    monkeypatch.setattr(systems.Bench, "__init__", _init)
    monkeypatch.setattr(systems.Bench, "measure", lambda bench: _row(bench.entry.row.slug))


def _init(bench: Any, entry: rows.Entry, *_: Any) -> None:
    bench.entry = entry


def _row(name: str, ok: bool = True) -> dict[str, Any]:
    return {"name": name, "ok": ok, "systems": {}, "speedups": {}, "notes": []}


def dry(folder: Path, *more: str) -> int:
    return check.main(["--dry-run", "--output", str(folder), *more])


def written(folder: Path) -> Any:
    return json.loads((folder / "gpu.json").read_text())


@pytest.mark.slow
def test_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry(tmp_path) == 0
    found = written(tmp_path)
    assert (found["schema"], found["kind"], found["dry_run"]) == (1, "gpu", True)
    assert found["card"]["name"] == "no GPU"
    assert found["software"]["torch"] == torch.__version__
    assert found["software"]["sources"]
    assert found["tests"]["ok"]
    assert found["tests"]["passed"] >= 9
    assert found["dropped"] == []
    cpu, missing = systems.named("cpu"), _cpu.missing()
    assert [row["name"] for row in found["rows"]] == DRY
    inference, training, plain = found["rows"]
    graphs = {systems.EAGER_GRAPH, systems.VITKERN_GRAPH}
    both = {systems.EAGER, systems.VITKERN}
    compared = {systems.COMPILED} | ({cpu} if missing is None else set())
    assert inference["systems"].keys() == both | graphs | compared
    assert training["systems"].keys() == both
    assert plain["systems"].keys() == both | graphs
    for row in found["rows"]:
        assert row["ok"]
        untimed = row is inference and missing is not None
        assert [note.partition(": ")[0] for note in row["notes"]] == [cpu] * untimed
        assert row["flops"] > 0
        assert f"{systems.VITKERN} over {systems.EAGER}" in row["speedups"]
        assert bool(row["ops"]) == (missing is None)  # else there is nothing to choose from
        for one in row["systems"].values():
            assert one["seconds"]["count"] == 2
            assert one["share_of_peak"] > 0
            assert all(0 <= p["error"] <= p["allowed"] for p in one["parity"])
    assert len(training["systems"][systems.VITKERN]["parity"]) == 2  # output, gradients
    assert inference["predicted_seconds"]["triton"] > 0
    assert inference["measured_over_predicted"] > 0
    assert training["predicted_seconds"] is None
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert "tests: " in err


def test_an_interrupted_run_goes_on(
    tmp_path: Path, passing: list[str], quick: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    measured: list[str] = []

    def measure(bench: Any) -> dict[str, Any]:
        if len(measured) == 1:
            measured.append("interrupted")
            raise KeyboardInterrupt
        measured.append(bench.entry.row.slug)
        return _row(bench.entry.row.slug)

    monkeypatch.setattr(systems.Bench, "measure", measure)
    assert dry(tmp_path) == 130
    assert "interrupted; 1 rows are in" in capsys.readouterr().err
    assert [row["name"] for row in written(tmp_path)["rows"]] == DRY[:1]
    assert dry(tmp_path, "--resume") == 0
    assert measured == [DRY[0], "interrupted", *DRY[1:]]
    assert [row["name"] for row in written(tmp_path)["rows"]] == DRY
    assert passing == ["cpu"]  # once: the file says that they passed


@pytest.mark.parametrize("name", ["card", "software", "dry_run"])
def test_other_results_are_not_resumed(
    tmp_path: Path, passing: list[str], quick: None, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert dry(tmp_path) == 0
    (tmp_path / "gpu.json").write_text(json.dumps({**written(tmp_path), name: "another"}))
    assert dry(tmp_path, "--resume") == 0
    assert f"nothing to resume: the file's {name} is another" in capsys.readouterr().err
    assert passing == ["cpu", "cpu"]


def test_no_file_to_resume(tmp_path: Path, passing: list[str], quick: None) -> None:
    assert dry(tmp_path, "--resume") == 0
    assert len(written(tmp_path)["rows"]) == 3


def _tests(folder: Path, *bodies: str) -> str:
    path = folder / "test_some.py"
    path.write_text("\n".join(f"def test_{i}():\n    {b}" for i, b in enumerate(bodies)))
    return str(path)


def test_failing_tests_stop_it_before_timing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_tests, "DRY", (_tests(tmp_path, "pass", "assert 1 == 2, 'why'"),))
    assert dry(tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert "tests: 1 passed, 1 failed" in err
    assert "test_some.py::test_1" in err
    assert "AssertionError: why" in err
    assert "parity failed, so nothing was timed" in err
    assert not (tmp_path / "out").exists()


def test_tests_are_shared_by_processes_of_which_one_dies(tmp_path: Path) -> None:
    files = (_tests(tmp_path, "__import__('os')._exit(7)", "pass", "pass", "assert 0", "pass"),)
    logs = tmp_path / "logs"
    found = device_tests.run("cpu", deadline=time.time() + 60, processes=2, files=files, logs=logs)
    assert found.passed == 1  # the other's are lost
    (name, message), (other, _) = found.failures
    assert name == "pytest, process 0"
    assert message.startswith("ended with status 7")
    assert other.endswith("test_some.py::test_3")
    assert not found.ok
    assert len(list(logs.iterdir())) == 2


def test_tests_for_which_no_time_is_left(tmp_path: Path) -> None:
    files = (_tests(tmp_path, "pass", "pass"),)
    found = device_tests.run("cpu", deadline=time.time() - 1, processes=1, files=files)
    assert found.not_run["ops"] == 2
    assert found.skipped == 0
    assert not found.ok
    assert "2 not run for lack of time (2 ops)" in str(found)


def test_required_tests_that_did_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: Any, **__: Any) -> Outcome:
        found = Outcome(passed=9)
        found.not_run |= {"models": 4, "layouts": 5}
        return found

    monkeypatch.setattr(device_tests, "run", run)
    assert dry(tmp_path) == 1
    err = capsys.readouterr().err
    assert "not all tests of these kinds have run: models; so nothing was timed" in err


@pytest.mark.parametrize(
    "nodeid, kind",
    [
        ("tests/gpu/test_device.py::test_a_captured_model[tuned-vit]", "device"),
        ("tests/ops/test_parity.py::test_models[mlp-triton-vit-s-float32-natural]", "models"),
        ("tests/ops/test_kernels.py::test_repeatable[mlp-triton-float32]", "ops"),
        ("tests/ops/test_parity.py::test_training[mlp-triton-n3-float16-natural]", "parity"),
        ("tests/ops/test_parity.py::test_training[mlp-triton-n3-float16-padded]", "layouts"),
    ],
)
def test_which_tests_come_first(nodeid: str, kind: str) -> None:
    assert rank(nodeid) == kind


def test_pytest_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_tests.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(device_tests.NoTests, match="pytest is not installed"):
        device_tests.run("cpu", deadline=time.time(), processes=1)


def test_missing_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_tests, "DRY", ("tests/none",))
    assert dry(tmp_path) == 2
    assert "run it in a checkout" in capsys.readouterr().err


def test_rows_for_which_no_time_is_left(
    tmp_path: Path,
    passing: list[str],
    quick: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check, "time", SimpleNamespace(time=lambda: 0.0))  # a clock that stands
    assert dry(tmp_path, "--minutes", "0.05") == 0
    found = written(tmp_path)
    assert [row["name"] for row in found["rows"]] == DRY[:1]
    assert found["dropped"] == DRY[1:]
    assert f"no time for 2 rows: {', '.join(DRY[1:])}" in capsys.readouterr().err


def test_some_rows(tmp_path: Path, passing: list[str], quick: None) -> None:
    assert dry(tmp_path, "--rows", "train") == 0
    assert [row["name"] for row in written(tmp_path)["rows"]] == DRY[1:2]


NO_GPU: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (lambda patch: patch.setattr(torch.version, "cuda", None), "is built without CUDA"),
    (lambda patch: patch.setattr(torch.version, "cuda", "13.0"), "PyTorch finds no CUDA device"),
    (lambda patch: patch.setenv("TRITON_INTERPRET", "1"), "TRITON_INTERPRET is set"),
]


@pytest.mark.parametrize("change, message", NO_GPU, ids=[message for _, message in NO_GPU])
def test_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    change: Callable[[pytest.MonkeyPatch], None], message: str,
) -> None:  # fmt: skip
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    change(monkeypatch)
    assert check.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gpu-check: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [(["--dry-run"], "needs --output FOLDER"), (["--minutes", "0"], "must be positive, got 0")],
)
def test_wrong_arguments(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as error:
        check.main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def _place(**changes: Any) -> systems.Place:
    plan = Plan(min_rounds=1, max_rounds=1, min_seconds=0.0, sample_seconds=0.0)
    given = {
        "device": torch.device("cpu"), "target": None, "plan": plan, "time": interleave,
        "capture": lambda run: run, "compiler": "aot_eager",
    }  # fmt: skip
    return systems.Place(**given | changes)


def _measured(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    return systems.Bench(rows.DRY_ROWS[2], _place(**changes), lambda step: None).measure()


def test_a_wrong_system_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(bench: systems.Bench) -> tuple[nn.Module, systems.Run]:
        right = bench._pass(bench.model)
        return bench.model, lambda: right() * 1.001

    monkeypatch.setattr(systems.Bench, "_patched", wrong)
    timed: list[str] = []

    def time_them(runs: Any, plan: Plan) -> Comparison:
        timed.extend(runs)
        return interleave(runs, plan)

    row = _measured(monkeypatch, time=time_them)
    assert timed == [systems.EAGER, systems.EAGER_GRAPH]
    assert not row["ok"]
    assert row["systems"][systems.VITKERN]["seconds"] is None
    assert "vitkern: not timed, parity failed: output: error" in row["notes"][0]
    assert "parity failed" in check.line(row)


def test_each_backend_is_a_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not here is named, with its reasons, and is no failure of the row."""
    monkeypatch.setattr(systems.Bench, "_compiled", lambda bench: (bench.model, lambda: None))
    entry = dataclasses.replace(rows.DRY_ROWS[2], compared=True)
    here = "cpu" if _cpu.missing() is None else "eager"
    place = _place(backends=(here, "cuda"))
    row = systems.Bench(entry, place, lambda step: None).measure()
    assert row["ok"]
    assert row["systems"][systems.named(here)]["seconds"]["count"] == 1
    checks = row["systems"][systems.named(here)]["parity"]
    assert checks and all(one["error"] <= one["allowed"] for one in checks)
    assert "vitkern, cuda" not in row["systems"]
    (note,) = [note for note in row["notes"] if note.startswith("vitkern, cuda: ")]
    assert "not timed, it fails: patch_embed: cuda: " in note


def test_a_system_that_fails_is_one_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(run: systems.Run) -> systems.Run:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    row = _measured(monkeypatch, capture=capture)
    assert row["ok"]
    assert row["systems"].keys() == {systems.EAGER, systems.VITKERN}
    assert "vitkern, CUDA graph: not timed, it fails: operation not permitted" in row["notes"][1]
    assert "predicted_seconds" in row


def test_a_row_that_fails_is_reported_and_others_go_on(
    tmp_path: Path, passing: list[str], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(bench: Any) -> dict[str, Any]:
        if bench.entry.row.mode == "train":
            raise RuntimeError("CUDA out of memory")
        return _row(bench.entry.row.slug)

    monkeypatch.setattr(systems.Bench, "measure", measure)
    assert dry(tmp_path) == 1
    assert [row["ok"] for row in written(tmp_path)["rows"]] == [True, False, True]
    assert written(tmp_path)["rows"][1]["notes"] == ["fails: CUDA out of memory"]


def test_without_timm_its_own_models_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise models.TimmMissing("timm is not installed")

    monkeypatch.setattr(models, "require_timm", missing)
    assert rows.source() == "vitkern.models, as timm is not installed"
    for entry in rows.DRY_ROWS:
        model, images = rows.build(entry, torch.device("cpu"))
        assert type(model).__module__.startswith("vitkern.models")
        with torch.no_grad():
            assert model(images).abs().max() > 0
    for entry in rows.ROWS:
        model, images = rows.on_meta(entry)
        assert images.shape == (entry.row.batch, 3, 224, 224)
        assert model.training == (entry.row.mode == "train")


def test_rows_differ_and_the_most_telling_come_first() -> None:
    slugs = [entry.row.slug for entry in rows.ROWS]
    assert len(set(slugs)) == len(slugs) == 30
    assert slugs[0] == "vit_small_patch16_224-batch64-eval-bfloat16"
    assert sum(entry.row.mode == "train" for entry in rows.ROWS) == 2
    assert sum(entry.row.dtype == "float32" for entry in rows.ROWS) == 4


@pytest.mark.parametrize(
    "name, processors, target",
    [
        ("NVIDIA H100 80GB HBM3", 132, "h100"),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", 60, None),
        ("NVIDIA H100 80GB HBM3", 60, None),
        ("NVIDIA H100 PCIe", 114, None),
        ("NVIDIA GeForce RTX 4090", 128, "rtx4090"),
    ],
)
def test_cards_and_their_data_sheets(name: str, processors: int, target: str | None) -> None:
    found = Card(name, processors=processors)
    assert (found.target and found.target.name) == target
    assert found.to_dict()["data_sheet"] == target


def test_a_card_has_a_name_for_folders() -> None:
    assert Card("NVIDIA A100-SXM4-80GB").slug == "nvidia-a100-sxm4-80gb"


def test_the_software_is_told_apart() -> None:
    assert card.software() == card.software()
    assert len(card.software()["sources"]) == 16


@pytest.mark.parametrize("entry", rows.DRY_ROWS[:2], ids=lambda entry: entry.row.mode)
def test_launches_to_compile_ahead(entry: rows.Entry) -> None:
    found = prepare.launches(entry, torch.device("cpu"))
    kernels = {launch.kernel.name for launch, _ in found}
    assert any(name.startswith("layer_norm.") for name in kernels)
    assert any("backward" in name for name in kernels) == (entry.row.mode == "train")
    assert len({id(one) for one in found}) == len(found)
