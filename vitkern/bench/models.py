"""The rows of benchmarks: which model, batch, mode and dtype; and how a row's model is made."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

__all__ = [
    "TARGETS",
    "WIDE",
    "Row",
    "TimmMissing",
    "UnknownModel",
    "build",
    "check_name",
    "enliven",
]

MODES = {
    "eval": "forward",
    "train": "forward + backward",
    "step": "forward + backward + step",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

PRODUCTS = ("bfloat16", "int8")
"""Forms that the products of a float32 model can have."""


class UnknownModel(ValueError):
    """timm has no model of that name."""


class TimmMissing(RuntimeError):
    """timm is not installed."""


@dataclass(frozen=True)
class Row:
    """One thing to measure.

    Attributes:
        model: a timm name.
        batch: images in a batch.
        mode: ``eval`` (forward, under inference_mode), ``train`` (forward and backward) or ``step``
            (forward, backward and AdamW's update).
        dtype: of parameters and images: ``float32``, ``bfloat16`` or ``float16``.
        form: of the patched model's products, where it is another one: ``bfloat16`` or ``int8``,
            for the forward of a model in float32.
    """

    model: str
    batch: int
    mode: str = "eval"
    dtype: str = "float32"
    form: str | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.form not in (None, *PRODUCTS):
            raise ValueError(f"form must be one of {', '.join(PRODUCTS)}, got {self.form!r}")
        if self.form is not None and (self.mode, self.dtype) != ("eval", "float32"):
            raise ValueError(
                f"form is for mode 'eval' and dtype 'float32', got {self.form!r} with"
                f" {self.mode!r} and {self.dtype!r}"
            )

    @property
    def forms(self) -> tuple[str, str]:
        """Of the eager and of the patched model's products, as the peaks are called."""
        own = "bfloat16" if self.dtype == "bfloat16" else "float32"
        return own, self.form or own

    @property
    def trains(self) -> bool:
        """Whether the model is in training mode, and gradients are wanted."""
        return self.mode != "eval"

    @property
    def label(self) -> str:
        """For tables."""
        extras = [f"batch {self.batch}"]
        extras += [MODES[self.mode]] * self.trains
        extras += [self.dtype] * (self.dtype != "float32")
        extras += [f"products in {self.form}"] * (self.form is not None)
        return f"{self.model}, {', '.join(extras)}"

    @property
    def slug(self) -> str:
        """For names of files and tests."""
        form = "" if self.form is None else f"-{self.form}-products"
        return f"{self.model}-batch{self.batch}-{self.mode}-{self.dtype}{form}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without a form where there is none."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Row:
        """What ``to_dict`` gave."""
        return Row(**values)


TARGETS: tuple[Row, ...] = (
    Row("vit_small_patch16_224", 8),
    Row("vit_base_patch16_224", 1),
    Row("swin_tiny_patch4_window7_224", 8),
    Row("swin_tiny_patch4_window7_224", 1),
    Row("swin_tiny_patch4_window7_224", 8, mode="train"),
)
"""What is measured by default."""

WIDE: tuple[Row, ...] = tuple(
    Row(model, batch)
    for model in (
        "vit_tiny_patch16_224",
        "vit_small_patch16_224",
        "vit_small_patch32_224",
        "vit_base_patch16_224",
        "vit_base_patch32_224",
        "vit_base_patch16_clip_224",
        "vit_base_patch16_siglip_224",
        "vit_medium_patch16_gap_256",
        "vit_large_patch16_224",
        "deit_tiny_patch16_224",
        "deit_small_patch16_224",
        "deit_base_patch16_224",
        "deit_small_distilled_patch16_224",
        "deit3_small_patch16_224",
        "deit3_base_patch16_224",
        "swin_tiny_patch4_window7_224",
        "swin_small_patch4_window7_224",
        "swin_base_patch4_window7_224",
        "swin_s3_tiny_224",
        "swin_base_patch4_window12_384",
    )
    for batch in (1, 8)
)
"""Twenty ViT, DeiT and Swin models at two batch sizes, to see that none is slower than eager."""


def require_timm() -> Any:
    """The timm package.

    Raises:
        TimmMissing: it is not installed; says how to install it.
    """
    if importlib.util.find_spec("timm") is None:
        raise TimmMissing("timm is not installed: pip install timm")
    import timm

    return timm


def check_name(name: str) -> None:
    """timm knows the model.

    Raises:
        UnknownModel: it does not; names near ones.
        TimmMissing: timm is not installed.
    """
    timm = require_timm()
    if timm.is_model(name):
        return
    names = timm.list_models()
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"try {TARGETS[0].model}"
    raise UnknownModel(f"timm has no model {name!r}; {hint}")


def create(name: str, **options: Any) -> nn.Module:
    """A timm model with fresh random weights, the same in every process.

    Raises:
        UnknownModel: timm does not know it, or not with that pretrained tag.
        TimmMissing: timm is not installed.
    """
    check_name(name)
    timm = require_timm()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, **options)
        except RuntimeError as error:
            raise UnknownModel(f"timm cannot make {name!r}: {error}") from error
        enliven(model)
    return model


def enliven(model: nn.Module) -> None:
    """Make fresh weights count, as trained ones do.

    Biases start as zeros, norms as ones and LayerScale as next to nothing: an op that forgot them
    would still be right. Vectors get noise of 0.1 standard deviations. Other parameters that are
    all zeros, such as the head's weight in some models, get noise as wide as usual weights: without
    it the output is zero whatever the model does. Parameters on the meta device have no values.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_meta:
                continue
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            elif not parameter.any():
                parameter.normal_(std=0.02)


def image_size(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width that the model was made for."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    return channels, height, width


def build(row: Row) -> tuple[nn.Module, torch.Tensor]:
    """The row's model, in its mode and dtype, and a batch of images for it.

    Raises:
        UnknownModel, TimmMissing: see :func:`create`.
    """
    dtype = DTYPES[row.dtype]
    model = create(row.model).to(dtype).train(row.trains)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(row.batch, *image_size(model), generator=generator).to(dtype)
    return model, images
