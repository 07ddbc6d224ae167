"""Data sets by name, as recipes and the command line name them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torchvision.transforms import v2

from vitkern.data import builtin
from vitkern.data.arrays import Splits
from vitkern.data.coco import coco
from vitkern.data.detection import detection_file
from vitkern.data.folder import folder
from vitkern.data.images import MAX_PIXELS
from vitkern.data.medical_sources import medical_folder, medical_patches
from vitkern.data.scenes import digits_on_photographs
from vitkern.data.transforms import MEAN, STD, imagenet_train, imagenet_valid

__all__ = ["SOURCES", "Source", "options_of"]


@dataclass(frozen=True)
class Source:
    """A kind of data set.

    Attributes:
        load: options -> its splits.
        files: the same options -> mode ("RGB" or "L") and transform of a PIL image, with which
            other image files become what the model was trained on.
        task: what there is to learn: "classification" or "detection".
    """

    load: Callable[..., Splits]
    files: Callable[..., tuple[str, Callable[[Any], torch.Tensor]]]
    task: str = "classification"


def options_of(name: str) -> list[str]:
    """The options of a source."""
    return list(inspect.signature(SOURCES[name].load).parameters)


def _digit_files(size: int = 16, **_: Any) -> tuple[str, Callable[[Any], torch.Tensor]]:
    """White on black, as the digits are."""
    mean, std = builtin.DIGITS
    steps = [
        v2.ToImage(),
        v2.Resize((size, size), antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([mean], [std]),
    ]
    return "L", v2.Compose(steps)


def _folder(
    path: str,
    size: int = 224,
    mode: str = "RGB",
    randaugment: tuple[int, int] | None = (2, 9),
    erasing: float = 0.25,
    smallest: float = 0.08,
    crop: float = 0.875,
    max_pixels: int = MAX_PIXELS,
    seed: int = 0,
) -> Splits:
    _check_mode(mode)
    train = imagenet_train(
        size, randaugment=randaugment, erasing=erasing, smallest=smallest, **_statistics(mode)
    )
    other = imagenet_valid(size, crop=crop, **_statistics(mode))
    return folder(path, train, other, mode=mode, max_pixels=max_pixels, seed=seed)


def _folder_files(
    size: int = 224, mode: str = "RGB", crop: float = 0.875, **_: Any
) -> tuple[str, Callable[[Any], torch.Tensor]]:
    return mode, imagenet_valid(size, crop=crop, **_statistics(mode))


def _photograph_files(size: int = 32, **_: Any) -> tuple[str, Callable[[Any], torch.Tensor]]:
    return "RGB", imagenet_valid(size, crop=1.0)


def _scene_files(size: int = 96, **_: Any) -> tuple[str, Callable[[Any], torch.Tensor]]:
    return "RGB", detection_file(size)


def _coco_files(size: int = 640, **_: Any) -> tuple[str, Callable[[Any], torch.Tensor]]:
    return "RGB", detection_file(size)


def _grey_files(
    size: int = 16, channels: int = 1, **_: Any
) -> tuple[str, Callable[[Any], torch.Tensor]]:
    """Of pictures of 8 bits that have been through the window already."""
    steps = [
        v2.ToImage(),
        v2.Resize((size, size), antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * channels, [0.25] * channels),
    ]
    return "L" if channels == 1 else "RGB", v2.Compose(steps)


def _statistics(mode: str) -> dict[str, Any]:
    if mode == "L":
        return {"mean": (sum(MEAN) / 3,), "std": (sum(STD) / 3,)}
    return {"mean": MEAN, "std": STD}


def _check_mode(mode: str) -> None:
    if mode not in ("RGB", "L"):
        raise ValueError(f"mode must be 'RGB' or 'L', got {mode!r}")


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "coco": Source(coco, _coco_files, "detection"),
        "digits": Source(builtin.digits, _digit_files),
        "digits-parity": Source(builtin.digits_parity, _digit_files),
        "digits-on-photographs": Source(digits_on_photographs, _scene_files, "detection"),
        "photographs": Source(builtin.photographs, _photograph_files),
        "folder": Source(_folder, _folder_files),
        "medical": Source(medical_folder, partial(_grey_files, size=512)),
        "medical-patches": Source(medical_patches, _grey_files),
    }
)
