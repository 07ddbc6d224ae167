"""``vitkern train``, ``eval`` and ``detect`` of detectors: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.training.test_detection import TINY
from vitkern import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**TINY, "train": {**TINY["train"], "epochs": 1}}))
    assert cli.main(["train", str(recipe), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of one name and of different shapes, and a file that cannot be read."""
    root = tmp_path / "images"
    for folder, (height, width) in (("a", (40, 90)), ("b", (100, 60))):
        (root / folder).mkdir(parents=True)
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(root / folder / "one.png")
    (root / "bad.png").write_bytes(b"no image")
    return root


def test_train_and_eval(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert {"map", "map_50", "map_75", "loss_giou"} <= set(summary["test"])
    assert cli.main(["eval", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in summary["test"]} == summary["test"]
    assert cli.main(["eval", str(run), "--split", "valid"]) == 0
    printed = capsys.readouterr().out
    assert "mAP at 0.75" in printed
    assert "9: average precision" in printed


def test_detect(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["detect", str(run), str(images), "--out", str(out)]
    assert cli.main([*argv, "--threshold", "0", "--json"]) == 0
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert "skipped" in output.err
    assert [Path(one["image"]).name for one in found["skipped"]] == ["bad.png"]
    assert sorted(path.name for path in out.iterdir()) == ["one-2.png", "one.png"]
    first, second = found["detections"]
    assert (first["width"], first["height"]) == (90, 40)
    assert (second["width"], second["height"]) == (60, 100)
    for one in (first, second):
        assert len(one["objects"]) == 5  # every query, at this threshold
        scores = [each["score"] for each in one["objects"]]
        assert scores == sorted(scores, reverse=True)
        for each in one["objects"]:
            left, top, right, bottom = each["box"]
            assert 0 <= left <= right <= one["width"]
            assert 0 <= top <= bottom <= one["height"]
            assert each["class"] in "0123456789"
        with Image.open(one["picture"]) as picture, Image.open(one["image"]) as original:
            assert picture.size == original.size
            assert not np.array_equal(np.asarray(picture), np.asarray(original))
    assert cli.main([*argv, "--threshold", "1"]) == 0
    assert "nothing" in capsys.readouterr().out
    with Image.open(first["picture"]) as picture, Image.open(first["image"]) as original:
        assert np.array_equal(np.asarray(picture), np.asarray(original))


def test_an_image_alone_and_without_kernels(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Boxes are in pixels of the file, and those that the model gives itself."""
    import torch

    from vitkern.models import post_process
    from vitkern.training.build import load_run

    argv = ["detect", str(run / "best.safetensors"), str(images / "a" / "one.png"), "--no-patch"]
    argv += ["--out", str(tmp_path / "out"), "--threshold", "0", "--json"]
    assert cli.main(argv) == 0
    (found,) = json.loads(capsys.readouterr().out)["detections"]
    trained = load_run(run, patch=False)
    mode, transform = trained.files()
    with Image.open(images / "a" / "one.png") as image, torch.no_grad():
        detections = trained.model(transform(image.convert(mode))[None])
    (expected,) = post_process(detections, [(40, 90)], threshold=0)
    boxes = expected["boxes"].clamp(min=0).minimum(torch.tensor([90.0, 40.0, 90.0, 40.0]))
    np.testing.assert_allclose([one["box"] for one in found["objects"]], boxes, atol=0.01)
    scores = [one["score"] for one in found["objects"]]
    np.testing.assert_allclose(scores, expected["scores"], rtol=1e-5)


def test_wrong_use(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(argv: list[str], status: int, message: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        try:
            found = cli.main(argv)
        except SystemExit as stop:  # argparse
            found = int(str(stop.code))
        assert found == status
        error = capsys.readouterr().err
        assert message in error
        assert error.splitlines()[-1].startswith("vitkern")
        assert sorted(tmp_path.rglob("*")) == before

    out = ["--out", str(tmp_path / "out")]
    one = str(images / "a" / "one.png")
    refused(["detect", str(tmp_path), one, *out], 2, "is no run: it has no best.safetensors")
    refused(["detect", str(run), "nothing.png", *out], 2, "neither a file nor a folder")
    refused(["detect", str(run), str(images / "bad.png"), *out], 1, "no image could be read")
    refused(["detect", str(run), one, "--threshold", "2"], 2, "'2' is not a number from 0 to 1")
    refused(["detect", str(run), one, "--threshold", "nan"], 2, "is not a number from 0 to 1")
    refused(["detect", str(run), one, "--out", str(images / "a")], 2, "is one of the images")
    refused(["detect", str(run), one, "--out", one], 1, "is not a folder")
    refused(["predict", str(run), one], 2, "was trained for detection: use vitkern detect")
    refused(["embed", str(run), one, "--out", str(tmp_path / "f.parquet")], 2, "use vitkern detect")
    refused(["eval", str(run), "--data", str(images)], 2, "was trained for detection")
    picture = str(tmp_path / "confusion.png")
    refused(["eval", str(run), "--confusion", picture], 2, "was trained for detection")


def test_a_classifier_does_not_detect(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe: dict[str, Any] = {
        "model": {
            "name": "vit_tiny_patch16_224",
            "arguments": {
                "img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2,
            },
        },
        "data": {"name": "digits", "size": 8},
        "train": {"epochs": 1, "batch_size": 256, "accumulate": 1},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert cli.main(["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert cli.main(["detect", str(tmp_path / "run"), str(images)]) == 2
    assert "was trained for classification: use vitkern predict" in capsys.readouterr().err
