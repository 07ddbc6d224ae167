"""Two processes under torchrun train as one does, with whole parameters and with parts of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.training import scaled_out
from vitkern._library import load
from vitkern.training.checkpoint import CheckpointStore
from vitkern.training.sampling import even_share

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="PyTorch without gloo"
)


def torchrun(*arguments: str) -> dict[str, Any]:
    """What the first of two processes prints."""
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", *arguments,
        ],
        cwd=ROOT,
        env={
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"
        },
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 1
    found: dict[str, Any] = json.loads(lines[0])
    return found


def drop_newest(folder: Path) -> None:
    """As if the run had been killed before it."""
    newest, before = CheckpointStore(folder).paths()
    newest.unlink()
    assert before.name == f"checkpoint-{STEPS - 2:09d}.safetensors"


def same(found: dict[str, Any], alone: dict[str, Any]) -> None:
    """Losses, norms of gradients and validations, but for the order of sums."""
    assert len(found["losses"]) == STEPS
    for name in ("losses", "norms", "parts"):
        torch.testing.assert_close(
            torch.tensor(found[name]), torch.tensor(alone[name]), rtol=2e-4, atol=1e-5
        )
    for ours, theirs in zip(found["valid"], alone["valid"], strict=True):
        assert ours["images"] == theirs["images"] > 0
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours.get("confusion") == theirs.get("confusion")


@pytest.mark.parametrize(
    "model, distributed",
    [
        ("swin", "ddp"),
        ("swin", "fsdp"),
        ("detr", "fsdp"),
        pytest.param("detr", "ddp", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one(tmp_path: Path, model: str, distributed: str) -> None:
    alone = scaled_out.train(tmp_path / "one", model)
    drop_newest(tmp_path / "one")
    found = torchrun("tests.training.scaled_out", str(tmp_path), model, distributed)
    assert found["processes"] == 2
    assert found["patched"] == alone["patched"]
    assert (alone["patched"] > 0) == load().available
    same(found, alone)
    # A process has about half of the parameters, or all.
    assert found["elements"] == alone["elements"] == alone["here"]
    share = found["here"] / found["elements"]
    assert share == 1 if distributed == "ddp" else 0.5 <= share < 0.52
    # Two go on from what one has written, and one from what two have.
    same(found["resumed"], alone)
    told: list[str] = []
    assert CheckpointStore(tmp_path / "two").newest(told.append) is not None
    assert not told
    drop_newest(tmp_path / "two")
    same(scaled_out.train(tmp_path / "two", model, resume=True), alone)


@pytest.mark.parametrize("count, processes", [(17, 2), (1, 2), (4, 2), (5, 3)])
def test_processes_evaluate_equally_often(count: int, processes: int) -> None:
    """A model that is split must be called by all; each image counts once."""
    parts = [even_share(count, rank, processes) for rank in range(processes)]
    assert len({len(images) for images, _ in parts}) == 1
    counted = [index for images, own in parts for index in images[:own]]
    assert sorted(counted) == list(range(count))
