"""Predictions for several models and GPUs in one table.

``python -m vitkern.bench.gpu.overview`` prints it; ``--write FOLDER`` writes
``triton-predictions.md`` there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from vitkern.bench import models
from vitkern.bench.gpu.predict import Prediction, predict
from vitkern.bench.report import replacing
from vitkern.ops._triton.targets import TARGETS

MODELS = ("vit_base_patch16_224", "swin_tiny_patch4_window7_224")
CARDS = ("a100", "h100", "h200", "rtx4090")
BATCH = 64

_HEAD = f"""# Predicted times

**Predictions, not measured**: made by `python -m vitkern.bench.gpu.overview` on a machine without a
GPU, for bfloat16 inference at batch {BATCH}. Each launch that the `triton` backend would make is
recorded with the bytes and FLOPs of its own tiling; it takes as long as what takes the longest in
it (`vitkern/bench/gpu/roofline.py`), at the rates of the card's data sheet, with products at the
rate that the best published ones sustain. Real kernels are slower by what that leaves out: latency
at the beginning and end of programs, instructions for addresses, bank conflicts, clocks under load.
Eager is counted in the same way, so ratios are fairer than times.

| model | card | system | ms | images/s | share of peak | GB moved | bound by |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def predictions() -> Iterator[tuple[str, Prediction]]:
    """Of every model on every card: ours, eager, eager with FlashAttention."""
    for name in MODELS:
        with torch.device("meta"):
            model = models.create(name).to(torch.bfloat16).eval()
            images = torch.empty((BATCH, *models.image_size(model)), dtype=torch.bfloat16)
        for card in CARDS:
            for one in predict(model, images, TARGETS[card]):
                yield name, one


def row(name: str, one: Prediction) -> str:
    """A line of the table."""
    cells = (
        name, one.target.title, one.system, f"{1e3 * one.seconds:.2f}",
        f"{BATCH / one.seconds:.0f}", f"{one.share:.2f}", f"{one.bytes / 1e9:.2f}",
        bounds(one),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def bounds(one: Prediction) -> str:
    """What bounds the time, by share: ``products 71 %, memory 20 %``."""
    spent: dict[str, float] = {}
    for kernel in one.kernels:
        estimate = kernel.estimate
        spent[estimate.bound] = spent.get(estimate.bound, 0.0) + estimate.seconds
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return ", ".join(f"{what} {seconds / one.seconds:.0%}" for what, seconds in ordered[:3])


def main() -> int:
    """Print or write."""
    parser = argparse.ArgumentParser(prog="python -m vitkern.bench.gpu.overview")
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    folder = parser.parse_args().write
    text = _HEAD + "".join(row(name, one) for name, one in predictions())
    if folder is None:
        print(text, end="")
        return 0
    with replacing(folder / "triton-predictions.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
