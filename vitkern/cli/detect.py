"""What a trained detector sees in image files: pictures with its boxes, labels and scores.

A picture NAME.png for each image goes into the folder --out. Boxes are (x1, y1, x2, y2) in pixels
of the image as shown, which is turned as its EXIF data say.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkern.cli._arguments import positive, share
from vitkern.cli._errors import Usage

if TYPE_CHECKING:
    import torch

HELP = "draw the objects that a trained detector sees in image files"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument(
        "folder", metavar="RUN", help="the folder of a run, or its best.safetensors"
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="files, or folders of files")
    parser.add_argument(
        "--out", metavar="FOLDER", default="detections", help="of the pictures (default detections)"
    )
    parser.add_argument(
        "--threshold",
        metavar="SCORE",
        type=share,
        default=0.5,
        help="the score, 0 to 1, that an object must have (default 0.5)",
    )
    parser.add_argument("--batch-size", metavar="N", type=positive, default=32)
    parser.add_argument("--max-pixels", metavar="N", type=positive, help="of an image")
    parser.add_argument("--no-patch", action="store_true", help="on plain PyTorch")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Detect, draw and print. Files that cannot be read are told and skipped."""
    from vitkern.cli import _training
    from vitkern.cli._output import console, print_json

    with _training.user_errors():
        trained = _training.open_run(
            arguments.folder, patch=not arguments.no_patch, task="detection"
        )
        data = _training.image_files(trained, arguments.images, arguments.max_pixels)
        pictures = _pictures(arguments.out, data.paths)
        found = _detect(trained, data, arguments.batch_size, arguments.threshold)
        rows = [
            _draw(path, one, picture, trained.classes, data.max_pixels)
            for path, one, picture in zip(data.paths, found, pictures, strict=True)
        ]
    if arguments.json:
        print_json({"detections": rows, "skipped": _training.skipped(data)})
        return 0
    out = console()
    for row in rows:
        shown = ", ".join(f"{one['class']} {one['score']:.1%}" for one in row["objects"])
        line = f"{row['image']}: {shown or 'nothing'} ({row['picture']})"
        out.print(line, markup=False, soft_wrap=True)
    return 0


def _pictures(folder: str, images: Sequence[Path]) -> list[Path]:
    """A file for each image, that is none of them; images of one name get numbers.

    Raises:
        Failure: the folder cannot be made or written.
        Usage: a picture would replace an image.
    """
    from vitkern.cli._output import target

    taken: dict[str, int] = {}
    paths = []
    for image in images:
        number = taken[image.stem] = taken.get(image.stem, 0) + 1
        name = f"{image.stem}.png" if number == 1 else f"{image.stem}-{number}.png"
        paths.append(Path(folder) / name)
    originals = {image.resolve() for image in images}
    for path in paths:
        target("--out", str(path))
        if path.resolve() in originals:
            raise Usage(f"--out: {path} is one of the images: choose another folder")
    if len(set(paths)) < len(paths):  # a.png and a.jpg beside a-2.png
        raise Usage(
            "--out: images have names that cannot be told apart; give them in several calls"
        )
    return paths


def _detect(trained: Any, data: Any, batch_size: int, threshold: float) -> list[Any]:
    """Objects of each image, boxes in shares of it."""
    import torch
    from torch.utils.data import DataLoader

    from vitkern.models import pad_images, post_process
    from vitkern.training.evaluation import autocast

    device = next(trained.model.parameters()).device
    found: list[Any] = []
    with torch.inference_mode(), autocast(device, trained.recipe.train.precision):
        for batch in DataLoader(
            data, batch_size, collate_fn=lambda items: pad_images([image for image, _ in items])
        ):
            images, mask = (one.to(device) for one in batch)
            detections = trained.model(images, mask if mask.any() else None)
            found += post_process(detections, threshold=threshold)
    return found


def _draw(
    path: Path, objects: dict[str, torch.Tensor], picture: Path, classes: list[str], limit: int
) -> dict[str, Any]:
    """Writes the picture of an image; returns what is on it."""
    import torch
    from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
    from torchvision.utils import draw_bounding_boxes

    from vitkern.cli._output import writing
    from vitkern.data.images import read_image
    from vitkern.training import files

    image = pil_to_tensor(read_image(path, max_pixels=limit))
    height, width = image.shape[1:]
    size = torch.tensor([width, height, width, height])
    boxes = (objects["boxes"].float().cpu() * size).clamp(min=0).minimum(size)
    scores, names = objects["scores"].tolist(), [classes[i] for i in objects["labels"].tolist()]
    if names:
        image = draw_bounding_boxes(
            image,
            boxes,
            [f"{name} {score:.0%}" for name, score in zip(names, scores, strict=True)],
            width=max(1, min(height, width) // 200),
        )
    content = io.BytesIO()
    to_pil_image(image).save(content, "PNG")
    with writing("--out", picture):
        files.write_bytes(picture, content.getvalue())
    return {
        "image": str(path),
        "picture": str(picture),
        "width": width,
        "height": height,
        "objects": [
            {"class": name, "score": score, "box": [round(value, 2) for value in box]}
            for name, score, box in zip(names, scores, boxes.tolist(), strict=True)
        ],
    }
