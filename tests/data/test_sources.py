"""What is shipped, splits, labels, transforms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from vitkern.data import batch_mix, check_labels, digits, photographs, split_indices
from vitkern.data.arrays import ArrayImages
from vitkern.data.medical_sources import medical_patches
from vitkern.data.sources import SOURCES, options_of
from vitkern.data.transforms import imagenet_train, imagenet_valid


@pytest.mark.parametrize("make", [digits, photographs, medical_patches])
def test_splits_have_every_class_and_share_no_image(make: Any) -> None:
    splits = make()
    seen: list[set[bytes]] = []
    for name in ("train", "valid", "test"):
        part = splits[name]
        check_labels(part.targets, len(splits.classes), name)
        assert part[0][0].shape[0] == splits.channels
        assert part[0][0].dtype == torch.float32
        seen.append({image.contiguous().numpy().tobytes() for image in part.images})
    if make is not digits:  # two digits may be alike
        assert not seen[0] & seen[1]
        assert not seen[0] & seen[2]
        assert not seen[1] & seen[2]
    with pytest.raises(ValueError, match="split must be one of"):
        splits["all"]


def test_digits_are_what_they_say() -> None:
    splits = digits(size=8)
    assert [len(splits[name]) for name in ("train", "valid", "test")] == [1257, 180, 360]
    pixels = torch.cat([splits[name].images for name in ("train", "valid", "test")])
    assert pixels.mean() == pytest.approx(0, abs=1e-3)
    assert pixels.std() == pytest.approx(1, abs=1e-3)
    assert torch.equal(splits.test[3][0], splits.test[3][0])
    assert not torch.equal(splits.train[3][0], splits.train[3][0])  # augmented


def test_splits_do_not_depend_on_global_seeds() -> None:
    labels = [0, 1, 2] * 20
    torch.manual_seed(1)
    one = split_indices(labels, 3, seed=5)
    torch.manual_seed(2)
    assert split_indices(labels, 3, seed=5) == one
    assert split_indices(labels, 3, seed=6) != one


@pytest.mark.parametrize(
    "labels, message",
    [
        ([], "the train split has no images"),
        ([0, 1, math.nan], "1 are NaN, the first at image 2"),
        ([0, 1.5], "must be whole numbers"),
        ([0, 1, 2], "must be 0 to 1: 1 are not, the first is 2 at image 2"),
        ([0, -1], "the first is -1 at image 1"),
        ([0, 0], "no image of class 1"),
        ([[0, 1]], "one number an image"),
    ],
)
def test_wrong_labels(labels: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_labels(labels, 2, "train")


def test_labels_for_other_images() -> None:
    with pytest.raises(ValueError, match="one an image, got 2 for 3"):
        ArrayImages(torch.zeros(3, 1, 2, 2), [0, 1])


def test_imagenet_transforms() -> None:
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    for transform in (imagenet_train(32), imagenet_valid(32)):
        found = transform(image)
        assert found.shape == (3, 32, 32)
        assert found.dtype == torch.float32
    # The middle of a wide image stays in the middle: height and width are not swapped.
    wide = torch.zeros(3, 32, 96, dtype=torch.uint8)
    wide[:, :, 40:56] = 255
    found = imagenet_valid(32, crop=1.0)(wide)
    assert found[0, 16, 16] > 2
    assert found[0, 16, 1] < -2
    assert found[0, 1, 16] > 2


@pytest.mark.parametrize("mixup, cutmix", [(0.8, 0.0), (0.0, 1.0)])
def test_mixed_batches_are_of_the_images_that_came(mixup: float, cutmix: float) -> None:
    """Each image is constant: its mean then says which share of it is in the mixture."""
    mix = batch_mix(4, mixup=mixup, cutmix=cutmix)
    assert mix is not None
    labels = torch.arange(4)
    images = (labels + 1.0).reshape(4, 1, 1, 1).expand(4, 1, 32, 16).clone()
    before = images.clone()
    mixed, targets = mix(images, labels)
    assert torch.equal(images, before)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    expected = (targets * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum(1)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), expected)
    assert batch_mix(4, mixup=0, cutmix=0) is None


def test_every_source_names_its_options() -> None:
    for name in SOURCES:
        assert options_of(name)
    assert "degrees" in options_of("digits")
