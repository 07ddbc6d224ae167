"""The demo, with one image and few rounds; it must not need a network."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from tests import needs
from vitkern._library import LibraryStatus, load
from vitkern.bench.contention import Contention
from vitkern.bench.parity import Check, Parity

pytest.importorskip("sklearn")

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("the demo uses the network")

    monkeypatch.setenv("HF_HUB_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "0"))  # restored after
    monkeypatch.setattr(socket.socket, "connect", refuse)
    spec = importlib.util.spec_from_file_location("vitkern_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_it_runs(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--quick"]) == 0
    text = capsys.readouterr().out
    assert "1 crop of china.jpg" in text
    for name in demo.MODELS:
        assert f"vitkern.patch({name}), weights: " in text
    rest = text.partition("before and after")[2]
    if load().available:
        assert rest.count("×") == 2
        assert rest.count("%") == 4  # of both sides, for each model
    assert text.count("right") == 2
    assert "WRONG" not in text
    assert "FMA peak after" in text
    assert len(text.splitlines()) < 40 + 5 * (not load().available)  # one screen, and why untimed


@pytest.fixture
def one_tiny_model(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(demo, "MODELS", ("vit_tiny_patch16_224",))
    return demo


def test_without_library_it_runs_on_the_eager_backend(
    one_tiny_model: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = LibraryStatus(False, Path("x"), "no C++ compiler")
    monkeypatch.setattr(one_tiny_model, "load", lambda: missing)
    assert one_tiny_model.main(["--quick", "--full"]) == 0
    text = capsys.readouterr().out
    assert "No compiled kernels: no C++ compiler." in text
    assert "blocks.3: layer_norm + linear + attention + mlp: eager" in text
    rest = text.partition("before and after")[2]
    assert "×" not in rest  # both sides are the same code: a ratio would be noise
    why = "both sides are plain PyTorch: no C++ compiler"
    assert f"vit_tiny_patch16_224: not timed, {why}" in rest
    assert "right" in rest


def test_a_wrong_model_is_told_and_its_times_are_not(
    one_tiny_model: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = one_tiny_model.vitkern.patch

    def patch(model: nn.Module, **options: Any) -> Any:
        model.register_forward_hook(lambda module, args, out: out + 1.0)
        return original(model, **options)

    monkeypatch.setattr(one_tiny_model.vitkern, "patch", patch)
    assert one_tiny_model.main(["--quick"]) == 1
    text = capsys.readouterr().out
    assert "vit_tiny_patch16_224: WRONG: output: error" in text
    assert "right" not in text
    assert "×" not in text.partition("before and after")[2]  # no speed-up


@needs.library
@pytest.mark.parametrize("others", [0.0, 1.5])
def test_a_busy_machine_is_told(
    one_tiny_model: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    others: float,
) -> None:
    found = Contention(others, 2, 2)
    monkeypatch.setattr(one_tiny_model.Meter, "result", lambda self: found)
    assert one_tiny_model.main(["--quick"]) == 0
    text = capsys.readouterr().out
    assert ("] (busy)" in text) == (others > 0.0)
    told = "vit_tiny_patch16_224: other processes used 1.5 of the machine's 2 cores"
    assert (told in text) == (others > 0.0)


@pytest.mark.parametrize("error, verdict", [(3e-7, "right"), (5e-7, "WRONG")])
def test_the_verdict_is_that_of_parity(demo: ModuleType, error: float, verdict: str) -> None:
    checked = Parity((Check("output", error, 2e-7, 4e-7),))
    pair = demo.Pair(demo.Row("x", 1), None, None, None, demo.Peak(), "no reason")
    cells = demo.cells(pair, checked)
    assert len(cells) == 1 + len(demo.COLUMNS)
    assert cells[-4:] == ["2.0e-07", f"{error:.1e}", "4.0e-07", verdict]


def test_without_timm_it_says_what_to_install(
    demo: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert demo.main([]) == 1
    assert capsys.readouterr().err == "demo: timm is not installed: pip install timm\n"


def test_a_model_that_is_not_patched_has_no_speed_up(
    one_tiny_model: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_tiny_model, "MODELS", ("resnet18",))
    monkeypatch.setattr(one_tiny_model, "load", lambda: LibraryStatus(True, Path("x"), None))
    assert one_tiny_model.main(["--quick"]) == 0
    rest = capsys.readouterr().out.partition("before and after")[2]
    assert "×" not in rest
    assert "resnet18: not timed, nothing was patched: no known modules" in rest


def test_cached_weights_are_used(
    one_tiny_model: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A cache with the layout of the hub: blobs, refs and snapshots."""
    import timm
    from huggingface_hub import constants
    from safetensors.torch import save_file

    name = "vit_tiny_patch16_224"
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    folder = tmp_path / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    weights = timm.create_model(name).state_dict()
    save_file({key: torch.full_like(value, 0.25) for key, value in weights.items()},
              snapshot / "model.safetensors")  # fmt: skip
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model, source = one_tiny_model.cached_model(name)
    assert source == f"pretrained ({repository}, cached)"
    assert all(bool((parameter == 0.25).all()) for parameter in model.parameters())


def test_crops_are_squares_of_every_photograph(demo: ModuleType) -> None:
    photos = demo.photographs()
    assert set(photos) == {"china.jpg", "flower.jpg"}
    squares = demo.crops(photos, 8)
    assert [square.size for square in squares] == [(427, 427)] * 8
    assert len({square.tobytes() for square in squares}) == 8
    assert len(demo.crops(photos, 1)) == 1
