"""What a trained run's best weights see in image files: the likeliest classes of each."""

from __future__ import annotations

import argparse
from typing import Any

from vitkern.cli._arguments import positive

HELP = "the classes of image files, by a trained model"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("folder", metavar="RUN", help="the folder of a run")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="files, or folders of files")
    parser.add_argument("--top", metavar="N", type=positive, default=3, help="(default 3)")
    parser.add_argument("--batch-size", metavar="N", type=positive, default=32)
    parser.add_argument("--max-pixels", metavar="N", type=positive, help="of an image")
    parser.add_argument("--no-patch", action="store_true", help="on plain PyTorch")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Predict and print. Files that cannot be read are told and skipped."""
    from vitkern.cli import _training
    from vitkern.cli._output import console, print_json
    from vitkern.training.evaluation import outputs_of

    with _training.user_errors():
        trained = _training.open_run(
            arguments.folder, patch=not arguments.no_patch, task="classification"
        )
        data = _training.image_files(trained, arguments.images, arguments.max_pixels)
        logits, _ = outputs_of(
            trained.model,
            data,
            batch_size=arguments.batch_size,
            device=next(trained.model.parameters()).device,
            precision=trained.recipe.train.precision,
        )
    values, labels = logits.double().softmax(1).topk(min(arguments.top, len(trained.classes)))
    rows: list[dict[str, Any]] = [
        {
            "image": str(path),
            "classes": [
                {"class": trained.classes[label], "probability": value}
                for value, label in zip(row, named, strict=True)
            ],
        }
        for path, row, named in zip(data.paths, values.tolist(), labels.tolist(), strict=True)
    ]
    if arguments.json:
        skipped = [{"image": str(path), "reason": reason} for path, reason in data.skipped]
        print_json({"predictions": rows, "skipped": skipped})
        return 0
    out = console()
    for one in rows:
        shown = ", ".join(f"{c['class']} {c['probability']:.1%}" for c in one["classes"])
        out.print(f"{one['image']}: {shown}", markup=False, soft_wrap=True)
    return 0
