"""Trains a model on the kernels and on plain PyTorch, and compares the losses step by step.

    python examples/convergence.py [--steps 500] [--picture docs/convergence.png] [--json FILE]

Same weights, same images, same order, same drop paths: what is left is rounding, which training
amplifies. How much rounding alone can do is shown by a third run: plain PyTorch once more, from
weights of which each differs by a unit in the last place.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitkern.data import digits
from vitkern.models import SwinTransformer
from vitkern.training import TrainConfig, Trainer, files

RUNS: dict[str, dict[str, Any]] = {
    "fp32, eager": {"precision": "fp32", "patch": False},
    "fp32, patched": {"precision": "fp32", "patch": True},
    "fp32, eager, weights one unit apart": {"precision": "fp32", "patch": False, "nudge": True},
    "bf16, eager": {"precision": "bf16", "patch": False},
    "bf16, patched": {"precision": "bf16", "patch": True},
}


def swin() -> nn.Module:
    """The Swin of examples/recipes/digits-swin.yaml."""
    torch.manual_seed(0)
    return SwinTransformer(
        16, 2, 1, 10, embed_dim=48, depths=(2, 2), num_heads=(2, 4), window_size=4
    )


def losses(steps: int, precision: str, *, patch: bool, nudge: bool = False) -> list[float]:
    """The loss of each step, on batches of 32 digits."""
    model, splits = swin(), digits()
    if nudge:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.nextafter(parameter, torch.full_like(parameter, 9)))
    per_epoch = -(-len(splits.train) // 32)
    config = TrainConfig(
        epochs=-(-steps // per_epoch),
        batch_size=32,
        accumulate=1,
        lr=1e-3,
        precision=precision,
        patch=patch,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model, splits.train, config=config, folder=folder, num_classes=10, progress=False
        )
        history = trainer.fit().history
    return [line["loss"] for line in history if line["kind"] == "step"][:steps]


def apart(a: list[float], b: list[float]) -> dict[str, float]:
    """The largest and the mean relative difference of two curves."""
    differences = [abs(x - y) / abs(x) for x, y in zip(a, b, strict=True)]
    return {"largest": max(differences), "mean": sum(differences) / len(differences)}


def draw(curves: dict[str, list[float]], path: Path) -> None:
    """The curves, and below them how far each is from plain PyTorch in float32."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    eager = curves["fp32, eager"]
    for name, curve in curves.items():
        (line,) = above.plot(curve, lw=0.9, label=name)
        if name != "fp32, eager":
            far = [max(abs(a - b) / abs(a), 1e-9) for a, b in zip(eager, curve, strict=True)]
            below.semilogy(far, lw=0.9, label=name, color=line.get_color())
    above.set(title=f"Swin on digits, {len(eager)} steps: the loss", ylabel="loss")
    below.set(ylabel="relative difference to\nfp32, eager", xlabel="optimizer step")
    for axes in (above, below):
        axes.legend()
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    files.write_bytes(path, buffer.getvalue())


def main() -> None:
    """Train three or five times, print how far the curves are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--precision", choices=("fp32", "both"), default="both")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    curves: dict[str, list[float]] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, options in RUNS.items():
        if arguments.precision not in ("both", options["precision"]):
            continue
        curve = curves[name] = losses(arguments.steps, **options)
        last = sum(curve[-20:]) / len(curve[-20:])
        row = {"loss of the last 20": last, **apart(curves["fp32, eager"], curve)}
        found[name] = row
        shown = ", ".join(f"{key} {value:.3g}" for key, value in row.items())
        print(f"{name}: {shown}", flush=True)
    if arguments.picture is not None:
        draw(curves, arguments.picture)
    if arguments.json is not None:
        for name, curve in curves.items():
            found[name]["losses"] = curve
        files.write_json(arguments.json, found)


if __name__ == "__main__":
    main()
