"""Train a model as a recipe says: a YAML file, or flags.

The run's folder gets its best weights, checkpoints, history.jsonl, curves.png, confusion.png and
summary.json, which has the figures of the test split too. Killed or interrupted, the same command
with --resume goes on where it was. Under torchrun (torchrun --nproc-per-node 2 -m
vitkern.cli train ...) processes share each batch, and with --fsdp the parameters as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vitkern.cli._arguments import positive

HELP = "train a model as a YAML recipe or flags say"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a YAML file")
    parser.add_argument("--out", metavar="FOLDER", help="of the run (default: runs/RECIPE)")
    parser.add_argument("--model", metavar="NAME", help="of vitkern.models or timm")
    parser.add_argument("--data", metavar="DATA", help="a folder of images, or digits, ...")
    parser.add_argument("--epochs", metavar="N", type=positive)
    parser.add_argument("--batch-size", metavar="N", type=positive)
    parser.add_argument("--lr", metavar="RATE", type=float)
    parser.add_argument("--seed", metavar="N", type=int)
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any setting of a recipe, as train.ema=0.99 or model.arguments.depth=4",
    )
    parser.add_argument("--resume", action="store_true", help="go on where the run was, to its end")
    parser.add_argument("--no-patch", action="store_true", help="train on plain PyTorch")
    parser.add_argument(
        "--fsdp", action="store_true", help="under torchrun, split the parameters (FSDP2)"
    )
    parser.add_argument("--threads", metavar="N", type=positive, help="threads of PyTorch's ops")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Train, then measure the best weights on the test split."""
    import torch

    from vitkern.cli import _training
    from vitkern.cli._output import console, print_json

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    with _training.user_errors():
        recipe = _training.recipe(arguments.recipe, _overrides(arguments))
        folder = Path(arguments.out or f"runs/{Path(arguments.recipe or 'run').stem}")
        summary = _training.train(recipe, folder, resume=arguments.resume)
    if summary is None:  # another process of the group prints
        return 0
    if arguments.json:
        print_json(summary)
        return 0
    out = console()
    out.print(f"{folder}: {summary['steps']} steps, {summary['epochs']} epochs", soft_wrap=True)
    out.print(
        _training.table(recipe.task, {"validation": summary["valid"], "test": summary["test"]})
    )
    return 0


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    from vitkern.cli import _training

    values: dict[str, Any] = {}
    if arguments.model is not None:
        values["model.name"] = arguments.model
    if arguments.data is not None:
        values.update(_training.data_options(arguments.data))
    for name in ("epochs", "batch_size", "lr", "seed"):
        if getattr(arguments, name) is not None:
            values[f"train.{name}"] = getattr(arguments, name)
    values.update(_training.assignments(arguments.set))
    if arguments.no_patch:
        values["train.patch"] = False
    if arguments.fsdp:
        values["train.distributed"] = "fsdp"
    return values
