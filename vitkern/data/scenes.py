"""A data set for detectors that needs no network: handwritten digits on photographs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from vitkern.data.arrays import Splits, split_indices
from vitkern.data.detection import Annotation, DetectionImages, detection_train, detection_valid

__all__ = ["digits_on_photographs"]

_BANDS = {"train": (0.0, 0.6), "valid": (0.6, 0.8), "test": (0.8, 1.0)}
"""The columns of the photographs, in shares of their width, that a split's backgrounds are from."""

_INK = 0.3
"""What of a digit counts as its ink, for its box: its pixels are in [0, 1]."""


@dataclass(frozen=True)
class _Digit:
    """Where a digit goes: number ``source`` of the digits, ``side`` pixels, its top left corner,
    and how far its ink is from the background's end of the scale, of 0 to 1."""

    source: int
    side: int
    left: int
    top: int
    ink: float


@dataclass(frozen=True)
class _Scene:
    """A photograph's number, the square of it that is the background, and the digits on it."""

    photograph: int
    left: int
    top: int
    side: int
    digits: tuple[_Digit, ...]


def digits_on_photographs(
    *,
    size: int = 96,
    train: int = 2000,
    valid: int = 200,
    test: int = 400,
    objects: tuple[int, int] = (1, 3),
    sides: tuple[float, float] = (0.3, 0.5),
    seed: int = 0,
    translate: float = 0.1,
    scale: float = 0.15,
    jitter: float = 0.2,
) -> Splits:
    """scikit-learn's handwritten digits on squares of its photographs, ten classes, three channels.

    Digits do not touch one another. Their boxes are tight around the ink. An image is a function of
    the seed, the split and its number. Splits share neither digits nor parts of photographs: the
    digits are split 70, 10 and 20 %, photographs by columns.

    Args:
        size: of the images, square.
        train: images for training.
        valid: images for validation.
        test: images for the test.
        objects: the least and the most digits on an image.
        sides: the least and the largest side of a digit's square, its margins included, in shares
            of ``size``.
        seed: of the scenes.
        translate: training images are moved by at most this share of their size.
        scale: and made larger or smaller by at most this share.
        jitter: of their brightness, contrast and saturation.

    Raises:
        ValueError: a number out of range.
    """
    from sklearn.datasets import load_digits, load_sample_images

    _check(size, {"train": train, "valid": valid, "test": test}, tuple(objects), tuple(sides))
    found = load_digits()
    labels = [int(label) for label in found.target]
    digits = torch.from_numpy(found.images).float() / 16
    photographs = [
        torch.from_numpy(one.copy()).permute(2, 0, 1) for one in load_sample_images().images
    ]
    sources = dict(zip(_BANDS, split_indices(labels, 10), strict=True))
    transforms = {
        "train": detection_train(size, flip=0, translate=translate, scale=scale, jitter=jitter),
        "valid": detection_valid(size),
        "test": detection_valid(size),
    }
    made = {}
    for place, (name, count) in enumerate((("train", train), ("valid", valid), ("test", test))):
        shapes = [tuple(one.shape[1:]) for one in photographs]
        scenes = [
            _draw(
                np.random.default_rng((seed, place, index)),
                size,
                sources[name],
                shapes,
                _BANDS[name],
                tuple(objects),
                tuple(sides),
            )
            for index in range(count)
        ]
        targets = [_annotation(scene, digits, labels, size) for scene in scenes]
        render = partial(_render, scenes=scenes, digits=digits, photographs=photographs, size=size)
        made[name] = DetectionImages(render, targets, transforms[name])
    classes = [str(digit) for digit in range(10)]
    return Splits(made["train"], made["valid"], made["test"], classes, 3, [])


def _check(
    size: int,
    counts: dict[str, int],
    objects: tuple[int, ...],
    sides: tuple[float, ...],
) -> None:
    if size < 32:
        raise ValueError(f"size must be at least 32, got {size}")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1 image, got {count}")
    if len(objects) != 2 or not 0 <= objects[0] <= objects[1] or objects[1] < 1:
        raise ValueError(f"objects must be the least and the most an image, got {list(objects)}")
    if len(sides) != 2 or not 0.1 <= sides[0] <= sides[1] <= 1:
        raise ValueError(f"sides must be two shares of at least 0.1 and at most 1, got {sides}")


def _draw(
    random: np.random.Generator,
    size: int,
    sources: list[int],
    shapes: list[tuple[int, ...]],
    band: tuple[float, float],
    objects: tuple[int, ...],
    sides: tuple[float, ...],
) -> _Scene:
    """A scene. Where a digit finds no free place in fifty tries, there is one fewer."""
    photograph = int(random.integers(len(shapes)))
    height, width = shapes[photograph]
    first, last = (round(share * width) for share in band)
    # As wide as the narrowest band: else the splits' backgrounds would be of different scales.
    most = min(height, *(round((end - start) * width) for start, end in _BANDS.values()))
    side = int(random.integers(most // 2, most + 1))
    left = int(random.integers(first, last - side + 1))
    top = int(random.integers(0, height - side + 1))
    digits: list[_Digit] = []
    for _ in range(int(random.integers(objects[0], objects[1] + 1))):
        source = sources[int(random.integers(len(sources)))]
        ink = float(random.uniform(0.8, 1.0))
        for _ in range(50):
            own = int(random.integers(round(sides[0] * size), round(sides[1] * size) + 1))
            x, y = (int(random.integers(0, size - own + 1)) for _ in "xy")
            one = _Digit(source, own, x, y, ink)
            if not any(_touch(one, other) for other in digits):
                digits.append(one)
                break
    return _Scene(photograph, left, top, side, tuple(digits))


def _touch(a: _Digit, b: _Digit) -> bool:
    apart = (
        a.left + a.side <= b.left
        or b.left + b.side <= a.left
        or a.top + a.side <= b.top
        or b.top + b.side <= a.top
    )
    return not apart


def _enlarged(digit: torch.Tensor, side: int) -> torch.Tensor:
    """(8, 8) -> (side, side)."""
    return F.interpolate(digit[None, None], size=(side, side), mode="bilinear")[0, 0]


def _annotation(scene: _Scene, digits: torch.Tensor, labels: list[int], size: int) -> Annotation:
    boxes = []
    for one in scene.digits:
        ink = _enlarged(digits[one.source], one.side) > _INK
        rows, columns = ink.any(1).nonzero().flatten(), ink.any(0).nonzero().flatten()
        boxes.append(
            [
                one.left + int(columns[0]),
                one.top + int(rows[0]),
                one.left + int(columns[-1]) + 1,
                one.top + int(rows[-1]) + 1,
            ]
        )
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([labels[one.source] for one in scene.digits], dtype=torch.int64),
        "size": (size, size),
    }


def _render(
    index: int,
    *,
    scenes: list[_Scene],
    digits: torch.Tensor,
    photographs: list[torch.Tensor],
    size: int,
) -> torch.Tensor:
    """uint8 (3, size, size). Ink lies on the photograph as thick as the digit's pixel says: light
    ink where the photograph is dark, dark ink where it is light."""
    scene = scenes[index]
    square = photographs[scene.photograph][
        :, scene.top : scene.top + scene.side, scene.left : scene.left + scene.side
    ]
    image = F.interpolate(
        square[None].float() / 255, size=(size, size), mode="bilinear", antialias=True
    )[0]
    for one in scene.digits:
        cover = _enlarged(digits[one.source], one.side)
        place = image[:, one.top : one.top + one.side, one.left : one.left + one.side]
        ink = one.ink if float(place.mean()) < 0.5 else 1 - one.ink
        place.copy_(place * (1 - cover) + ink * cover)
    return (image * 255).round().clamp(0, 255).to(torch.uint8)
