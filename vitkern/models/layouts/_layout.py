"""Which layout a state dict has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from vitkern.models.detr import DETR
from vitkern.models.layouts import huggingface, huggingface_detr, microsoft, torchvision
from vitkern.models.layouts._renaming import Weights
from vitkern.models.swin_transformer import SwinTransformer
from vitkern.models.swin_transformer_v2 import SwinTransformerV2
from vitkern.models.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class Layout:
    """A library's way to store a model.

    Attributes:
        name: of the library.
        recognises: whether a state dict is in this layout, by its keys.
        convert: the same weights under our keys; raises ValueError where they can't be.
    """

    name: str
    recognises: Callable[[Weights], bool]
    convert: Callable[[Weights], Weights]


_LAYOUTS: Mapping[type[nn.Module], tuple[Layout, ...]] = MappingProxyType(
    {
        VisionTransformer: (
            Layout("torchvision", torchvision.is_vit, torchvision.vit),
            Layout("Hugging Face", huggingface.is_vit, huggingface.vit),
        ),
        SwinTransformer: (
            Layout("torchvision", torchvision.is_swin, torchvision.swin),
            Layout("Hugging Face", huggingface.is_swin, huggingface.swin),
            Layout("Microsoft", microsoft.is_swin, microsoft.swin),
        ),
        SwinTransformerV2: (
            Layout("torchvision", torchvision.is_swin, torchvision.swin_v2),
            Layout("Hugging Face", huggingface.is_swin, huggingface.swin_v2),
            Layout("Microsoft", microsoft.is_swin, microsoft.swin),
        ),
        DETR: (Layout("Hugging Face", huggingface_detr.recognises, huggingface_detr.convert),),
    }
)


def layout_of(weights: Weights, model: nn.Module) -> Layout | None:
    """The layout of ``weights`` that a model of this class can be given; None where they have our
    own keys, or keys that nobody here knows."""
    for kind, layouts in _LAYOUTS.items():
        if isinstance(model, kind):
            for layout in layouts:
                if layout.recognises(weights):
                    return layout
    return None
