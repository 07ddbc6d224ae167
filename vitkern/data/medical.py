"""Medical images: DICOM, and PNG of 8 and 16 bits."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from vitkern.data.images import MAX_PIXELS, UnreadableImage
from vitkern.data.windows import WINDOWS, Window

__all__ = ["MedicalImageDataset", "read_medical"]


def read_medical(
    path: str | os.PathLike[str], window: str | Window, *, max_pixels: int = MAX_PIXELS
) -> torch.Tensor:
    """An image with values in [0, 1].

    DICOM: stored values times slope plus intercept (in a CT that is Hounsfield units), of several
    frames the first, colours as RGB; MONOCHROME1 is turned so that more is brighter. Other files:
    values as they are stored, 8 or 16 bits.

    Args:
        path: a DICOM file, whatever its name, or a picture.
        window: a name in :data:`WINDOWS`, or one of your own.
        max_pixels: more are not decoded.

    Returns:
        (C, H, W) float32; C is 1 or 3.

    Raises:
        UnreadableImage: empty, damaged, too large, without pixels, or of a kind that the window
            does not fit.
        ValueError: an unknown window.
    """
    if isinstance(window, str) and window not in WINDOWS:
        raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}")
    chosen = WINDOWS[window] if isinstance(window, str) else window
    file = Path(path)
    try:
        if file.stat().st_size == 0:
            raise UnreadableImage(path, "the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            if _is_dicom(file):
                values, hounsfield, full = _read_dicom(file, max_pixels)
            else:
                values, hounsfield, full = _read_picture(file, max_pixels)
        return chosen(values, hounsfield=hounsfield, full=full)
    except UnreadableImage:
        raise
    except Exception as error:  # decoders raise errors of every kind
        why = " ".join(str(error).split()).replace(str(path), "the file") or type(error).__name__
        raise UnreadableImage(path, why) from error


class MedicalImageDataset(Dataset[tuple[torch.Tensor, int]]):
    """Medical image files.

    Args:
        paths: the files.
        targets: their labels.
        window: how values become grey.
        transform: tensor (C, H, W) in [0, 1] -> tensor.
        channels: 1 (colours become grey) or 3 (grey is repeated).
        max_pixels: of an image.
        check: read every file now; what cannot be read is left out, and in ``skipped``.

    Attributes:
        skipped: (path, reason) of what was left out.

    Raises:
        ValueError: another number of labels than of files, other channels, an unknown window.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        targets: Sequence[int],
        window: str | Window,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        *,
        channels: int = 1,
        max_pixels: int = MAX_PIXELS,
        check: bool = True,
    ) -> None:
        if len(paths) != len(targets):
            raise ValueError(f"targets must be one a file, got {len(targets)} for {len(paths)}")
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        if isinstance(window, str) and window not in WINDOWS:
            raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}")
        self.window, self.transform, self.channels = window, transform, channels
        self.max_pixels = max_pixels
        self.paths: list[Path] = []
        self.targets: list[int] = []
        self.skipped: list[tuple[Path, str]] = []
        for path, label in zip(map(Path, paths), targets, strict=True):
            reason = self._reason(path) if check else None
            if reason is None:
                self.paths.append(path)
                self.targets.append(label)
            else:
                self.skipped.append((path, reason))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = read_medical(self.paths[index], self.window, max_pixels=self.max_pixels)
        if self.channels != len(image):
            grey = image.mean(0, keepdim=True)
            image = grey.expand(self.channels, -1, -1)
        label = self.targets[index]
        return image if self.transform is None else self.transform(image), label

    def _reason(self, path: Path) -> str | None:
        try:
            read_medical(path, self.window, max_pixels=self.max_pixels)
        except UnreadableImage as error:
            return error.reason
        return None


def _is_dicom(file: Path) -> bool:
    with open(file, "rb") as opened:
        start = opened.read(132)
    return start[128:] == b"DICM" or file.suffix.lower() in (".dcm", ".dicom")


def _read_dicom(file: Path, max_pixels: int) -> tuple[torch.Tensor, bool, float]:
    from pydicom import dcmread
    from pydicom.pixels import pixel_array

    data = dcmread(file)
    rows, columns = int(data.get("Rows", 0)), int(data.get("Columns", 0))
    if "PixelData" not in data or not rows * columns:
        raise UnreadableImage(file, "it has no pixels")
    _limit(file, columns, rows, max_pixels)
    frames = int(data.get("NumberOfFrames") or 1)
    stored = pixel_array(data, index=0 if frames > 1 else None)  # colours come as RGB
    slope, intercept = data.get("RescaleSlope"), data.get("RescaleIntercept")
    values = np.asarray(stored, np.float64)
    if slope is not None:
        values = values * float(slope) + float(intercept or 0)
    full = float(2 ** int(data.get("BitsStored", 8)) - 1)
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        values = values.max() + values.min() - values
    hounsfield = data.get("Modality") == "CT" and slope is not None
    return _channels_first(values), hounsfield, full


def _read_picture(file: Path, max_pixels: int) -> tuple[torch.Tensor, bool, float]:
    from PIL import Image

    with Image.open(file) as image:
        _limit(file, image.width, image.height, max_pixels)
        if image.mode == "P":
            image = image.convert("RGB")
        elif image.mode in ("LA", "RGBA"):
            image = image.convert(image.mode[:-1])
        deep = image.mode == "I" or image.mode.startswith("I;16")
        values: Any = np.asarray(image, np.float64)
    return _channels_first(values), False, 65535.0 if deep else 255.0


def _limit(file: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        reason = f"{width} × {height} pixels are more than the limit of {max_pixels}"
        raise UnreadableImage(file, reason)


def _channels_first(values: Any) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values)).float()
    return tensor.unsqueeze(0) if tensor.ndim == 2 else tensor.permute(2, 0, 1)
