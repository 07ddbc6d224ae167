"""Images of different sizes as a batch, and detections as boxes in those images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch

from vitkern.models import _check
from vitkern.models.detr.boxes import to_corners
from vitkern.models.detr.model import Detections


class Objects(TypedDict):
    """Objects of one image: ``scores`` (n,) from high to low, ``labels`` (n,) int64, and ``boxes``
    (n, 4) as (x1, y1, x2, y2)."""

    scores: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor


def pad_images(
    images: Sequence[torch.Tensor], *, multiple: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images side by side in one tensor, each in the top left corner, zeros around.

    Args:
        images: at least one, each (C, H, W), of one C, dtype and device.
        multiple: make height and width a multiple of this.

    Returns:
        (B, C, H, W) of the largest height and width, and the padding mask (B, H, W), bool, True
        where there is no image.

    Raises:
        TypeError: images that are not tensors, or a ``multiple`` that is not an int.
        ValueError: none, another rank, an empty one, or differing channels, dtypes or devices.
    """
    _check.integer("multiple", multiple, minimum=1)
    for index, image in enumerate(images):
        if not isinstance(image, torch.Tensor):
            raise TypeError(f"images[{index}] must be a tensor, got {type(image).__name__}")
        if image.dim() != 3 or 0 in image.shape:
            raise ValueError(
                f"images[{index}] must have shape (channels, height, width), none of them 0,"
                f" got {tuple(image.shape)}"
            )
    if not images:
        raise ValueError("images must hold at least one image, got none")
    kinds = {(image.shape[0], image.dtype, image.device) for image in images}
    if len(kinds) > 1:
        listed = ", ".join(sorted(f"({c} channels, {d}, {v})" for c, d, v in kinds))
        raise ValueError(f"images must have one number of channels, dtype and device, got {listed}")
    height, width = (
        -(-max(image.shape[axis] for image in images) // multiple) * multiple for axis in (1, 2)
    )
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool, device=batch.device)
    for index, image in enumerate(images):
        batch[index, :, : image.shape[1], : image.shape[2]] = image
        mask[index, : image.shape[1], : image.shape[2]] = False
    return batch, mask


def post_process(
    detections: Detections,
    image_sizes: Sequence[tuple[int, int]] | torch.Tensor | None = None,
    *,
    threshold: float = 0.5,
) -> list[Objects]:
    """Objects of each image: the best class of every query whose probability is high enough.

    Args:
        detections: of B images, from :class:`DETR`.
        image_sizes: (height, width) of each image without padding, in which boxes are wanted; a
            (B, 2) tensor does too. Boxes stay in shares of the image if None.
        threshold: lowest probability to keep; the "no object" class never counts.

    Returns:
        :class:`Objects` of each image, on the device of the detections.

    Raises:
        ValueError: sizes of another number or shape.
    """
    logits, boxes = detections["pred_logits"], to_corners(detections["pred_boxes"])
    if image_sizes is not None:
        sizes = torch.as_tensor(image_sizes, dtype=boxes.dtype, device=boxes.device)
        if sizes.shape != (len(logits), 2):
            raise ValueError(
                f"image_sizes must be one (height, width) for each of {len(logits)} images,"
                f" got shape {tuple(sizes.shape)}"
            )
        boxes = boxes * sizes.flip(1).repeat(1, 2)[:, None, :]
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)
    objects: list[Objects] = []
    for image_scores, image_labels, image_boxes in zip(scores, labels, boxes, strict=True):
        order = image_scores.argsort(descending=True, stable=True)
        order = order[image_scores[order] > threshold]
        objects.append(
            {
                "scores": image_scores[order],
                "labels": image_labels[order],
                "boxes": image_boxes[order],
            }
        )
    return objects
