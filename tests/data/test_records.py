"""Shards and rows."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkern.data.records import RecordImages, TarImages
from vitkern.data.transforms import imagenet_valid


def picture(value: int) -> Image.Image:
    return Image.fromarray(np.full((12, 12, 3), value, np.uint8))


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    picture(value).save(buffer, "PNG")
    return buffer.getvalue()


def test_shards(tmp_path: Path) -> None:
    first = {"a/0.png": png(0), "a/0.cls": b"1", "a/1.cls": b"0\n", "a/1.png": png(255)}
    bad = {
        "2.png": b"",
        "2.cls": b"1",
        "3.cls": b"0",
        "4.png": png(9),
        "5.png": png(9),
        "5.cls": b"x",
    }
    paths = [shard(tmp_path / "0.tar", first), shard(tmp_path / "1.tar", bad)]
    data = TarImages(paths, imagenet_valid(8))
    assert data.targets == [1, 0]
    dark, light = data[0][0].mean(), data[1][0].mean()
    assert dark < -1.5 < 1.5 < light
    reasons = {name.rpartition(":")[2]: reason for name, reason in data.skipped}
    assert reasons == {
        "2": "the file is empty",
        "3": "it has no image",
        "4": "it has no label (.cls)",
        "5": "its label is no whole number",
    }


def test_a_shard_that_is_cut_off(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "0.tar", {"0.png": png(0), "0.cls": b"1", "1.png": png(1), "1.cls": b"0"}
    )
    path.write_bytes(path.read_bytes()[:2800])  # within the header of the second image's label
    data = TarImages([path], imagenet_valid(8))
    assert data.targets == [1]
    assert data.skipped
    with pytest.raises(ValueError, match="at least one tar file"):
        TarImages([], imagenet_valid(8))


def test_rows() -> None:
    rows = [{"img": picture(0), "y": 1}, {"img": picture(255).convert("L"), "y": 0}]
    data = RecordImages(rows, imagenet_valid(8), image="img", label="y")
    assert data.targets == [1, 0]
    image, label = data[1]
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.float32
    assert label == 0
    with pytest.raises(ValueError, match="no column 'image', but img, y"):
        RecordImages(rows, imagenet_valid(8))
