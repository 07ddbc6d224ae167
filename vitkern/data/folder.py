"""Folders of image files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from vitkern.data.arrays import Splits, split_indices
from vitkern.data.images import MAX_PIXELS, SUFFIXES, UnreadableImage, read_image

__all__ = ["FileImages", "find_images", "folder", "image_folder"]


class FileImages(Dataset[tuple[torch.Tensor, int]]):
    """Image files.

    Args:
        paths: the files.
        targets: their labels; -1 for all if None.
        transform: PIL image -> tensor (C, H, W).
        mode: "RGB" or "L".
        max_pixels: of an image.
        check: decode every file now and leave out those that cannot be read, with the reason in
            ``skipped``. Without, such a file raises :class:`UnreadableImage` when its turn comes.

    Attributes:
        skipped: (path, reason) of what was left out.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        targets: Sequence[int] | None,
        transform: Callable[[Any], torch.Tensor],
        *,
        mode: str = "RGB",
        max_pixels: int = MAX_PIXELS,
        check: bool = True,
    ) -> None:
        self.transform, self.mode, self.max_pixels = transform, mode, max_pixels
        labels = [-1] * len(paths) if targets is None else list(targets)
        reasons: Sequence[str | None] = [None] * len(paths)
        if check:
            with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
                reasons = list(pool.map(self._reason, paths))
        both = list(zip(paths, labels, reasons, strict=True))
        self.paths = [path for path, _, reason in both if reason is None]
        self.targets = [label for _, label, reason in both if reason is None]
        self.skipped = [(path, reason) for path, _, reason in both if reason is not None]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = read_image(self.paths[index], mode=self.mode, max_pixels=self.max_pixels)
        return self.transform(image), self.targets[index]

    def _reason(self, path: Path) -> str | None:
        try:
            read_image(path, mode=self.mode, max_pixels=self.max_pixels)
        except UnreadableImage as error:
            return error.reason
        return None


def find_images(path: Path) -> Iterator[Path]:
    """Files with an image's ending in a folder and below it, in order of their names; hidden ones
    are left out."""
    for found in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in found.relative_to(path).parts)
        if found.suffix.lower() in SUFFIXES and found.is_file() and not hidden:
            yield found


def image_folder(
    path: str | os.PathLike[str],
    transform: Callable[[Any], torch.Tensor],
    *,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> tuple[FileImages, list[str]]:
    """The images in a folder with a folder for each class.

    Args:
        path: the folder.
        transform: PIL image -> tensor.
        classes: their names; the folders' names, in order, if None.
        options: those of :class:`FileImages`.

    Returns:
        The data set and the names of the classes.

    Raises:
        ValueError: no such folder, no folders in it, one of no class, or a class without images.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"path must be a folder, got {str(path)!r}")
    present = sorted(one.name for one in root.iterdir() if one.is_dir() and one.name[0] != ".")
    names = present if classes is None else list(classes)
    if not names:
        raise ValueError(f"{root} must have a folder for each class, and has none")
    unknown = [name for name in present if name not in names]
    if unknown:
        raise ValueError(f"{root} has folders of no known class: {', '.join(unknown[:5])}")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = list(find_images(root / name)) if (root / name).is_dir() else []
        paths += found
        labels += [label] * len(found)
    data = FileImages(paths, labels, transform, **options)
    missing = [name for label, name in enumerate(names) if label not in set(data.targets)]
    if missing:
        raise ValueError(f"{root} has no readable image of {', '.join(missing)}")
    return data, names


def folder(
    path: str | os.PathLike[str],
    train: Callable[[Any], torch.Tensor],
    other: Callable[[Any], torch.Tensor],
    *,
    mode: str = "RGB",
    max_pixels: int = MAX_PIXELS,
    seed: int = 0,
) -> Splits:
    """Splits from a folder.

    With ``train`` and ``val`` (or ``valid``) in it these are the splits, and ``test``, if it is
    there; else the validation's images are the test's as well, and a note says so. With folders of
    classes in it, 70 % are for training, 10 for validation, 20 for the test.

    Args:
        path: the folder.
        train: transform of training images.
        other: of the others.
        mode: "RGB" or "L".
        max_pixels: of an image.
        seed: of the choice.

    Raises:
        ValueError: as :func:`image_folder`, or a class that has too few images to be split.
    """
    root = Path(path)
    options: dict[str, Any] = {"mode": mode, "max_pixels": max_pixels}
    channels = 1 if mode == "L" else 3
    notes: list[str] = []
    if (root / "train").is_dir():
        trained, classes = image_folder(root / "train", train, **options)
        found = [name for name in ("val", "valid", "test") if (root / name).is_dir()]
        if not {"val", "valid"} & set(found):
            raise ValueError(f"{root} has a folder train, so it must have val or valid as well")
        made = {n: image_folder(root / n, other, classes=classes, **options)[0] for n in found}
        validated = made["val"] if "val" in made else made["valid"]
        tested = made.get("test")
        if tested is None:
            notes.append(f"{root} has no folder test: the validation's images are its test")
            tested = validated
        sets = [trained, *made.values()]
        notes += [f"skipped {file}: {reason}" for one in sets for file, reason in one.skipped]
        return Splits(trained, validated, tested, classes, channels, notes)
    everything, classes = image_folder(root, other, **options)
    notes += [f"skipped {file}: {reason}" for file, reason in everything.skipped]
    parts = []
    for place, indices in enumerate(split_indices(everything.targets, len(classes), seed=seed)):
        part = FileImages(
            [everything.paths[index] for index in indices],
            [everything.targets[index] for index in indices],
            train if place == 0 else other,
            check=False,  # they were read
            **options,
        )
        parts.append(part)
    return Splits(parts[0], parts[1], parts[2], classes, channels, notes)
