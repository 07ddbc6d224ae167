"""Transforms of torchvision v2, put together as ImageNet trainings use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

__all__ = ["MEAN", "STD", "batch_mix", "imagenet_train", "imagenet_valid", "plain", "small_train"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, in [0, 1]."""

Transform = Callable[[Any], torch.Tensor]


def imagenet_train(
    size: int,
    *,
    randaugment: Sequence[int] | None = (2, 9),
    erasing: float = 0.25,
    smallest: float = 0.08,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Transform:
    """Training images: a random part, mirrored at random, RandAugment, random erasing.

    Args:
        size: of the result, square.
        randaugment: operations an image and their magnitude (arXiv 1909.13719), or None.
        erasing: how often a rectangle is erased (arXiv 1708.04896).
        smallest: the smallest share of the image that the part may be.
        mean: by channel; images have as many channels.
        std: the same.

    Returns:
        PIL image or uint8 tensor (C, H, W) -> float32 (C, size, size), normalised.
    """
    steps: list[Any] = [
        v2.ToImage(),
        v2.RandomResizedCrop(
            size, (smallest, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True
        ),
        v2.RandomHorizontalFlip(),
    ]
    if randaugment is not None:
        operations, magnitude = randaugment
        steps.append(v2.RandAugment(operations, magnitude))
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    if erasing:
        steps.append(v2.RandomErasing(erasing, value=0))
    return v2.Compose(steps)


def imagenet_valid(
    size: int, *, crop: float = 0.875, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> Transform:
    """Images as models are validated: the shorter side to size / crop, and the middle of it.

    Args:
        size: of the result, square.
        crop: the share of the shorter side that stays.
        mean: by channel.
        std: the same.

    Returns:
        As :func:`imagenet_train`.
    """
    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(round(size / crop), interpolation=InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(size),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )


def small_train(
    *, degrees: float = 10.0, translate: float = 0.1, scale: float = 0.1, fill: float = 0.0
) -> Transform:
    """Small normalised images, turned, moved and scaled a little; ``fill`` comes in at the edges.

    Returns:
        float32 (C, H, W) -> float32 (C, H, W).
    """
    return v2.RandomAffine(
        degrees,
        (translate, translate),
        (1 - scale, 1 + scale),
        interpolation=InterpolationMode.BILINEAR,
        fill=fill,
    )


def plain(
    *, flip: bool = False, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> Transform:
    """uint8 (C, H, W) -> float32 (C, H, W), normalised; mirrored at random with ``flip``."""
    steps: list[Any] = [v2.RandomHorizontalFlip()] if flip else []
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    return v2.Compose([v2.ToImage(), *steps])


def batch_mix(
    num_classes: int, *, mixup: float = 0.8, cutmix: float = 1.0
) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None:
    """MixUp (arXiv 1710.09412) or CutMix (arXiv 1905.04899), one of them for each batch.

    Args:
        num_classes: classes.
        mixup: alpha; 0 for no MixUp.
        cutmix: alpha; 0 for no CutMix.

    Returns:
        (B, C, H, W) images and (B,) labels -> images and (B, num_classes) probabilities; None where
        both are 0.
    """
    choices: list[Any] = []
    if mixup:
        choices.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
    if cutmix:
        choices.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
    if not choices:
        return None
    return choices[0] if len(choices) == 1 else v2.RandomChoice(choices)
