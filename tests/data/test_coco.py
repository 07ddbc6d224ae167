"""COCO's layout: images, boxes and categories as they are stored, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitkern import cli
from vitkern.data.arrays import Splits
from vitkern.data.coco import coco
from vitkern.data.scenes import digits_on_photographs
from vitkern.models.detr.boxes import to_corners

SIZE = 64
CATEGORIES = [{"id": 3 * digit + 1, "name": str(digit)} for digit in reversed(range(10))]


def write(root: Path, scenes: Splits) -> Path:
    """Scenes of digits as COCO would have them; category ids have gaps."""
    (root / "annotations").mkdir(parents=True)
    for name, split in (("train2017", scenes.train), ("val2017", scenes.valid)):
        (root / name).mkdir()
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
        for number, target in enumerate(split.targets):
            file = f"{number:012d}.png"
            pixels = split.render(number).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(root / name / file)
            content["images"].append(
                {"id": 100 + number, "file_name": file, "height": SIZE, "width": SIZE}
            )
            for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
                left, top, right, bottom = box
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": 100 + number,
                        "category_id": 3 * label + 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "iscrowd": 0,
                    }
                )
        (root / f"annotations/instances_{name}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def scenes() -> Splits:
    return digits_on_photographs(size=SIZE, train=8, valid=4, test=4)


@pytest.fixture
def root(tmp_path: Path, scenes: Splits) -> Path:
    return write(tmp_path / "coco", scenes)


def change(root: Path, alter: Callable[[dict[str, Any]], Any], split: str = "train2017") -> None:
    """Alters a file of annotations."""
    file = root / f"annotations/instances_{split}.json"
    content = json.loads(file.read_text())
    alter(content)
    file.write_text(json.dumps(content))


def test_what_was_written(root: Path, scenes: Splits) -> None:
    found = coco(root, size=SIZE)
    assert found.classes == [str(digit) for digit in range(10)]
    assert found.notes == [f"{root} has no test split: the validation's images are its test"]
    assert found.test is found.valid
    for ours, theirs in ((found.train, scenes.train), (found.valid, scenes.valid)):
        assert len(ours) == len(theirs)
        for number, (one, two) in enumerate(zip(ours.targets, theirs.targets, strict=True)):
            assert torch.equal(ours.render(number), theirs.render(number))
            torch.testing.assert_close(one["boxes"], two["boxes"])
            assert torch.equal(one["labels"], two["labels"])
            assert one["size"] == two["size"]
    image, objects = found.valid[0]
    assert image.shape == (3, SIZE, SIZE)
    torch.testing.assert_close(
        to_corners(objects["boxes"]) * SIZE, found.valid.targets[0]["boxes"], atol=1e-3, rtol=0
    )


def test_crowds_unreadable_images_and_turned_ones(root: Path) -> None:
    """EXIF data do not turn an image: boxes are of the pixels as stored."""

    def alter(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            row["iscrowd"] = int(row["image_id"] == 101)
        content["images"][3].update(width=20, height=10)
        content["annotations"] = [r for r in content["annotations"] if r["image_id"] != 103]

    change(root, alter)
    (root / "train2017" / f"{2:012d}.png").write_bytes(b"")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(root / "train2017" / f"{3:012d}.png", exif=exif)
    found = coco(root, size=SIZE)
    assert len(found.train) == 7
    assert f"skipped {root}/train2017/{2:012d}.png: the file is empty" in found.notes
    assert len(found.train.targets[1]["labels"]) == 0
    assert found.train.render(2).shape == (3, 10, 20)


def test_clean(root: Path) -> None:
    """Boxes that leave the image are cut off; those without area go."""

    def alter(content: dict[str, Any]) -> None:
        content["annotations"] = [r for r in content["annotations"] if r["image_id"] != 100]
        for number, box in enumerate(([-5, 50, 20, 30], [10, 10, 0, 5], [70, 1, 5, 5])):
            content["annotations"].append(
                {"id": 900 + number, "image_id": 100, "category_id": 1, "bbox": box}
            )

    change(root, alter)
    with pytest.raises(ValueError, match=r"box 1 of 0{12}.png in .*has no area.*; clean: true cut"):
        coco(root, size=SIZE)
    found = coco(root, size=SIZE, clean=True)
    assert found.train.targets[0]["boxes"].tolist() == [[0, 50, 15, 64]]
    assert f"{root}/annotations/instances_train2017.json: left out 2 boxes" in found.notes[0]
    change(root, lambda content: content["annotations"][-1].update(bbox=[float("nan"), 1, 1, 1]))
    with pytest.raises(ValueError, match=r"is not finite: \[nan, 1.0, nan, 2.0\]$"):
        coco(root, size=SIZE, clean=True)


def first(content: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = content["annotations"][0]
    return row


@pytest.mark.parametrize(
    "alter, message",
    [
        (lambda c: first(c).update(category_id=2), "000.png in .* of unknown category 2"),
        (lambda c: first(c).update(bbox=[1, 2, 3]), "boxes that are not .x, y, width, height"),
        (lambda c: first(c).update(bbox="all"), "boxes that are not .x, y, width, height"),
        (lambda c: first(c).update(bbox=[60, 2, 9, 5]), "leaves the image of 64 × 64 pixels"),
        (lambda c: first(c).update(image_id=7), "has an object of image 7, which it lacks"),
        (lambda c: first(c).pop("bbox"), r"annotations\[0\] has no bbox"),
        (
            lambda c: c["images"][1].update(id=c["images"][0]["id"]),
            r"images\[1\] has the id 100 of \[0\]",
        ),
        (
            lambda c: c["annotations"][2].update(id=first(c)["id"]),
            r"annotations\[2\] has the id \d+ of \[0\]",
        ),
        (lambda c: c.pop("categories"), "must have a list 'categories'"),
        (lambda c: c["images"][1].update(width=63), "has 64 × 64 pixels, and .* says 63 × 64"),
        (lambda c: c["categories"].pop(), "val2017.json has other categories than the training"),
    ],
)
def test_what_is_refused(root: Path, alter: Callable[[dict[str, Any]], Any], message: str) -> None:
    if "other categories" in message:
        change(root, lambda content: content["categories"].append({"id": 99, "name": "x"}))
        alter = copy.copy
    change(root, alter)
    with pytest.raises(ValueError, match=message):
        coco(root, size=SIZE)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"train": "nothing"}, "nothing must be a folder of images"),
        ({"annotations": "x.json"}, "annotations must have {split} in it"),
        ({"annotations": "no-{split}.json"}, "no-train2017.json cannot be read: No such file"),
    ],
)
def test_wrong_options(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coco(root, **options)
    (root / "annotations/instances_train2017.json").write_text("{")
    with pytest.raises(ValueError, match=r"instances_train2017.json is no JSON"):
        coco(root)


def test_a_detector_trains_on_it_and_draws(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "coco.yaml"
    recipe.write_text(
        f"""
model:
  name: detr_resnet50
  arguments: {{backbone: resnet18, num_queries: 5, embed_dim: 16, encoder_depth: 1,
    decoder_depth: 1, num_heads: 2, mlp_dim: 32, backbone_arguments: {{out_indices: [2],
    layers: [1, 1, 1, 1], channels: [8, 16, 16, 16], stem_width: 8}}}}
data: {{name: coco, path: {root}, size: {SIZE}}}
train: {{epochs: 1, batch_size: 4, accumulate: 1, monitor: loss}}
"""
    )
    run = str(tmp_path / "run")
    assert cli.main(["train", str(recipe), "--out", run, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["test"]["images"] == 4
    assert "epoch 1 of 1: loss " in captured.err
    picture = root / "val2017" / f"{0:012d}.png"
    assert cli.main(["detect", run, str(picture), "--out", str(tmp_path), "--threshold", "0"]) == 0
    assert np.asarray(Image.open(tmp_path / picture.name)).shape == (SIZE, SIZE, 3)
