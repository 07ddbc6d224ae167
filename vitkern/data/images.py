"""Image files of any kind as 8-bit RGB or greyscale, or one line why not."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["MAX_PIXELS", "SUFFIXES", "UnreadableImage", "decode_image", "read_image"]

MAX_PIXELS = 64_000_000
"""The most pixels of an image that is decoded by default: a small file can unpack to gigabytes."""

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""Endings, in lower case, of files that are taken for images."""


class UnreadableImage(ValueError):
    """A file is no image, is damaged, or is too large; ``reason`` is a line without its name."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def read_image(
    path: str | os.PathLike[str],
    *,
    mode: str = "RGB",
    max_pixels: int = MAX_PIXELS,
    upright: bool = True,
) -> Image.Image:
    """An image, upright, with 8 bits a channel.

    Palettes, CMYK and others become ``mode``; what is transparent
    becomes white; of 16 bits the upper 8 stay; of animations the first picture.

    Args:
        path: the file.
        mode: "RGB" or "L" (greyscale).
        max_pixels: more are not decoded. Pillow's own limit (``Image.MAX_IMAGE_PIXELS``, twice)
            holds as well.
        upright: turn it as its EXIF data say; else rows and columns are as they are stored.

    Raises:
        UnreadableImage: empty, cut off, damaged, too large, missing, or no image.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(path, error.strerror or type(error).__name__) from error
    return decode_image(content, path, mode=mode, max_pixels=max_pixels, upright=upright)


def decode_image(
    content: bytes,
    path: str | os.PathLike[str],
    *,
    mode: str = "RGB",
    max_pixels: int = MAX_PIXELS,
    upright: bool = True,
) -> Image.Image:
    """An image in memory; ``path`` is what errors call it. Otherwise as :func:`read_image`."""
    if not content:
        raise UnreadableImage(path, "the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and of odd metadata
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise UnreadableImage(
                        path, f"{width} × {height} pixels are more than the limit of {max_pixels}"
                    )
                image.load()
                return _convert(ImageOps.exif_transpose(image) if upright else image, mode)
    except UnreadableImage:
        raise
    except Exception as error:  # decoders raise errors of every kind
        if isinstance(error, UnidentifiedImageError):
            raise UnreadableImage(path, "cannot identify what kind of image it is") from error
        why = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(path, why) from error


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow's own conversion would cut all above 255 to white."""
    values = np.asarray(image).astype(np.float64)
    sixteen = image.mode != "F" and (image.mode != "I" or values.max(initial=0) > 255)
    if sixteen:
        values = values / 257  # 65535 becomes 255
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
