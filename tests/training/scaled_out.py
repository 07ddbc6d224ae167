"""Trains under torchrun; the first process prints its losses as JSON.

torchrun --nproc-per-node 2 -m tests.training.scaled_out FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.training import toy


def train(folder: Path) -> dict[str, Any]:
    """45 images in batches of 8 (the last has 5), two a step; no dropout, no jitter."""
    torch.set_num_threads(1)
    trainer = toy.trainer(
        folder,
        toy.swin(drop_path_rate=0.0),
        train=toy.Images(jitter=False),
        accumulate=2,
        ema=0.9,
        checkpoint_every=2,
    )
    history = trainer.fit().history
    return {
        "processes": trainer.accelerator.num_processes,
        "main": trainer.accelerator.is_main_process,
        "losses": [line["loss"] for line in history if line["kind"] == "step"],
        "norms": [line["gradient_norm"] for line in history if line["kind"] == "step"],
        "valid": [line["valid"] for line in history if line["kind"] == "epoch"],
    }


if __name__ == "__main__":
    found = train(Path(sys.argv[1]))
    if found["main"]:
        print(json.dumps(found))
