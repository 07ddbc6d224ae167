"""Trains under torchrun; the first process prints its losses as JSON.

torchrun --nproc-per-node 2 -m tests.training.scaled_out FOLDER ddp|fsdp

A run in FOLDER/two from its start, and the one in FOLDER/one from its newest checkpoint.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from tests.training import toy
from vitkern.patching.swap import swap_of
from vitkern.training import Trainer

SETTINGS: dict[str, Any] = {"accumulate": 2, "ema": 0.9, "checkpoint_every": 2}


def trainer(folder: Path, distributed: str = "ddp", **changes: Any) -> Trainer:
    """45 images in batches of 8 (the last has 5), two a step; no dropout, no jitter."""
    return toy.trainer(
        folder,
        toy.swin(drop_path_rate=0.0),
        train=toy.Images(jitter=False),
        distributed=distributed,
        **{**SETTINGS, **changes},
    )


def train(folder: Path, distributed: str = "ddp", resume: bool = False) -> dict[str, Any]:
    """Losses and validations; and what of the model was patched, and is in this process."""
    torch.set_num_threads(1)
    made = trainer(folder, distributed)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="vitkern: ")  # "... runs its original forward"
        history = made.fit(resume=resume).history
    parameters: list[Any] = list(made.model.parameters())
    return {
        "processes": made.accelerator.num_processes,
        "main": made.accelerator.is_main_process,
        "losses": [line["loss"] for line in history if line["kind"] == "step"],
        "norms": [line["gradient_norm"] for line in history if line["kind"] == "step"],
        "valid": [line["valid"] for line in history if line["kind"] == "epoch"],
        "patched": sum(swap_of(module) is not None for module in made.model.modules()),
        "elements": sum(one.numel() for one in parameters),
        "here": sum(getattr(one, "_local_tensor", one).numel() for one in parameters),
    }


if __name__ == "__main__":
    root, kind = Path(sys.argv[1]), sys.argv[2]
    found = train(root / "two", kind)
    found["resumed"] = train(root / "one", kind, resume=True)
    if found["main"]:
        print(json.dumps(found))
