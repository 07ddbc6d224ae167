"""Images with boxes: the generated set, transforms, batches, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from vitkern.data.arrays import Splits
from vitkern.data.detection import (
    check_annotations,
    collate,
    detection_file,
    detection_train,
    detection_valid,
)
from vitkern.data.scenes import digits_on_photographs
from vitkern.models.detr.boxes import to_corners

SMALL: dict[str, Any] = {"size": 64, "train": 24, "valid": 8, "test": 8}


@pytest.fixture(scope="module")
def scenes() -> Splits:
    """A few scenes."""
    return digits_on_photographs(**SMALL)


def test_scenes_are_fit_to_train_on(scenes: Splits) -> None:
    for name in ("train", "valid", "test"):
        split = scenes[name]
        assert len(split) == SMALL[name]
        check_annotations(split.targets, 10, name)
        assert all(1 <= len(one["labels"]) <= 3 for one in split.targets)
        for image, objects in (split[index] for index in range(len(split))):
            assert image.shape == (3, 64, 64)
            assert image.dtype == torch.float32
            assert type(image) is type(objects["boxes"]) is torch.Tensor
            assert objects["size"].tolist() == [64, 64]
            assert objects["labels"].dtype == torch.int64
            corners = to_corners(objects["boxes"])
            assert corners.min() >= -1e-6
            assert corners.max() <= 1 + 1e-6


def test_scenes_are_functions_of_seed_and_index(scenes: Splits) -> None:
    torch.manual_seed(5)
    again = digits_on_photographs(**{**SMALL, "train": 12})
    other = digits_on_photographs(**SMALL, seed=1)
    for index in range(12):
        assert torch.equal(scenes.train.render(index), again.train.render(index))
        assert torch.equal(
            scenes.train.targets[index]["boxes"], again.train.targets[index]["boxes"]
        )
    assert not torch.equal(scenes.train.render(0), other.train.render(0))
    assert not torch.equal(scenes.valid.render(0), scenes.test.render(0))


def test_boxes_are_tight_around_digits_that_can_be_seen(scenes: Splits) -> None:
    """Ink stands out from its surroundings, and digits keep apart."""
    for index, target in enumerate(scenes.valid.targets):
        image = scenes.valid.render(index).float() / 255
        for left, top, right, bottom in target["boxes"].int().tolist():
            inside = image[:, top:bottom, left:right].mean(0)
            assert inside.max() - inside.min() > 0.3
        for one in target["boxes"]:
            apart = (target["boxes"][:, 2:] <= one[:2]) | (one[2:] <= target["boxes"][:, :2])
            assert int(apart.any(1).sum()) == len(target["boxes"]) - 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 8}, "size must be at least 32, got 8"),
        ({"train": 0}, "train must be at least 1 image, got 0"),
        ({"objects": [3, 2]}, r"objects must be the least and the most an image, got \[3, 2\]"),
        ({"sides": [0.0, 0.5]}, "sides must be two shares"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        digits_on_photographs(**{**SMALL, **options})


def sample(size: tuple[int, int], boxes: list[list[float]]) -> tuple[Any, dict[str, Any]]:
    """An image that is white in its boxes, and they."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for left, top, right, bottom in boxes:
        image[:, int(top) : int(bottom), int(left) : int(right)] = 255
    placed = tv_tensors.BoundingBoxes(
        torch.tensor(boxes), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size
    )
    return tv_tensors.Image(image), {"boxes": placed, "labels": torch.arange(len(boxes))}


def test_boxes_go_where_the_pixels_go() -> None:
    """A wide image mirrored, moved and scaled: height and width are not swapped."""
    transform = detection_train(96, flip=1.0, translate=0.1, scale=0.2, jitter=0.0)
    for _ in range(5):
        image, objects = transform(*sample((48, 96), [[8.0, 4.0, 40.0, 24.0]]))
        assert image.shape == (3, 48, 96)
        # Normalised, black is -2, what comes in at the edges is 0, and white is above 2.
        rows, columns = (image.mean(0) > 1.2).nonzero().unbind(1)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert objects["boxes"][0].tolist() == pytest.approx([float(v) for v in seen], abs=2.0)
        assert objects["boxes"][0, 0] > 40  # mirrored


def test_what_leaves_the_image_is_dropped_with_its_label() -> None:
    torch.manual_seed(0)
    transform = detection_train(64, flip=0.0, translate=0.3, scale=0.0, jitter=0.0)
    boxes = [[0.0, 0.0, 6.0, 6.0], [58.0, 58.0, 64.0, 64.0]]
    left = []
    for _ in range(30):
        _, objects = transform(*sample((64, 64), boxes))
        assert objects["labels"].tolist() == [int(box[0] > 32) for box in objects["boxes"]]
        left.append(len(objects["labels"]))
    assert {1, 2} <= set(left)


def test_longer_side_and_files_alike() -> None:
    image, objects = detection_valid(32)(*sample((64, 128), [[32.0, 16.0, 64.0, 32.0]]))
    assert image.shape == (3, 16, 32)
    torch.testing.assert_close(
        objects["boxes"].as_subclass(torch.Tensor), torch.tensor([[8.0, 4.0, 16.0, 8.0]])
    )
    pixels = sample((64, 128), [[32.0, 16.0, 64.0, 32.0]])[0].permute(1, 2, 0).numpy()
    alone = detection_file(32)(Image.fromarray(np.ascontiguousarray(pixels)))
    torch.testing.assert_close(alone.as_subclass(torch.Tensor), image.as_subclass(torch.Tensor))


def test_collate_pads_and_says_where() -> None:
    objects: Any = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    batch = collate([(torch.ones(3, 4, 6), objects), (torch.ones(3, 5, 2), objects)])
    assert batch["images"].shape == (2, 3, 5, 6)
    assert batch["padding_mask"] is not None
    assert torch.equal(batch["padding_mask"], batch["images"][:, 0] == 0)
    assert collate([(torch.ones(3, 4, 6), objects)] * 2)["padding_mask"] is None


def annotation(boxes: Any, labels: Any) -> Any:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels),
        "size": (10, 20),
    }


@pytest.mark.parametrize(
    "boxes, labels, message",
    [
        ([[0, 0, 5, 5], [0, 0, math.nan, 5]], [0, 1], "box 1 of image 1 of the train split is not"),
        ([[0, 0, math.inf, 5]], [0], "box 0 of image 1 of the train split is not finite"),
        ([[5, 0, 5, 5]], [0], "has no area"),
        ([[5, 5, 4, 9]], [0], "has no area"),
        ([[0, 0, 20.5, 5]], [0], "leaves the image of 20 × 10 pixels"),
        ([[-1, 0, 5, 5]], [0], "leaves the image"),
        ([[0, 0, 5, 11]], [0], "leaves the image"),
        ([[0, 0, 5, 5]], [2], "label of box 0 of image 1 of the train split must be 0 to 1, got 2"),
        ([[0, 0, 5, 5]], [-1], "must be 0 to 1, got -1"),
        ([[0, 0, 5, 5]], [0, 1], r"must have boxes \(n, 4\) and labels \(n,\)"),
    ],
)
def test_wrong_annotations(boxes: Any, labels: list[int], message: str) -> None:
    good = annotation([[0, 0, 20, 10]], [1])
    with pytest.raises(ValueError, match=message):
        check_annotations([good, annotation(boxes, labels)], 2, "train")


def test_other_wrong_splits() -> None:
    nothing = annotation([], torch.zeros(0, dtype=torch.int64).tolist())
    nothing["labels"] = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="the train split has no images"):
        check_annotations([], 2, "train")
    with pytest.raises(ValueError, match="no object in any image"):
        check_annotations([nothing], 2, "train")
    check_annotations([nothing, annotation([[0, 0, 20, 10]], [1])], 2, "train")
    with pytest.raises(TypeError, match=r"labels in int64, got torch\.float32"):
        check_annotations([annotation([[0, 0, 5, 5]], [0.5])], 2, "train")
