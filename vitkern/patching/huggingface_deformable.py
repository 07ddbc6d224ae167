"""Hugging Face's multi-scale deformable attention, on ``ops.deformable_attention``.

Of most models it is a module without parameters, which is given values, points and weights. Others
call a function for it in their attention's forward, and get another one there (``rebound.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitkern import ops
from vitkern.patching import suitable
from vitkern.patching.adapter import Adapter, Match
from vitkern.patching.products import probe_deformable
from vitkern.patching.rebound import Rebound

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap


def _classes(cls: str, *models: str) -> tuple[str, ...]:
    return tuple(f"transformers.models.{one}.modeling_{one}:{cls}" for one in models)


def _shapes(given: Any) -> list[tuple[int, int]] | None:
    """(height, width) of each level; None where they are not numbers."""
    if not isinstance(given, list | tuple):
        return None
    pairs = [tuple(one) for one in given if isinstance(one, list | tuple) and len(one) == 2]
    numbers = all(isinstance(size, int | torch.SymInt) for pair in pairs for size in pair)
    return pairs if numbers and len(pairs) == len(given) else None


def sample(
    backend: str | None, value: Any, shapes: Any, locations: Any, weights: Any
) -> torch.Tensor | None:
    """The op, or None where the library's own code is to compute it.

    Args:
        backend: the op's.
        value: (B, S, heads, head_dim).
        shapes: (height, width) of each level.
        locations: (B, Q, heads, levels, points, 2).
        weights: (B, Q, heads, levels, points).
    """
    levels = _shapes(shapes)
    if levels is None or not suitable.plain(value, locations, weights):
        return None
    if not value.dtype == locations.dtype == weights.dtype or not value.is_floating_point():
        return None
    return ops.deformable_attention(value, levels, locations, weights, backend=backend)


class DeformableAttention(Adapter):
    """A module without parameters that is given all, and the shapes as tensor and as list."""

    ops = ("deformable_attention",)
    forms = False

    def match(self, module: nn.Module) -> Match:
        """Nothing that could be otherwise; dtype and device are those of what is around it."""
        if module._modules or module._parameters:
            return Match(["has children or parameters"])
        return Match(calls_like=[probe_deformable])

    def forward(
        self,
        swap: Swap,
        module: Any,
        value: Any,
        value_spatial_shapes: Any,
        value_spatial_shapes_list: Any,
        level_start_index: Any,
        sampling_locations: Any,
        attention_weights: Any,
        im2col_step: Any,
    ) -> Any:
        y = sample(
            swap.backend, value, value_spatial_shapes_list, sampling_locations, attention_weights
        )
        if y is not None:
            return y
        return swap.original(
            module,
            value,
            value_spatial_shapes,
            value_spatial_shapes_list,
            level_start_index,
            sampling_locations,
            attention_weights,
            im2col_step,
        )


def _one_call(backend: str | None, original: Callable[..., Any]) -> Callable[..., Any]:
    def replaced(value: Any, shapes: Any, locations: Any, weights: Any) -> Any:
        y = sample(backend, value, shapes, locations, weights)
        return original(value, shapes, locations, weights) if y is None else y

    return replaced


def _one_call_v2(backend: str | None, original: Callable[..., Any]) -> Callable[..., Any]:
    """Of version 2, which has all levels' points in a row, as many as it likes of each."""

    def replaced(
        value: Any,
        shapes: Any,
        locations: Any,
        weights: Any,
        points: list[int],
        method: str = "default",
    ) -> Any:
        if method == "default" and len(set(points)) == 1 and locations.dim() == 5:
            each = (len(points), points[0])
            levels = locations.unflatten(3, each), weights.unflatten(3, each)
            y = sample(backend, value, shapes, *levels)
            if y is not None:
                return y
        return original(value, shapes, locations, weights, points, method)

    return replaced


_MODELS = (
    "deformable_detr",
    "grounding_dino",
    "lw_detr",
    "mm_grounding_dino",
    "omdet_turbo",
    "pp_doclayout_v2",
    "pp_doclayout_v3",
    "pp_doclayout_v4",
    "rf_detr",
    "rt_detr",
)

ADAPTERS = (
    DeformableAttention(
        "transformers.MultiScaleDeformableAttention",
        *_classes("MultiScaleDeformableAttention", *_MODELS),
    ),
    Rebound(
        "transformers.PixelDecoderDeformableAttention",
        *_classes("Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention", "mask2former"),
        *_classes("OneFormerPixelDecoderEncoderMultiscaleDeformableAttention", "oneformer"),
        function="multi_scale_deformable_attention",
        replacement=_one_call,
        ops=("linear", "deformable_attention"),
    ),
    Rebound(
        "transformers.MultiscaleDeformableAttentionV2",
        *_classes("RTDetrV2MultiscaleDeformableAttention", "rt_detr_v2"),
        function="multi_scale_deformable_attention_v2",
        replacement=_one_call_v2,
        ops=("linear", "deformable_attention"),
    ),
)
