"""What vitkern does to a ViT and to a Swin: the same answers, sooner.

Needs no network: the photographs are scikit-learn's, the weights are timm's where they are in the
cache already, and fresh random ones otherwise.

    python examples/demo.py [--full] [--quick] [--batch N]
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from dataclasses import dataclass
from typing import Any

# Before huggingface_hub is imported: only what is in the cache is used.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import vitkern
from vitkern._library import load
from vitkern.bench import flops, machine, models, parity, report
from vitkern.bench.contention import Contention, Meter
from vitkern.bench.measure import nothing_patched
from vitkern.bench.models import Row
from vitkern.bench.passes import make_pass
from vitkern.bench.peak import Peak, share, unsteady
from vitkern.bench.timing import QUICK, Comparison, Plan, interleave

MODELS = ("vit_small_patch16_224", "swin_tiny_patch4_window7_224")


def photographs() -> dict[str, Any]:
    """scikit-learn's photographs, as PIL images."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    names = (os.path.basename(name) for name in found.filenames)
    return {name: Image.fromarray(image) for name, image in zip(names, found.images, strict=True)}


def crops(photos: dict[str, Any], count: int) -> list[Any]:
    """``count`` squares: from each photograph in turn, further to the right each time."""
    each = -(-count // len(photos))
    squares = []
    for place in range(each):
        for photo in photos.values():
            side = photo.height
            left = (photo.width - side) * place // max(each - 1, 1)
            squares.append(photo.crop((left, 0, left + side, side)))
    return squares[:count]


def cached_model(name: str) -> tuple[nn.Module, str]:
    """The model with pretrained weights if they are on this disk, and whose its weights are."""
    timm = models.require_timm()
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    repository = getattr(config, "hf_hub_id", None)
    files = ("model.safetensors", "pytorch_model.bin")
    if repository and any(isinstance(try_to_load_from_cache(repository, f), str) for f in files):
        try:
            return timm.create_model(name, pretrained=True), f"pretrained ({repository}, cached)"
        except (OSError, RuntimeError) as error:  # half a download
            print(f"cached weights of {name} cannot be read: {error}", file=sys.stderr)
    return models.create(name), "fresh random (no pretrained ones in the cache)"


def transformed(model: nn.Module, squares: list[Any]) -> torch.Tensor:
    """The batch, as the model was trained to see it."""
    from timm.data import create_transform, resolve_model_data_config

    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    return torch.stack([transform(square) for square in squares])


@dataclass
class Pair:
    """A model as it was and patched, its images, and the times of both.

    ``untimed`` says why there are no times, and is None where there are.
    """

    row: Row
    eager: nn.Module
    patched: nn.Module
    images: torch.Tensor
    peak: Peak
    untimed: str | None = None
    times: Comparison | None = None
    contention: Contention | None = None


def patch_and_time(name: str, squares: list[Any], plan: Plan, full: bool, out: Console) -> Pair:
    """Patch a copy of the model, print what that did, and time both in turns.

    Where nothing was patched, both are the same code, and a ratio of their times would be noise.
    """
    model, weights = cached_model(name)
    eager = model.eval()
    images = transformed(eager, squares)
    patched = copy.deepcopy(eager)
    library = load()
    done = vitkern.patch(patched, backend=None if library.available else "eager")
    out.print(f"[bold]vitkern.patch({name})[/], weights: {weights}", soft_wrap=True)
    if full:
        for module in done.patched:
            out.print(f"  {module.name}: {module.op}: {module.backend}", markup=False)
        for skipped in done.skipped:
            out.print(f"  {skipped.name}: skipped: {skipped.why()}", markup=False, soft_wrap=True)
    else:
        out.print(str(done), markup=False, soft_wrap=True)
    out.print()
    pair = Pair(Row(name, len(squares)), eager, patched, images, Peak())
    same = nothing_patched(done)
    if same is not None:
        pair.untimed = f"nothing was patched: {same}"
        if not library.available:
            pair.untimed = f"both sides are plain PyTorch: {library.reason}"
        return pair
    meter = Meter()

    def between() -> None:
        pair.peak.sample()
        meter.sample()

    runs = {
        "before": make_pass(pair.row, eager, images),
        "after": make_pass(pair.row, patched, images),
    }
    pair.times = interleave(runs, plan, between=between)
    pair.contention = meter.result()
    return pair


COLUMNS = (
    "ms\nbefore",
    "ms\nafter",
    "speed-up",
    "FMA peak after\n(before)",
    "error\nbefore",
    "error\nafter",
    "error\nallowed",
    "verdict",
)


def cells(pair: Pair, checked: parity.Parity) -> list[str]:
    """A line of the table; without times where there are none, or the result is wrong."""
    worst = checked.worst
    errors = [f"{error:.1e}" for error in (worst.eager_error, worst.error, worst.allowed)]
    verdict = "right" if checked.passed else "WRONG"
    if pair.times is None or not checked.passed:
        return [pair.row.model, "-", "-", "-", "-", *errors, verdict]
    before, after = pair.times.summary("before"), pair.times.summary("after")
    operations = flops.model_flops(pair.eager, pair.images)
    shares = {
        side: share(operations, seconds, pair.peak) for side, seconds in pair.times.seconds.items()
    }
    return [
        pair.row.model,
        f"{before.median * 1e3:.1f}",
        f"{after.median * 1e3:.1f}",
        report.ratio_cell(pair.times.ratio("before", "after"), pair.contention),
        report.share_cell(shares["after"], shares["before"]),
        *errors,
        verdict,
    ]


def remarks(pairs: list[Pair], checks: list[parity.Parity]) -> list[str]:
    """What the table cannot say: what went wrong, then explanations."""
    lines = []
    for pair, checked in zip(pairs, checks, strict=True):
        name = pair.row.model
        if not checked.passed:
            lines.append(f"{name}: WRONG: {checked.worst}")
        if pair.untimed is not None:
            lines.append(f"{name}: not timed, {pair.untimed}")
        if pair.contention is not None and pair.contention.busy:
            lines.append(f"{name}: {pair.contention}: do not believe its times. Repeat when idle.")
        busy = unsteady(pair.peak.summary())
        if busy is not None:
            lines.append(f"{name}: {busy}. Repeat on an idle one.")
    if any(pair.times is not None for pair in pairs):
        lines.append(
            "Times: medians of runs in turns; [quartiles]. FMA peak: share of what the processor"
            " could do."
        )
    lines.append(
        "Errors: the largest against float64, relative to the largest logit. Allowed: twice the"
        " error before, and a few units of the last place."
    )
    return lines


def main(argv: list[str] | None = None) -> int:
    """Run the demo; 1 where something is missing or a result is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="the report with every module")
    parser.add_argument("--quick", action="store_true", help="one image, few rounds")
    parser.add_argument("--batch", type=int, help="images at a time (default 8)")
    arguments = parser.parse_args(argv)
    count = arguments.batch or (1 if arguments.quick else 8)
    if count < 1:
        parser.error("--batch must be at least 1")
    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    here, library = machine.describe(), load()
    try:
        photos = photographs()
        models.require_timm()
    except models.TimmMissing as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"demo: {error}; needed: pip install scikit-learn pillow", file=sys.stderr)
        return 1
    out.print(
        f"{here.title}; torch {here.torch};"
        f" {count} crop{'s' * (count != 1)} of {', '.join(photos)}\n",
        soft_wrap=True,
    )
    if not library.available:
        out.print(
            f"No compiled kernels: {library.reason}.\nThe ops run on the eager backend: plain"
            " PyTorch, the same results, nothing to time.\n",
            markup=False,
            soft_wrap=True,
        )
    plan = QUICK if arguments.quick else Plan(min_rounds=7, min_seconds=4.0, max_seconds=20.0)
    table = Table(title=f"batch {count}, float32: before and after vitkern.patch")
    table.add_column("model", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    squares = crops(photos, count)
    pairs = [patch_and_time(name, squares, plan, arguments.full, out) for name in MODELS]
    # Only now: the check in float64 leaves memory at hand, which would hide eager's page faults.
    # Times of what it finds wrong are not shown.
    checks = [parity.check(pair.row, pair.eager, pair.patched, pair.images) for pair in pairs]
    for pair, checked in zip(pairs, checks, strict=True):
        table.add_row(*cells(pair, checked))
    out.print(report.fitted(table, out))
    for line in remarks(pairs, checks):
        out.print(line, markup=False, soft_wrap=True)
    return 0 if all(checked.passed for checked in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
