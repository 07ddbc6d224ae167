"""Shards as WebDataset writes them, and rows of Hugging Face data sets."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from vitkern.data.images import MAX_PIXELS, SUFFIXES, UnreadableImage, decode_image

__all__ = ["RecordImages", "TarImages"]


class TarImages(Dataset[tuple[torch.Tensor, int]]):
    """Images in tar files: of each sample ``NAME.jpg`` (or another image) and ``NAME.cls``.

    The shards are indexed once and then read at random, so that order and resuming are as of other
    data sets; they are local files, not compressed.

    Args:
        shards: the tar files.
        transform: PIL image -> tensor (C, H, W).
        mode: "RGB" or "L".
        max_pixels: of an image.
        check: decode every image now, and leave out those that cannot be.

    Attributes:
        targets: the labels.
        skipped: (name, reason) of what was left out: images that cannot be decoded, samples without
            an image or a label, shards that are cut off (of these, what is in front of the cut
            stays).

    Raises:
        ValueError: no shards.
    """

    def __init__(
        self,
        shards: Sequence[str | os.PathLike[str]],
        transform: Callable[[Any], torch.Tensor],
        *,
        mode: str = "RGB",
        max_pixels: int = MAX_PIXELS,
        check: bool = True,
    ) -> None:
        if not shards:
            raise ValueError("shards must be at least one tar file, got none")
        self.transform, self.mode, self.max_pixels = transform, mode, max_pixels
        self.targets: list[int] = []
        self.skipped: list[tuple[str, str]] = []
        self._places: list[tuple[Path, str, int, int]] = []
        for shard in sorted(map(Path, shards)):
            for name, parts in self._index(shard).items():
                self._add(shard, name, parts, check)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self._image(*self._places[index])), self.targets[index]

    def _index(self, shard: Path) -> dict[str, dict[str, tuple[int, int]]]:
        """Offset and size of each part of each sample."""
        samples: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(shard, "r:") as file:
                for member in file:
                    folder, _, base = member.name.rpartition("/")
                    name, _, kind = base.partition(".")
                    if member.isfile() and name:
                        place = (member.offset_data, member.size)
                        samples.setdefault(f"{folder}/{name}", {})["." + kind.lower()] = place
        except (tarfile.TarError, OSError) as error:
            self.skipped.append((str(shard), f"what comes after a damage: {error}"))
        return samples

    def _add(self, shard: Path, name: str, parts: dict[str, tuple[int, int]], check: bool) -> None:
        called = f"{shard}:{name.lstrip('/')}"
        images = [kind for kind in parts if kind in SUFFIXES]
        if not images or ".cls" not in parts:
            lacking = "image" if not images else "label (.cls)"
            self.skipped.append((called, f"it has no {lacking}"))
            return
        place = (shard, called, *parts[images[0]])
        try:
            label = int(_read(shard, *parts[".cls"]))
            if check:
                self._image(*place)
        except UnreadableImage as error:
            self.skipped.append((called, error.reason))
        except ValueError:
            self.skipped.append((called, "its label is no whole number"))
        else:
            self._places.append(place)
            self.targets.append(label)

    def _image(self, shard: Path, called: str, offset: int, size: int) -> Any:
        content = _read(shard, offset, size)
        return decode_image(content, called, mode=self.mode, max_pixels=self.max_pixels)


def _read(shard: Path, offset: int, size: int) -> bytes:
    with open(shard, "rb") as file:
        file.seek(offset)
        return file.read(size)


class Records(Protocol):
    """Rows by number, such as ``datasets.Dataset``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class RecordImages(Dataset[tuple[torch.Tensor, int]]):
    """Rows with a PIL image and a label, as Hugging Face's ``datasets`` give them.

    Args:
        records: the rows: mappings.
        transform: PIL image -> tensor (C, H, W).
        image: the column of the images.
        label: the column of the labels.
        mode: "RGB" or "L".

    Attributes:
        targets: the labels.

    Raises:
        ValueError: no such column.
    """

    def __init__(
        self,
        records: Records,
        transform: Callable[[Any], torch.Tensor],
        *,
        image: str = "image",
        label: str = "label",
        mode: str = "RGB",
    ) -> None:
        self.records, self.transform, self.mode = records, transform, mode
        self.image, self.label = image, label
        if len(records):
            columns = list(records[0])
            for name in (image, label):
                if name not in columns:
                    raise ValueError(f"records have no column {name!r}, but {', '.join(columns)}")
        names = getattr(records, "column_names", None)
        if names is not None and label in names:  # without decoding the images
            # Columns by name are Hugging Face datasets', which are not imported for their types.
            self.targets = [int(one) for one in records[label]]  # type: ignore[index]
        else:
            self.targets = [int(records[index][label]) for index in range(len(records))]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.records[index][self.image].convert(self.mode)
        return self.transform(image), self.targets[index]
