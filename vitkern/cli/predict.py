"""What a trained run's best weights see in image files: the likeliest classes of each."""

from __future__ import annotations

import argparse
from typing import Any

from vitkern.cli import _training
from vitkern.cli._arguments import positive

HELP = "the classes of image files, by a trained model"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("folder", metavar="RUN", help="the folder of a run")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="files, or folders of files")
    parser.add_argument("--top", metavar="N", type=positive, default=3, help="(default 3)")
    _training.add_inference(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predict and print. Files that cannot be read are told and skipped."""
    from vitkern.cli._output import console, print_json

    with _training.user_errors():
        trained, found = _training.outputs(arguments)
    values, labels = found.values.double().softmax(1).topk(min(arguments.top, len(trained.classes)))
    rows: list[dict[str, Any]] = [
        {
            "image": str(path),
            "classes": [
                {"class": trained.classes[label], "probability": value}
                for value, label in zip(row, named, strict=True)
            ],
        }
        for path, row, named in zip(found.paths, values.tolist(), labels.tolist(), strict=True)
    ]
    if arguments.json:
        print_json({"predictions": rows, "skipped": _training.skipped(found)})
        return 0
    out = console()
    for one in rows:
        shown = ", ".join(f"{c['class']} {c['probability']:.1%}" for c in one["classes"])
        out.print(f"{one['image']}: {shown}", markup=False, soft_wrap=True)
    return 0
