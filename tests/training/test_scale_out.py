"""Two processes under torchrun train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.training import scaled_out, toy
from vitkern.training.checkpoint import CheckpointStore

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="PyTorch without gloo"
)
def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    alone = scaled_out.train(tmp_path / "one")
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "tests.training.scaled_out", str(tmp_path / "two"),
        ],
        cwd=ROOT,
        env={
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 1
    found = json.loads(lines[0])
    assert found["processes"] == 2
    for name in ("losses", "norms"):
        torch.testing.assert_close(
            torch.tensor(found[name]), torch.tensor(alone[name]), rtol=2e-4, atol=1e-5
        )
    for ours, theirs in zip(found["valid"], alone["valid"], strict=True):
        assert ours["images"] == theirs["images"] == 21
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["confusion"] == theirs["confusion"]
    # One process can go on from what two have written.
    told: list[str] = []
    state = CheckpointStore(tmp_path / "two").newest(told.append)
    assert state is not None
    assert not told
    assert state["progress"]["step"] == len(found["losses"])
    trainer = toy.trainer(
        tmp_path / "two", toy.swin(drop_path_rate=0.0), accumulate=2, ema=0.9, checkpoint_every=2
    )
    assert trainer.fit(resume=True).steps == len(found["losses"])
