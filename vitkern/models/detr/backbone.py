"""A convolutional network of timm's as a source of one feature map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vitkern.models import _check

_TRAINED_STAGES = ("layer2", "layer3", "layer4")


class TimmBackbone(nn.Module):
    """The last feature map of a timm model.

    Args:
        name: a timm model that can be made with ``features_only=True``.
        in_chans: image channels.
        pretrained: load timm's weights (from the hub, or its local cache).
        frozen_batch_norm: batch norms keep their statistics and their affine parameters, which
            become buffers, whatever the mode: DETR's batches are too small to estimate them.
        arguments: further ones of the timm model, such as ``{"out_indices": (2,)}``, of a ResNet
            for the map of its second stage, or its widths.
        freeze_stem: no gradients for what comes before the second stage of a ResNet, as DETR is
            trained; None does so where the weights are pretrained.

    Attributes:
        body: timm's feature extractor.
        num_features: channels of the map.
        reduction: pixels a side that a token of the map stands for.

    Raises:
        ImportError: timm is not installed.
        TypeError: ``in_chans`` is not an int.
        ValueError: timm has no such model, it gives no feature maps, or it does not take the
            arguments.
    """

    def __init__(
        self,
        name: str = "resnet50",
        in_chans: int = 3,
        *,
        pretrained: bool = False,
        frozen_batch_norm: bool = True,
        freeze_stem: bool | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check.integer("in_chans", in_chans, minimum=1)
        self.in_chans = in_chans
        self.body = _features_of(name, in_chans, pretrained, arguments or {})
        if frozen_batch_norm:
            from timm.layers import freeze_batch_norm_2d

            self.body = freeze_batch_norm_2d(self.body)
        # Of the maps that are asked for: the list itself has all that the model could give.
        self.num_features: int = self.body.feature_info.channels()[-1]
        self.reduction: int = self.body.feature_info.reduction()[-1]
        self._channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        if pretrained if freeze_stem is None else freeze_stem:
            for key, parameter in self.body.named_parameters():
                if not any(stage in key for stage in _TRAINED_STAGES):
                    parameter.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_features, ⌈H/reduction⌉, ⌈W/reduction⌉).

        Raises:
            TypeError: images that are not a floating-point tensor.
            ValueError: another number of dimensions or channels.
        """
        _check.images(images, self.in_chans)
        features = self.body(images)[-1]
        return features.permute(0, 3, 1, 2) if self._channels_last else features


def _features_of(name: str, in_chans: int, pretrained: bool, arguments: Mapping[str, Any]) -> Any:
    """timm's feature extractor of a name.

    Raises:
        ImportError, ValueError: as :class:`TimmBackbone`.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"the backbone {name!r} is one of timm's models: pip install timm"
        ) from error
    if not timm.is_model(name):
        raise ValueError(f"backbone must be the name of a timm model, got {name!r}")
    try:
        return timm.create_model(
            name, pretrained=pretrained, features_only=True, in_chans=in_chans, **arguments
        )
    except (
        RuntimeError,
        AttributeError,
        AssertionError,
        TypeError,
        ValueError,
        LookupError,
    ) as error:
        raise ValueError(
            f"backbone must be a timm model that gives feature maps, {name!r} does not"
            f"{f' with {dict(arguments)}' if arguments else ''}: {error}"
        ) from error
