"""What the GPU check measures: rows, the most telling first; and the models they are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import vitkern.models
from vitkern.bench import models
from vitkern.bench.models import DTYPES, Row, TimmMissing

_VIT_S, _VIT_B = "vit_small_patch16_224", "vit_base_patch16_224"
_SWIN_T, _SWIN_B = "swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224"
_ALL = (_VIT_S, _SWIN_T, _VIT_B, _SWIN_B)


@dataclass(frozen=True)
class Entry:
    """A row and how it is measured.

    Attributes:
        row: model, batch, mode, dtype.
        compared: whether torch.compile is beside the others, which takes half a minute, and each of
            our backends.
        options: of the model, beside its name.
        image: height and width; None is what the model was made for.
    """

    row: Row
    compared: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    image: int | None = None

    @property
    def seconds(self) -> float:
        """About what it takes on a data-centre card, kernels compiled; to plan with."""
        large = self.row.model in (_VIT_B, _SWIN_B)
        return (6.0 + 4.0 * large) + self.compared * (28.0 + 22.0 * large)


def _entries(names: tuple[str, ...], dtype: str, *batches: int, compared: bool = False,
             mode: str = "eval") -> list[Entry]:  # fmt: skip
    return [Entry(Row(name, batch, mode, dtype), compared) for batch in batches for name in names]


ROWS: tuple[Entry, ...] = (
    *_entries(_ALL[:2], "bfloat16", 64, compared=True),
    *_entries(_ALL[:2], "bfloat16", 1, compared=True),
    *_entries(_ALL[:2], "bfloat16", 64, compared=True, mode="train"),
    *_entries(_ALL[2:], "bfloat16", 64),
    *_entries(_ALL, "bfloat16", 8),
    *_entries(_ALL[2:], "bfloat16", 1),
    *_entries(_ALL, "float16", 64),
    *_entries(_ALL, "float32", 64),
    *_entries(_ALL, "float16", 1, 8),
)
"""All rows, the first first: where time is short the last are dropped."""


def _tiny(batch: int, mode: str, dtype: str) -> Entry:
    row = Row("vit_tiny_patch16_224", batch, mode, dtype)
    return Entry(row, dtype == "bfloat16", {"img_size": 32, "depth": 1}, 32)


DRY_ROWS: tuple[Entry, ...] = (
    _tiny(2, "eval", "bfloat16"),
    _tiny(3, "train", "float32"),
    _tiny(1, "eval", "float32"),
)
"""What a dry run measures."""


def source() -> str:
    """Where the models are from."""
    try:
        return f"timm {models.require_timm().__version__}"
    except TimmMissing:
        return "vitkern.models, as timm is not installed"


def build(entry: Entry, device: torch.device) -> tuple[nn.Module, torch.Tensor]:
    """The model in its mode and dtype, and images, on a device; the same in every process."""
    generator = torch.Generator().manual_seed(1)
    model, size = _model(entry)
    images = torch.randn(size, generator=generator).to(DTYPES[entry.row.dtype])
    return model.to(device), images.to(device)


def on_meta(entry: Entry) -> tuple[nn.Module, torch.Tensor]:
    """The same, shapes only."""
    with torch.device("meta"):
        model, size = _model(entry)
        return model, torch.empty(size, dtype=DTYPES[entry.row.dtype])


def _model(entry: Entry) -> tuple[nn.Module, tuple[int, ...]]:
    """The model, on the default device, and the size of its images.

    Without drop paths, whose random numbers on GPUs differ between dtypes.
    """
    row, options = entry.row, {"drop_path_rate": 0.0, **entry.options}
    try:
        model = models.create(row.model, **options)
    except TimmMissing:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = vitkern.models.create_model(row.model, **options)
            models.enliven(model)
    channels, height, width = models.image_size(model)
    size = (row.batch, channels, entry.image or height, entry.image or width)
    return model.to(DTYPES[row.dtype]).train(row.mode == "train"), size
