"""Trains in a child that is killed at random moments and resumed, until it is through.

    python -m tests.training.killed FOLDER KILLS SEED

One process imports everything and forks a child for each start, so that a start takes no seconds.
Prints JSON: the kills that hit a running training, and the steps at which the next start went on.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import sys
import time
from pathlib import Path

import matplotlib.figure  # noqa: F401 - else every child does
import torch

from tests.training import toy

SETTINGS = {"epochs": 12, "checkpoint_every": 2, "accumulate": 2, "ema": 0.9}


def train(folder: Path) -> None:
    """To the end, from wherever the folder stands."""
    toy.trainer(folder, **SETTINGS, report=lambda text: None).fit(resume=True)


def steps(folder: Path) -> int:
    """Steps that checkpoints have."""
    names = [path.stem for path in folder.glob("checkpoint-*.safetensors")]
    return max((int(name.split("-")[1]) for name in names), default=0)


def main(folder: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    chance = random.Random(seed)
    context = multiprocessing.get_context("fork")
    whole = 0.0
    for name in ("warm", "undisturbed"):  # the first also reads what later ones find in memory
        begun = time.monotonic()
        child = context.Process(target=train, args=(folder / name,))
        child.start()
        child.join()
        whole = time.monotonic() - begun
    killed, places = 0, []
    while True:
        child = context.Process(target=train, args=(folder / "killed",))
        child.start()
        # The whole training is in reach of each kill, its first checkpoint and its end as well.
        child.join(chance.uniform(0.1, 1) * whole if killed < kills else None)
        if child.exitcode is None:
            child.kill()
            child.join()
            killed += child.exitcode == -signal.SIGKILL
            places.append(steps(folder / "killed"))
            continue
        if child.exitcode != 0:
            raise SystemExit(f"the training ended with status {child.exitcode}")
        if killed >= kills:
            break
        # It got through too soon: once more from the start, for the kills that are left.
        for path in (folder / "killed").iterdir():
            path.unlink()
    print(json.dumps({"killed": killed, "places": places, "seconds": whole}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
