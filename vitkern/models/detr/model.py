"""DETR: objects of an image as a set, without anchors and without suppression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.models import _check
from vitkern.models._recompute import Recomputing
from vitkern.models.detr.backbone import TimmBackbone
from vitkern.models.detr.position import sine_positions, unpadded_sine_positions
from vitkern.models.detr.transformer import Decoder, Encoder


class LayerDetections(TypedDict):
    """What one decoder layer says of B images with Q queries each.

    ``pred_logits`` is (B, Q, num_classes + 1), the last class meaning "no object"; ``pred_boxes``
    is (B, Q, 4) as (centre x, centre y, width, height), in shares of the image without its padding.
    """

    pred_logits: torch.Tensor
    pred_boxes: torch.Tensor


class Detections(LayerDetections, total=False):
    """What the last decoder layer says, and under ``aux_outputs`` what the others say, first layer
    first."""

    aux_outputs: list[LayerDetections]


class DETR(Recomputing):
    """A convolutional backbone, a transformer, and a class and a box for each object query.

    Carion et al., "End-to-End Object Detection with Transformers", 2020 (arXiv 2005.12872). The
    defaults are those of the published DETR with ResNet-50 on COCO.

    Args:
        backbone: a timm model that gives feature maps.
        num_classes: classes, without "no object".
        in_chans: image channels.
        num_queries: how many objects an image can have.
        embed_dim: channels of the transformer's tokens; a multiple of 4.
        encoder_depth: encoder layers.
        decoder_depth: decoder layers.
        num_heads: attention heads; must divide ``embed_dim``.
        mlp_dim: hidden channels of the MLPs.
        drop_rate: dropout rate in the transformer.
        attn_drop_rate: dropout rate of the attention weights.
        aux_loss: return the predictions of every decoder layer, for a loss on each.
        pretrained_backbone: load timm's weights of the backbone.
        frozen_batch_norm, freeze_stem: as :class:`TimmBackbone`.
        backbone_arguments: further ones of the backbone, as its ``arguments``.

    Raises:
        ImportError: timm is not installed.
        TypeError: counts that are not ints.
        ValueError: counts out of range, ``num_heads`` that does not divide ``embed_dim``, a rate
            outside [0, 1), or an unknown backbone.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 91,
        in_chans: int = 3,
        *,
        num_queries: int = 100,
        embed_dim: int = 256,
        encoder_depth: int = 6,
        decoder_depth: int = 6,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        drop_rate: float = 0.1,
        attn_drop_rate: float = 0.0,
        aux_loss: bool = True,
        pretrained_backbone: bool = False,
        frozen_batch_norm: bool = True,
        freeze_stem: bool | None = None,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check.integer("num_classes", num_classes, minimum=1)
        _check.integer("num_queries", num_queries, minimum=1)
        _check.heads("embed_dim", embed_dim, num_heads)
        if embed_dim % 4:
            raise ValueError(f"embed_dim must be a multiple of 4, got {embed_dim}")
        _check.integer("mlp_dim", mlp_dim, minimum=1)
        _check.integer("encoder_depth", encoder_depth, minimum=0)
        _check.integer("decoder_depth", decoder_depth, minimum=1)
        _check.rate("drop_rate", drop_rate)
        _check.rate("attn_drop_rate", attn_drop_rate)
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.embed_dim = embed_dim
        self.aux_loss = aux_loss

        rates = {"drop": drop_rate, "attn_drop": attn_drop_rate}
        self.backbone = TimmBackbone(
            backbone,
            in_chans,
            pretrained=pretrained_backbone,
            frozen_batch_norm=frozen_batch_norm,
            freeze_stem=freeze_stem,
            arguments=backbone_arguments,
        )
        self.input_proj = nn.Conv2d(self.backbone.num_features, embed_dim, kernel_size=1)
        self.query_embed = nn.Embedding(num_queries, embed_dim)
        self.encoder = Encoder(encoder_depth, embed_dim, num_heads, mlp_dim, **rates)
        self.decoder = Decoder(decoder_depth, embed_dim, num_heads, mlp_dim, **rates)
        self.class_head = nn.Linear(embed_dim, num_classes + 1)
        self.box_head = BoxHead(embed_dim)
        for part in (self.encoder, self.decoder):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, images: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Detections:
        """Classes and boxes.

        Args:
            images: (B, in_chans, H, W), floating point; smaller ones padded at the bottom and
                right, as by :func:`pad_images`.
            padding_mask: (B, H, W), bool; True is padding. None where there is none.

        Returns:
            :class:`Detections`, with ``aux_outputs`` where ``aux_loss`` is on.

        Raises:
            TypeError: images that are not a floating-point tensor, or a mask that is not bool.
            ValueError: images of another rank or number of channels, or a mask of another shape.
        """
        height, width = _check.images(images, self.backbone.in_chans)
        if padding_mask is not None:
            _check.boolean_mask("padding_mask", padding_mask, (images.shape[0], height, width))
        queries = self.forward_features(images, padding_mask)
        logits, boxes = self.class_head(queries), self.box_head(queries).sigmoid()
        detections: Detections = {"pred_logits": logits[-1], "pred_boxes": boxes[-1]}
        if self.aux_loss:
            detections["aux_outputs"] = [
                {"pred_logits": layer_logits, "pred_boxes": layer_boxes}
                for layer_logits, layer_boxes in zip(logits[:-1], boxes[:-1], strict=True)
            ]
        return detections

    def forward_features(
        self, images: torch.Tensor, padding_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The queries after each decoder layer, or after the last alone without ``aux_loss``.

        Args:
            images, padding_mask: as :meth:`forward`.

        Returns:
            (decoder_depth or 1, B, num_queries, embed_dim), normalised.
        """
        features = self.input_proj(self.backbone(images))
        tokens = features.flatten(2).transpose(1, 2)
        rows, columns = features.shape[2:]
        mask = None
        if padding_mask is None:
            position = unpadded_sine_positions(
                rows, columns, self.embed_dim, tokens.device, tokens.dtype
            )
        else:
            # Nearest: a token is padding where its top left pixel is.
            small = F.interpolate(padding_mask[None].float(), size=(rows, columns))[0].bool()
            position = sine_positions(small, self.embed_dim, tokens.dtype)
            mask = small.flatten(1)
        memory = self.encoder(tokens, position, mask)
        queries = self.decoder(self.query_embed.weight[None], memory, position, mask)
        return queries if self.aux_loss else queries[-1:]


class BoxHead(nn.Module):
    """Three linear layers with ReLU between them, to the four numbers of a box.

    Args:
        dim: channels of the input and of the hidden layers.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., dim) -> (..., 4), before the sigmoid."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))
