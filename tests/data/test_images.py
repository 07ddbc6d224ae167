"""Image files of every kind, good and bad."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkern.data import FileImages, UnreadableImage, image_folder, imagenet_valid, read_image
from vitkern.data.folder import folder


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    return np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)


def colours(height: int = 20, width: int = 30) -> Image.Image:
    channels = [
        gradient(height, width),
        gradient(height, width)[::-1],
        gradient(height, width) // 2,
    ]
    return Image.fromarray(np.stack(channels, 2))


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_sixteen_bits(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = read_image(tmp_path / "deep.png", mode="L")
    assert np.asarray(image).tolist() == [[0, 1, 128, 255]]
    assert read_image(tmp_path / "deep.png").mode == "RGB"


def test_palette_cmyk_and_transparency(tmp_path: Path) -> None:
    image = colours()
    image.quantize(200).save(tmp_path / "palette.png")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    for name, away in (("palette.png", 12), ("cmyk.jpg", 30)):
        read = read_image(tmp_path / name)
        assert read.mode == "RGB"
        difference = np.abs(np.asarray(read, int) - np.asarray(image, int))
        assert difference.mean() < away
    clear = np.zeros((4, 4, 4), np.uint8)  # black, transparent
    clear[0, :, 3] = 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    found = np.asarray(read_image(tmp_path / "clear.png"))
    assert found[0].max() == 0
    assert found[1:].min() == 255


def test_turned_by_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: a quarter turn clockwise mends it
    colours().save(tmp_path / "turned.png", exif=exif)
    read = read_image(tmp_path / "turned.png")
    assert read.size == (20, 30)
    expected = np.rot90(np.asarray(colours()), -1)
    assert np.array_equal(np.asarray(read), expected)


def bad_files(folder: Path) -> dict[str, str]:
    """Files that cannot be read, and a part of the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    colours(64, 64).save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    write(folder / "empty.png", b"")
    write(folder / "cut.jpg", content[: len(content) // 2])
    write(folder / "text.png", b"this is no image at all")
    Image.new("L", (2000, 1000)).save(folder / "huge.png")
    return {
        "empty.png": "the file is empty",
        "cut.jpg": "[Tt]runcated",
        "text.png": "cannot identify",
        "huge.png": "2000 × 1000 pixels are more than the limit of 1000000",
    }


def test_unreadable(tmp_path: Path) -> None:
    for name, why in bad_files(tmp_path).items():
        with pytest.raises(UnreadableImage, match=why) as error:
            read_image(tmp_path / name, max_pixels=10**6)
        assert str(error.value).startswith(str(tmp_path / name))
    with pytest.raises(UnreadableImage, match="No such file"):
        read_image(tmp_path / "nothing.png")


def classes(root: Path, count: int = 4) -> None:
    for name in ("cat", "dog"):
        (root / name / "more").mkdir(parents=True)
        for index in range(count):
            where = root / name / ("more" if index % 2 else "")
            colours(24 + index, 30).save(where / f"{index}.png")


def test_a_folder_skips_what_it_cannot_read_and_says_what(tmp_path: Path) -> None:
    classes(tmp_path)
    bad = bad_files(tmp_path / "cat")
    write(tmp_path / "dog" / "notes.txt", b"no image by its name")
    data, names = image_folder(tmp_path, imagenet_valid(16), max_pixels=10**6)
    assert names == ["cat", "dog"]
    assert len(data) == 8
    assert data.targets == [0] * 4 + [1] * 4
    assert {path.name for path, _ in data.skipped} == set(bad)
    for path, reason in data.skipped:
        assert re.search(bad[path.name], reason)
    image, label = data[5]
    assert image.shape == (3, 16, 16)
    assert label == 1


def test_without_the_check_the_file_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.png", b"")
    data = FileImages([path], None, imagenet_valid(16), check=False)
    assert len(data) == 1
    with pytest.raises(UnreadableImage, match=r"bad\.png: the file is empty"):
        data[0]


def test_splits_of_a_folder(tmp_path: Path) -> None:
    transform = imagenet_valid(16)
    classes(tmp_path / "whole", 10)
    splits = folder(tmp_path / "whole", transform, transform)
    paths = [set(part.paths) for part in (splits.train, splits.valid, splits.test)]
    assert [len(part) for part in paths] == [14, 2, 4]
    assert len(set.union(*paths)) == 20
    for name in ("train", "val"):
        classes(tmp_path / "parts" / name, 2)
    splits = folder(tmp_path / "parts", transform, transform)
    assert splits.notes == [
        f"{tmp_path / 'parts'} has no folder test: the validation's images are its test"
    ]


def test_wrong_folders(tmp_path: Path) -> None:
    transform = imagenet_valid(16)
    with pytest.raises(ValueError, match="path must be a folder"):
        image_folder(tmp_path / "nothing", transform)
    with pytest.raises(ValueError, match="must have a folder for each class"):
        image_folder(tmp_path, transform)
    classes(tmp_path, 2)
    with pytest.raises(ValueError, match="every class must have 3 images or more"):
        folder(tmp_path, transform, transform)
    with pytest.raises(ValueError, match="folders of no known class: dog"):
        image_folder(tmp_path, transform, classes=["cat"])
    (tmp_path / "bird").mkdir()
    with pytest.raises(ValueError, match="no readable image of bird"):
        image_folder(tmp_path, transform)
    classes(tmp_path / "parts" / "train")
    with pytest.raises(ValueError, match="it must have val or valid as well"):
        folder(tmp_path / "parts", transform, transform)
