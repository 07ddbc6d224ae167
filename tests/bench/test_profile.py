"""Profiles: every product is counted, in the right module, whoever computes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tests import needs
from vitkern import patch
from vitkern._library import load
from vitkern.bench import machine, profile_report
from vitkern.bench.flops import model_flops
from vitkern.bench.models import Row, build
from vitkern.bench.passes import make_pass
from vitkern.bench.profile import Profile, profile
from vitkern.bench.timing import Plan

PLAN = Plan(min_rounds=2, min_seconds=0.0, sample_seconds=0.0)
VIT = "vit_tiny_patch16_224"
SWIN = "swin_tiny_patch4_window7_224"


def profiled(row: Row, *, patched: bool) -> tuple[Profile, int]:
    """The profile, and the operations that the counter of whole models finds."""
    model, images = build(row)
    expected = model_flops(model, images, backward=row.mode == "train")
    if patched:
        patch(model)
    return profile(model, make_pass(row, model, images), PLAN), expected


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("row", [Row(VIT, 2), Row(VIT, 1, "train"), Row(SWIN, 1)], ids=str)
def test_every_product_is_counted(row: Row, patched: bool) -> None:
    found, expected = profiled(row, patched=patched)
    assert sum(call.flops for call in found.calls) == pytest.approx(expected, rel=1e-9)
    assert sum(cost.flops for cost in found.by_op()) == sum(call.flops for call in found.calls)
    assert all(call.seconds > 0 and call.bytes > 0 for call in found.calls)
    ops = {call.op for call in found.calls}
    assert any(op.startswith("vitkern_cpu::") for op in ops) == (patched and load().available)


def test_the_backward_pass_of_windows_is_counted() -> None:
    found, expected = profiled(Row(SWIN, 1, "train"), patched=True)
    assert sum(call.flops for call in found.calls) == pytest.approx(expected, rel=1e-9)


def test_calls_have_their_modules() -> None:
    found, _ = profiled(Row(VIT, 1), patched=True)
    modules = [call.module for call in found.calls if call.flops]
    assert modules[0] == "patch_embed.proj"
    assert {"blocks.0", "blocks.11"} <= {".".join(name.split(".")[:2]) for name in modules}
    assert modules[-1] == "head"


@needs.library
def test_a_packed_weight_is_read_once() -> None:
    model = nn.Sequential(nn.Linear(64, 128))
    patch(model, backend="cpu")
    x = torch.randn(32, 64)

    def run() -> None:
        with torch.inference_mode():
            model(x)

    (call,) = profile(model, run, PLAN).calls
    weight, rest = 64 * 128 * 4, (32 * 64 + 128 + 32 * 128) * 4
    # Packed with some room, not twice; in three parts of bfloat16 where tile registers multiply it.
    most = 1.3 if torch.ops.vitkern_cpu.isa() != "amx" else 1.7
    assert weight + rest <= call.bytes < most * weight + rest


def test_passes_that_differ_are_refused() -> None:
    model = nn.Linear(2, 2)
    count = iter(range(100))

    def run() -> None:
        x = torch.ones(1, 2)
        for _ in range(next(count)):
            x = model(x)

    with pytest.raises(RuntimeError, match="different calls"):
        profile(model, run, PLAN)


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    found, _ = profiled(Row(VIT, 1), patched=True)
    here = machine.describe()
    assert profile_report.table(found, here, "ViT").row_count >= 3
    assert profile_report.table(found, here, "ViT", calls=True).row_count == len(found.calls) + 1
    picture = tmp_path / "deep" / "profile.png"
    profile_report.draw(found, here, "ViT", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in picture.parent.iterdir()] == ["profile.png"]
    assert json.loads(json.dumps(found.to_dict()))["calls"]
