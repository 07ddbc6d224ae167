"""Images with boxes in COCO's layout: a folder of images and a file of annotations a split."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2.functional import pil_to_tensor

from vitkern.data.arrays import Splits
from vitkern.data.detection import (
    Annotation,
    DetectionImages,
    Transform,
    check_annotation,
    detection_train,
    detection_valid,
)
from vitkern.data.images import MAX_PIXELS, UnreadableImage, read_image

__all__ = ["coco"]


def coco(
    path: str | os.PathLike[str],
    *,
    train: str = "train2017",
    valid: str = "val2017",
    test: str | None = None,
    annotations: str = "annotations/instances_{split}.json",
    size: int = 640,
    flip: float = 0.5,
    translate: float = 0.1,
    scale: float = 0.15,
    jitter: float = 0.2,
    clean: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Splits:
    """Splits in the layout of COCO (Lin et al., 2014, arXiv 1405.0312; cocodataset.org).

    Labels are the categories' places in the order of their ids. Crowds (``iscrowd``) are left out,
    as DETR does in training; images that cannot be read too, with a note.

    Args:
        path: the folder, with a folder of images for each split.
        train: the training split's name.
        valid: the validation's.
        test: the test's; None for the validation's images once more, and a note says so.
        annotations: the files of annotations below ``path``, with "{split}" where the name goes.
        size: of the longer side of images.
        flip: how often a training image is mirrored.
        translate: training images are moved by at most this share of their size.
        scale: and made larger or smaller by at most this share.
        jitter: of their brightness, contrast and saturation.
        clean: cut off what of a box is outside of its image and leave out boxes without area, with
            a note of how many; else these are errors. COCO itself has a few.
        max_pixels: of an image; larger ones are left out.

    Raises:
        ImportError: pycocotools is not installed.
        TypeError: an option of a wrong type.
        ValueError: folders, files or splits that are not there, annotations that are not COCO's,
            an image of another size than they say, or a box or category that is wrong; says which.
    """
    root = Path(path)
    if not isinstance(clean, bool):
        raise TypeError(f"clean must be true or false, got {clean!r}")
    if "{split}" not in annotations:
        raise ValueError(f"annotations must have {{split}} in it, got {annotations!r}")
    mirrored = detection_train(size, flip=flip, translate=translate, scale=scale, jitter=jitter)
    plain = detection_valid(size)
    notes: list[str] = []
    classes: list[str] = []
    made: dict[str, DetectionImages] = {}
    for name, transform in ((train, mirrored), (valid, plain), (test, plain)):
        if name is None or name in made:
            continue
        file = root / annotations.format(split=name)
        found = _Split(root / name, file, clean=clean, max_pixels=max_pixels)
        if classes and found.classes != classes:
            raise ValueError(f"{file} has other categories than the training split")
        classes = found.classes
        made[name] = found.images(transform, notes)
    if test is None:
        notes.append(f"{root} has no test split: the validation's images are its test")
    return Splits(made[train], made[valid], made[test or valid], classes, 3, notes)


class _Split:
    """Annotations of a split, as pycocotools reads them."""

    def __init__(self, folder: Path, file: Path, *, clean: bool, max_pixels: int) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder} must be a folder of images, and is none")
        self.folder, self.file = folder, file
        self.clean, self.max_pixels = clean, max_pixels
        self.index = _read(file)
        categories = [self.index.cats[key] for key in sorted(self.index.cats)]
        self.classes = [str(one["name"]) for one in categories]
        self.labels = {one["id"]: label for label, one in enumerate(categories)}

    def images(self, transform: Transform, notes: list[str]) -> DetectionImages:
        """The data set; adds what was left out to ``notes``."""
        records = [self.index.imgs[key] for key in sorted(self.index.imgs)]
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            reasons = list(pool.map(self._reason, records))
        paths, targets, dropped = [], [], 0
        for record, reason in zip(records, reasons, strict=True):
            path = self.folder / record["file_name"]
            if reason is not None:
                notes.append(f"skipped {path}: {reason}")
                continue
            target, gone = self._target(record)
            paths.append(path)
            targets.append(target)
            dropped += gone
        if dropped:
            notes.append(f"{self.file}: left out {dropped} boxes without area in their image")
        if not paths:
            raise ValueError(f"{self.folder} has no readable image of {self.file}")
        return DetectionImages(
            partial(_render, paths=paths, max_pixels=self.max_pixels), targets, transform
        )

    def _reason(self, record: Mapping[str, Any]) -> str | None:
        """Why an image is left out.

        Raises:
            ValueError: it is not the one that was annotated.
        """
        path = self.folder / record["file_name"]
        try:
            image = read_image(path, max_pixels=self.max_pixels, upright=False)
        except UnreadableImage as error:
            return error.reason
        if image.size != (record["width"], record["height"]):
            raise ValueError(
                f"{path} has {image.width} × {image.height} pixels, and {self.file} says"
                f" {record['width']} × {record['height']}"
            )
        return None

    def _target(self, record: Mapping[str, Any]) -> tuple[Annotation, int]:
        """An image's objects, and how many boxes were left out."""
        where = f"{record['file_name']} in {self.file}"
        width, height = record["width"], record["height"]
        rows = [one for one in self.index.imgToAnns[record["id"]] if not one.get("iscrowd")]
        for one in rows:
            if one["category_id"] not in self.labels:
                raise ValueError(f"{where} has an object of unknown category {one['category_id']}")
        try:
            boxes = torch.tensor([one["bbox"] for one in rows], dtype=torch.float32)
            boxes = boxes.reshape(len(rows), 4)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{where} has boxes that are not [x, y, width, height]") from error
        labels = torch.tensor([self.labels[one["category_id"]] for one in rows], dtype=torch.int64)
        boxes[:, 2:] += boxes[:, :2]
        gone = 0
        if self.clean:
            cut = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))
            # What is not finite is an error in any case.
            keep = (cut[:, 2:] > cut[:, :2]).all(1) | ~boxes.isfinite().all(1)
            gone = int((~keep).sum())
            boxes = torch.where(boxes.isfinite(), cut, boxes)[keep]
            labels = labels[keep]
        target: Annotation = {"boxes": boxes, "labels": labels, "size": (height, width)}
        try:
            check_annotation(target, len(self.classes), where)
        except ValueError as error:
            hint = "" if self.clean else "; clean: true cuts off or leaves out such boxes"
            raise ValueError(f"{error}{hint}") from error
        return target, gone


def _read(file: Path) -> Any:
    """pycocotools' index of a file.

    Raises:
        ValueError: not there, no JSON, or not of COCO's form.
    """
    from pycocotools.coco import COCO

    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    needed = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("image_id", "category_id", "bbox"),
        "categories": ("id", "name"),
    }
    for section, names in needed.items():
        rows = content.get(section) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise ValueError(f"{file} must have a list {section!r}, as COCO's annotations have")
        _check_rows(file, section, rows, names)
    known = {row["id"] for row in content["images"]}
    for place, row in enumerate(content["annotations"]):
        row.setdefault("id", place)
        if row["image_id"] not in known:
            raise ValueError(f"{file} has an object of image {row['image_id']}, which it lacks")
    index = COCO()
    index.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # it says how it gets on
        index.createIndex()
    return index


def _check_rows(file: Path, section: str, rows: Sequence[Any], names: tuple[str, ...]) -> None:
    for place, row in enumerate(rows):
        lacking = [one for one in names if not isinstance(row, dict) or one not in row]
        if lacking:
            raise ValueError(f"{file}: {section}[{place}] has no {', '.join(lacking)}")
    # pycocotools would keep the last of those that share one.
    places: dict[Any, int] = {}
    for place, row in enumerate(rows):
        if "id" in row and (first := places.setdefault(str(row["id"]), place)) != place:
            raise ValueError(f"{file}: {section}[{place}] has the id {row['id']} of [{first}]")


def _render(index: int, *, paths: Sequence[Path], max_pixels: int) -> torch.Tensor:
    """uint8 (3, H, W), with rows and columns as they are stored: as the boxes count them."""
    return pil_to_tensor(read_image(paths[index], max_pixels=max_pixels, upright=False))
