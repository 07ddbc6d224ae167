"""Trains under torchrun; the first process prints its losses as JSON.

torchrun --nproc-per-node 2 -m tests.training.scaled_out FOLDER swin|detr ddp|fsdp

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
from vitkern.training import Trainer, build
from vitkern.training.recipe import Recipe

SETTINGS: dict[str, Any] = {"accumulate": 2, "ema": 0.9, "checkpoint_every": 2}
DETECTOR: dict[str, Any] = {
    "model": {
        "name": "detr_resnet50",
        "arguments": {
            "backbone": "resnet18",
            "backbone_arguments": {
                "out_indices": [2], "layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16],
                "stem_width": 8,
            },
            "num_queries": 5, "embed_dim": 16, "encoder_depth": 1, "decoder_depth": 2,
            "num_heads": 2, "mlp_dim": 32, "drop_rate": 0.0,
        },
    },
    # 23 images in batches of 4: the last has 3, of which one process has 2 and the other 1.
    "data": {"name": "digits-on-photographs", "size": 64, "train": 23, "valid": 5, "test": 2},
}  # fmt: skip


def trainer(folder: Path, model: str, distributed: str) -> Trainer:
    """Six steps in two epochs, without dropout and jitter within a model.

    Of classifiers 45 images in batches of 8, of which the last has 5; two batches a step.
    """
    if model == "swin":
        return toy.trainer(
            folder,
            toy.swin(drop_path_rate=0.0),
            train=toy.Images(jitter=False),
            distributed=distributed,
            **SETTINGS,
        )
    train = {
        "epochs": 2, "batch_size": 4, "lr": 1e-3, "monitor": "loss", "distributed": distributed,
        **SETTINGS,
    }  # fmt: skip
    recipe = Recipe.from_dict({**DETECTOR, "train": train})
    return build.build_trainer(recipe, build.load_data(recipe), folder, report=print)


def train(
    folder: Path, model: str = "swin", distributed: str = "ddp", resume: bool = False
) -> dict[str, Any]:
    """Losses and validations; and what of the model was patched, and is in this process."""
    torch.set_num_threads(1)
    made = trainer(folder, model, distributed)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="vitkern: ")  # "... runs its original forward"
        history = made.fit(resume=resume).history
    steps = [line for line in history if line["kind"] == "step"]
    parameters: list[Any] = list(made.model.parameters())
    return {
        "processes": made.accelerator.num_processes,
        "main": made.accelerator.is_main_process,
        "losses": [line["loss"] for line in steps],
        "norms": [line["gradient_norm"] for line in steps],
        "parts": [
            [value for name, value in line.items() if name.startswith(("loss_", "card"))]
            for line in steps
        ],
        "valid": [line["valid"] for line in history if line["kind"] == "epoch"],
        "patched": sum(swap_of(module) is not None for module in made.model.modules()),
        "elements": sum(one.numel() for one in parameters),
        "here": sum(getattr(one, "_local_tensor", one).numel() for one in parameters),
    }


if __name__ == "__main__":
    root, options = Path(sys.argv[1]), sys.argv[2:]
    found = train(root / "two", *options)
    found["resumed"] = train(root / "one", *options, resume=True)
    if found["main"]:
        print(json.dumps(found))
