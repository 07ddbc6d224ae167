"""Sources of medical images: folders, and patches of the slices that pydicom ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

from vitkern.data.arrays import ArrayImages, Splits, split_indices
from vitkern.data.images import MAX_PIXELS
from vitkern.data.medical import MedicalImageDataset, read_medical
from vitkern.data.transforms import small_train

__all__ = ["medical_folder", "medical_patches"]

_SLICES = (
    # class, file in pydicom, window
    ("CT head", "J2K_pixelrep_mismatch.dcm", "ct_soft_tissue"),
    ("CT spine", "CT_small.dcm", "ct_soft_tissue"),
    ("MR abdomen", "examples_overlay.dcm", "mri"),
)


def medical_patches(
    *, size: int = 16, stride: int = 8, block: int = 32, seed: int = 0, degrees: float = 10.0
) -> Splits:
    """Squares cut from one CT slice of a head, one of a spine, and one MR slice of an abdomen.

    A demonstration on real pixels, not a medical result: each class is one patient. Slices are cut
    in blocks; a block is for training (60 %), validation (15 %) or the test (25 %), and no square
    reaches over a block's edge, so that splits share no pixel. Squares of air are left out.

    Args:
        size: of the squares.
        stride: pixels from one to the next.
        block: size of the blocks.
        seed: which block is for what.
        degrees: training images are turned by at most this, and mirrored.

    Raises:
        ValueError: ``block`` is less than ``size``.
    """
    from pydicom.data import get_testdata_file

    if block < size:
        raise ValueError(f"block must be at least size ({size}), got {block}")
    parts: dict[str, tuple[list[torch.Tensor], list[int]]] = {
        name: ([], []) for name in ("train", "valid", "test")
    }
    generator = torch.Generator().manual_seed(seed)
    for label, (_, name, window) in enumerate(_SLICES):
        image = read_medical(str(get_testdata_file(name, download=False)), window)
        blocks = [
            image[:, top : top + block, left : left + block]
            for top in range(0, image.shape[1] - block + 1, block)
            for left in range(0, image.shape[2] - block + 1, block)
        ]
        order = torch.randperm(len(blocks), generator=generator).tolist()
        ends = (round(0.6 * len(blocks)), round(0.75 * len(blocks)))
        for place, index in enumerate(order):
            part = "train" if place < ends[0] else "valid" if place < ends[1] else "test"
            squares = blocks[index].unfold(1, size, stride).unfold(2, size, stride)
            squares = squares.permute(1, 2, 0, 3, 4).flatten(0, 1)
            squares = squares[squares.flatten(1).std(1) > 0.02]
            parts[part][0].extend(squares)
            parts[part][1].extend([label] * len(squares))
    made = {}
    for name, (images, labels) in parts.items():
        mirrored = [v2.RandomHorizontalFlip(), small_train(degrees=degrees, translate=0.0)]
        steps: list[Any] = mirrored if name == "train" else []
        transform = v2.Compose([*steps, v2.Normalize([0.5], [0.25])])
        made[name] = ArrayImages(torch.stack(images), labels, transform)
    classes = [name for name, _, _ in _SLICES]
    return Splits(made["train"], made["valid"], made["test"], classes, 1, [])


def medical_folder(
    path: str,
    window: str,
    size: int = 512,
    channels: int = 1,
    degrees: float = 10.0,
    max_pixels: int = MAX_PIXELS,
    seed: int = 0,
) -> Splits:
    """DICOM files and pictures in a folder for each class: 70, 10 and 20 % are the splits.

    Args:
        path: the folder.
        window: a name in ``WINDOWS``.
        size: of the images, square.
        channels: 1 or 3.
        degrees: training images are turned by at most this, and mirrored.
        max_pixels: of an image.
        seed: of the choice.

    Raises:
        ValueError: no such folder, no classes in it, or one with too few images that can be read.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"path must be a folder, got {path!r}")
    classes = sorted(one.name for one in root.iterdir() if one.is_dir() and one.name[0] != ".")
    if not classes:
        raise ValueError(f"{root} must have a folder for each class, and has none")
    found = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((root / name).rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    ]
    paths, labels = [file for file, _ in found], [label for _, label in found]
    options: dict[str, Any] = {"channels": channels, "max_pixels": max_pixels}
    every = MedicalImageDataset(paths, labels, window, **options)
    notes = [f"skipped {file}: {reason}" for file, reason in every.skipped]
    parts = []
    for place, chosen in enumerate(split_indices(every.targets, len(classes), seed=seed)):
        parts.append(
            MedicalImageDataset(
                [every.paths[index] for index in chosen],
                [every.targets[index] for index in chosen],
                window,
                _steps(size, channels, degrees if place == 0 else None),
                check=False,  # they were read
                **options,
            )
        )
    return Splits(parts[0], parts[1], parts[2], classes, channels, notes)


def _steps(size: int, channels: int, degrees: float | None) -> Callable[[Any], torch.Tensor]:
    steps: list[Any] = [
        v2.Resize((size, size), interpolation=InterpolationMode.BILINEAR, antialias=True)
    ]
    if degrees is not None:
        steps += [v2.RandomHorizontalFlip(), small_train(degrees=degrees, translate=0.05)]
    return v2.Compose([*steps, v2.Normalize([0.5] * channels, [0.25] * channels)])
