"""Interrupted and resumed is uninterrupted, bit for bit; a full disk and damage lose nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import toy
from vitkern.training import CheckpointError, files
from vitkern.training.checkpoint import CheckpointStore, read_state
from vitkern.training.history import read_history

ROOT = Path(__file__).resolve().parents[2]


def same_runs(a: Path, b: Path) -> None:
    """Weights, average, optimizer, best weights and history."""
    last = [CheckpointStore(folder).newest(pytest.fail) for folder in (a, b)]
    assert last[0] is not None
    assert last[1] is not None
    assert last[0]["progress"] == last[1]["progress"]
    for part in ("model", "ema"):
        if last[0][part] is not None:
            toy.assert_same(last[0][part], last[1][part])
    for one, two in zip(*(s["optimizer"]["state"].values() for s in last), strict=True):
        toy.assert_same(one, two)
    toy.assert_same(*(read_state(folder / "best.safetensors")["model"] for folder in (a, b)))
    lines = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_history(f)]
        for f in (a / "history.jsonl", b / "history.jsonl")
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    "kills, seed", [(5, 1), pytest.param(20, 2, marks=pytest.mark.slow)], ids=["5", "20"]
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_random_moments(tmp_path: Path, kills: int, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killed", str(tmp_path), str(kills), str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180 * kills,  # against hanging only: how long it takes depends on what else runs
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] == kills
    assert any(0 < place < 36 for place in found["places"])  # in the middle of the training
    same_runs(tmp_path / "undisturbed", tmp_path / "killed")


class Interrupted(Exception):
    """In place of a kill, within a process."""


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Stops a training after so many more steps."""
    from vitkern.training.history import History

    add, seen = History.add, [0]

    def counting(self: History, entry: dict[str, Any]) -> None:
        seen[0] += entry["kind"] == "step"
        if seen[0] > after:
            raise Interrupted
        add(self, entry)

    monkeypatch.setattr(History, "add", counting)


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
@pytest.mark.parametrize("workers", [0, 2])
def test_within_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str, workers: int
) -> None:
    """Step 8 is within the second epoch; loading processes do not matter."""
    if workers and schedule == "plateau":
        pytest.skip("covered by cosine: loading knows no schedule")
    values: dict[str, Any] = {
        "schedule": schedule, "plateau_patience": 0, "epochs": 3, "checkpoint_every": 4,
    }  # fmt: skip
    toy.trainer(tmp_path / "a", toy.swin(proj_drop_rate=0.1), **values).fit()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt(patch, 9)
        toy.trainer(tmp_path / "b", toy.swin(proj_drop_rate=0.1), **values).fit()
    assert CheckpointStore(tmp_path / "b").paths()[0].name == "checkpoint-000000008.safetensors"
    torch.rand(3)  # the global generators' states do not matter
    again = toy.trainer(tmp_path / "b", toy.swin(proj_drop_rate=0.1), **values, workers=workers)
    again.fit(resume=True)
    same_runs(tmp_path / "a", tmp_path / "b")


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    values = {"checkpoint_every": 2}
    for folder in (a, b):
        toy.trainer(folder, **values).fit()
    newest, before = CheckpointStore(b).paths()
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1  # one bit of one weight
    newest.write_bytes(content)
    told: list[str] = []
    toy.trainer(b, **values, report=told.append).fit(resume=True)
    assert len(told) == 1
    assert f"{newest.name} is damaged: its checksum does not match" in told[0]
    assert newest.with_name(f"{newest.name}.damaged").exists()
    assert before.name == "checkpoint-000000010.safetensors"
    same_runs(a, b)


@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_all_damaged(tmp_path: Path, damage: str) -> None:
    toy.trainer(tmp_path, epochs=1, checkpoint_every=2).fit()
    for path in CheckpointStore(tmp_path).paths():
        content = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 2], "text": b"x" * 99}[damage]
        )
    told: list[str] = []
    with pytest.raises(CheckpointError, match="every checkpoint in"):
        toy.trainer(tmp_path, epochs=1, checkpoint_every=2, report=told.append).fit(resume=True)
    assert len(told) == 2


class FullDisk:
    """Refuses to write so many times, from one on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int, count: int) -> None:
        self.calls, self.first, self.count = 0, first, count
        self.write = files._write
        monkeypatch.setattr(files, "_write", self)

    def __call__(self, file: Any, content: bytes) -> None:
        self.calls += 1
        if self.first <= self.calls < self.first + self.count:
            file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.write(file, content)


def test_a_full_disk_in_between_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    toy.trainer(a, checkpoint_every=2).fit()
    told: list[str] = []
    with monkeypatch.context() as patch:
        FullDisk(patch, 3, 4)
        toy.trainer(b, checkpoint_every=2, report=told.append).fit()
    assert len(told) == 4
    assert all("No space left on device" in text for text in told)
    assert not list(b.glob(".*.part"))
    ours = [line for line in read_history(b / "history.jsonl") if line["kind"] == "warning"]
    assert len(ours) == 4
    toy.assert_same(*(read_state(folder / "best.safetensors")["model"] for folder in (a, b)))
    toy.assert_same(*(read_state(CheckpointStore(folder).paths()[0])["model"] for folder in (a, b)))


def test_a_disk_that_stays_full_keeps_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    toy.trainer(a, checkpoint_every=2).fit()
    trainer = toy.trainer(b, checkpoint_every=2, report=lambda text: None)
    with monkeypatch.context() as patch:
        FullDisk(patch, 3, 10**6)  # the history's first line and one checkpoint are written
        with pytest.raises(OSError, match=r"step 12 cannot be written: .*No space left") as error:
            trainer.fit()
    assert error.value.__cause__ is not None
    assert [path.name for path in CheckpointStore(b).paths()] == [
        "checkpoint-000000002.safetensors"
    ]
    toy.trainer(b, checkpoint_every=2).fit(resume=True)
    same_runs(a, b)


def test_wrong_resuming(tmp_path: Path) -> None:
    toy.trainer(tmp_path, epochs=1).fit()
    with pytest.raises(CheckpointError, match="has checkpoints of an earlier run"):
        toy.trainer(tmp_path, epochs=1).fit()
    with pytest.raises(CheckpointError, match=r"other settings: lr was 0.001 and is 0.002"):
        toy.trainer(tmp_path, epochs=1, lr=2e-3).fit(resume=True)
    with pytest.raises(CheckpointError, match=r"epochs was 1 and is 2. A run cannot be made long"):
        toy.trainer(tmp_path, epochs=2).fit(resume=True)
    with pytest.raises(CheckpointError, match="of another model: "):
        toy.trainer(tmp_path, toy.swin(), epochs=1).fit(resume=True)
    toy.trainer(tmp_path, epochs=1, keep=3).fit(resume=True)  # what changes no weight may differ
