"""Data sets in memory, and how they are split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from vitkern.data.checks import check_labels

__all__ = ["ArrayImages", "Splits", "split_indices"]

Transform = Callable[[Any], torch.Tensor]


class ArrayImages(Dataset[tuple[torch.Tensor, int]]):
    """Images in a tensor.

    Args:
        images: (N, C, H, W), of any dtype.
        targets: N labels.
        transform: of one image (C, H, W); None for none.

    Raises:
        ValueError: another number of labels than of images.
    """

    def __init__(
        self, images: torch.Tensor, targets: Sequence[int], transform: Transform | None = None
    ) -> None:
        if len(images) != len(targets):
            raise ValueError(f"targets must be one an image, got {len(targets)} for {len(images)}")
        self.images = images
        self.targets = list(targets)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index]
        return image if self.transform is None else self.transform(image), self.targets[index]


@dataclass
class Splits:
    """A data set for training, for choosing the best epoch, and for the figure that is reported.

    Attributes:
        train: (image, label) pairs, augmented.
        valid: others.
        test: others again.
        classes: names of the labels.
        channels: of the images.
        notes: what was left out and why, a line each.
    """

    train: Any
    valid: Any
    test: Any
    classes: list[str]
    channels: int
    notes: list[str]

    def __getitem__(self, name: str) -> Any:
        """A split by its name.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in ("train", "valid", "test"):
            raise ValueError(f"split must be one of 'train', 'valid', 'test', got {name!r}")
        return getattr(self, name)


def split_indices(
    labels: Sequence[int], num_classes: int, *, valid: float = 0.1, test: float = 0.2, seed: int = 0
) -> tuple[list[int], list[int], list[int]]:
    """Indices of a training, a validation and a test split, each with all classes alike.

    Args:
        labels: one an image.
        num_classes: classes.
        valid: the share for validation.
        test: the share for the test.
        seed: of the choice.

    Raises:
        ValueError: wrong labels, or a class with too few images to be in every split.
    """
    from sklearn.model_selection import train_test_split

    check_labels(labels, num_classes, "whole")
    values = np.asarray(labels)
    counts = np.bincount(values, minlength=num_classes)
    if counts.min() < 3:
        few = [int(index) for index in np.flatnonzero(counts < 3)]
        raise ValueError(f"every class must have 3 images or more to be split; {few} have fewer")
    everything = np.arange(len(values))
    least = num_classes / len(values)
    rest, tested = train_test_split(
        everything, test_size=max(test, least), random_state=seed, stratify=values
    )
    share = max(valid, least) * len(values) / len(rest)
    trained, validated = train_test_split(
        rest, test_size=share, random_state=seed, stratify=values[rest]
    )
    return sorted(trained.tolist()), sorted(validated.tolist()), sorted(tested.tolist())
