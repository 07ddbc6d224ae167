"""Images with boxes: what an item is, how items become a batch, and what is checked beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from vitkern.data.transforms import MEAN, STD
from vitkern.models import pad_images
from vitkern.models.detr.boxes import to_centres

__all__ = [
    "Annotation",
    "DetectionBatch",
    "DetectionImages",
    "Objects",
    "check_annotation",
    "check_annotations",
    "collate",
    "detection_file",
    "detection_train",
    "detection_valid",
]


class Annotation(TypedDict):
    """Objects of an image as it is stored: ``boxes`` (n, 4) float32 as (x1, y1, x2, y2) in pixels,
    ``labels`` (n,) int64, and ``size``, its (height, width)."""

    boxes: torch.Tensor
    labels: torch.Tensor
    size: tuple[int, int]


class Objects(TypedDict):
    """Objects of an image as a model is trained on them: ``boxes`` (n, 4) float32 as (centre x,
    centre y, width, height) in shares of the image, ``labels`` (n,) int64, and ``size`` (2,) int64,
    the (height, width) of the transformed image."""

    boxes: torch.Tensor
    labels: torch.Tensor
    size: torch.Tensor


class DetectionBatch(TypedDict):
    """``images`` (B, C, H, W), padded at the bottom and right; ``padding_mask`` (B, H, W) bool,
    True is padding, or None where all images have one size; ``targets``, one an image."""

    images: torch.Tensor
    padding_mask: torch.Tensor | None
    targets: list[Objects]


Transform = Callable[[Any, Any], tuple[Any, Any]]


class DetectionImages(Dataset[tuple[torch.Tensor, Objects]]):
    """Images with the boxes of their objects.

    Args:
        render: index -> uint8 (C, H, W); the same for the same index.
        targets: the objects of each image.
        transform: of an image and its "boxes" and "labels", such as :func:`detection_train`.
    """

    def __init__(
        self,
        render: Callable[[int], torch.Tensor],
        targets: Sequence[Annotation],
        transform: Transform,
    ) -> None:
        self.render = render
        self.targets = list(targets)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Objects]:
        found = self.targets[index]
        # Names of the type's own constructor, which torchvision does not annotate.
        boxes = tv_tensors.BoundingBoxes(
            found["boxes"],
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=found["size"],
        )
        image, objects = self.transform(
            tv_tensors.Image(self.render(index)), {"boxes": boxes, "labels": found["labels"]}
        )
        height, width = image.shape[-2:]
        shares = objects["boxes"].as_subclass(torch.Tensor) / torch.tensor(
            [width, height, width, height]
        )
        return image.as_subclass(torch.Tensor), {
            "boxes": to_centres(shares),
            "labels": objects["labels"],
            "size": torch.tensor([height, width]),
        }


def collate(items: Sequence[tuple[torch.Tensor, Objects]]) -> DetectionBatch:
    """Images of any sizes as one batch.

    Args:
        items: at least one image (C, H, W) with its objects.
    """
    images = [image for image, _ in items]
    batch, mask = pad_images(images)
    same = len({image.shape for image in images}) == 1
    return {
        "images": batch,
        "padding_mask": None if same else mask,
        "targets": [objects for _, objects in items],
    }


def detection_train(
    size: int,
    *,
    flip: float = 0.5,
    translate: float = 0.1,
    scale: float = 0.15,
    jitter: float = 0.2,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Transform:
    """Training images: mirrored, moved, made larger or smaller and recoloured at random.

    Boxes go along; what leaves the image is cut off, and objects of which less than two pixels a
    side are left are dropped.

    Args:
        size: of the longer side of the result.
        flip: how often an image is mirrored; 0 where left and right are told apart, as of digits.
        translate: images are moved by at most this share of their size.
        scale: and made larger or smaller by at most this share.
        jitter: of brightness, contrast and saturation.
        mean: by channel.
        std: by channel.

    Returns:
        Image uint8 (C, H, W) and its objects -> image float32, normalised, and objects.
    """
    steps: list[Any] = [v2.RandomHorizontalFlip(flip)] if flip else []
    if translate or scale:
        steps.append(
            v2.RandomAffine(
                0,
                (translate, translate),
                (1 - scale, 1 + scale),
                interpolation=v2.InterpolationMode.BILINEAR,
                fill=[round(255 * value) for value in mean],
            )
        )
    if jitter:
        steps.append(v2.ColorJitter(jitter, jitter, jitter))
    return v2.Compose([*steps, *_finish(size, mean, std)])


def detection_valid(
    size: int, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> Transform:
    """Images as detectors are validated: the longer side to ``size``, and normalised.

    Args:
        size: of the longer side of the result.
        mean: by channel.
        std: by channel.

    Returns:
        As :func:`detection_train`.
    """
    return v2.Compose(_finish(size, mean, std))


def detection_file(
    size: int, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> Callable[[Any], torch.Tensor]:
    """An image by itself, as :func:`detection_valid` does it.

    Args:
        size: of the longer side of the result.
        mean: by channel.
        std: by channel.

    Returns:
        PIL image -> float32 (C, H, W), normalised.
    """
    resized, *_, scaled, normalised = _finish(size, mean, std)
    return v2.Compose([v2.ToImage(), resized, scaled, normalised])


def _finish(size: int, mean: Sequence[float], std: Sequence[float]) -> list[Any]:
    """The last steps; those between the first and the last two are for boxes alone."""
    return [
        v2.Resize(None, max_size=size, antialias=True),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(min_size=2, labels_getter=_labels),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(mean), list(std)),
    ]


def _labels(sample: tuple[Any, dict[str, torch.Tensor]]) -> torch.Tensor:
    return sample[1]["labels"]


def check_annotations(targets: Sequence[Annotation], num_classes: int, name: str) -> None:
    """The objects of a split are such that a detector can be trained on them.

    Images without objects are fine.

    Args:
        targets: one an image.
        num_classes: labels are 0 to ``num_classes`` - 1.
        name: of the split, for messages.

    Raises:
        TypeError: labels that are no whole numbers.
        ValueError: an empty split, no object at all, as many labels as boxes, boxes that are not
            finite, have no area or leave their image, or labels out of range. Says which image and
            box comes first.
    """
    if len(targets) == 0:
        raise ValueError(f"the {name} split has no images")
    for index, target in enumerate(targets):
        check_annotation(target, num_classes, f"image {index} of the {name} split")
    if not any(len(target["labels"]) for target in targets):
        raise ValueError(f"the {name} split has no object in any image")


def check_annotation(target: Annotation, num_classes: int, where: str) -> None:
    """The objects of one image, which errors call ``where``; as :func:`check_annotations`."""
    boxes, labels = torch.as_tensor(target["boxes"]), torch.as_tensor(target["labels"])
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise ValueError(
            f"{where} must have boxes (n, 4) and labels (n,),"
            f" got {tuple(boxes.shape)} and {tuple(labels.shape)}"
        )
    if labels.dtype != torch.int64:
        raise TypeError(f"{where} must have labels in int64, got {labels.dtype}")
    height, width = target["size"]
    left, top, right, bottom = boxes.unbind(1)
    outside = (left < 0) | (top < 0) | (right > width) | (bottom > height)
    for wrong, why in (
        (~boxes.isfinite().all(1), "is not finite"),
        ((right <= left) | (bottom <= top), "has no area: (x1, y1, x2, y2) needs x1 < x2, y1 < y2"),
        (outside, f"leaves the image of {width} × {height} pixels"),
    ):
        if bool(wrong.any()):
            box = int(wrong.nonzero()[0])
            raise ValueError(f"box {box} of {where} {why}: {boxes[box].tolist()}")
    strange = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(strange):
        box = int(strange[0])
        raise ValueError(
            f"label of box {box} of {where} must be 0 to {num_classes - 1}, got {int(labels[box])}"
        )
