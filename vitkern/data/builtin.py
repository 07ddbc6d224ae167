"""Real images that scikit-learn ships: no network is needed."""

from __future__ import annotations

import torch

from vitkern.data.arrays import ArrayImages, Splits, split_indices
from vitkern.data.transforms import plain, small_train

__all__ = ["DIGITS", "digits", "digits_parity", "photographs"]

DIGITS = (0.3054, 0.3763)
"""Mean and standard deviation of the digits' pixels, in [0, 1]."""


def digits(
    *, size: int = 16, degrees: float = 10.0, translate: float = 0.1, scale: float = 0.1
) -> Splits:
    """The 1,797 handwritten digits of scikit-learn, 8 × 8, enlarged; one channel, ten classes.

    70 % are for training, 10 % for validation, 20 % for the test, chosen once and for all.

    Args:
        size: of the images; the digits' own is 8.
        degrees: training images are turned by at most this.
        translate: and moved by at most this share of their size.
        scale: and made larger or smaller by at most this share.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images).float().unsqueeze(1) / 16
    images = torch.nn.functional.interpolate(images, size=size, mode="bilinear")
    images = (images - DIGITS[0]) / DIGITS[1]
    labels = [int(label) for label in found.target]
    train, valid, test = split_indices(labels, 10)
    augment = small_train(degrees=degrees, translate=translate, scale=scale, fill=-0.81)
    return Splits(
        _part(images, labels, train, augment),
        _part(images, labels, valid),
        _part(images, labels, test),
        [str(digit) for digit in range(10)],
        1,
        [],
    )


def digits_parity(
    *, size: int = 16, degrees: float = 10.0, translate: float = 0.1, scale: float = 0.1
) -> Splits:
    """The digits as two classes, even and odd: another task on known images, to transfer to.

    Args:
        size: as :func:`digits`; so are the others.
        degrees: as :func:`digits`.
        translate: as :func:`digits`.
        scale: as :func:`digits`.
    """
    splits = digits(size=size, degrees=degrees, translate=translate, scale=scale)
    for part in (splits.train, splits.valid, splits.test):
        part.targets = [label % 2 for label in part.targets]
    splits.classes = ["even", "odd"]
    return splits


def photographs(*, size: int = 32, stride: int = 16) -> Splits:
    """Squares cut from scikit-learn's two photographs: which of them is it? Three channels.

    Each split has columns of squares of its own, and none overlaps one of another split.

    Args:
        size: of the squares, and of the images.
        stride: pixels from one square to the next.
    """
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    groups: dict[str, tuple[list[torch.Tensor], list[int]]] = {
        name: ([], []) for name in ("train", "valid", "test")
    }
    order = ("train", "train", "test", "train", "valid")  # by bands, 4 squares wide
    for label, photograph in enumerate(found.images):
        picture = torch.from_numpy(photograph.copy()).permute(2, 0, 1)
        band = 4 * size
        for left in range(0, picture.shape[2] - band + 1, band):
            images, labels = groups[order[left // band % len(order)]]
            strip = picture[:, :, left : left + band]
            squares = strip.unfold(1, size, stride).unfold(2, size, stride)
            squares = squares.permute(1, 2, 0, 3, 4).flatten(0, 1)
            images.extend(squares)
            labels.extend([label] * len(squares))
    made = {}
    for name, (images, labels) in groups.items():
        pixels = torch.stack(images)
        made[name] = ArrayImages(pixels, labels, plain(flip=name == "train"))
    return Splits(made["train"], made["valid"], made["test"], ["temple", "flower"], 3, [])


def _part(
    images: torch.Tensor,
    labels: list[int],
    indices: list[int],
    transform: object = None,
) -> ArrayImages:
    # NumPy has no type for one label of an array.
    return ArrayImages(images[indices], [labels[i] for i in indices], transform)  # type: ignore[arg-type]
