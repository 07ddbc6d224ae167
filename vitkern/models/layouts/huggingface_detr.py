"""Hugging Face's ``DetrForObjectDetection`` as our DETR."""

from __future__ import annotations

import torch

from vitkern.models.layouts._renaming import Rules, Weights, renamed

_MARK = "class_labels_classifier.weight"

# Older checkpoints keep the backbone under conv_encoder, the MLP's layers in the layer itself, and
# call the attention's projection out_proj.
_RULES: Rules = (
    (r"^model\.backbone\.(conv_encoder\.)?model\.", "backbone.body."),
    (r"^model\.input_projection\.", "input_proj."),
    (r"^model\.query_position_embeddings\.", "query_embed."),
    (r"^model\.(encoder|decoder)\.", r"\1."),
    (r"^decoder\.layernorm\.", "decoder.norm."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"^(encoder\..*)\.final_layer_norm\.", r"\1.norm2."),
    (r"^(decoder\..*)\.final_layer_norm\.", r"\1.norm3."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"_attn\.(o_proj|out_proj)\.", "_attn.proj."),
    (r"^((?:en|de)coder\.layers\.\d+)\.(fc[12])\.", r"\1.mlp.\2."),
    (r"^class_labels_classifier\.", "class_head."),
    (r"^bbox_predictor\.", "box_head."),
)


def recognises(weights: Weights) -> bool:
    """Whether the keys are those of ``DetrForObjectDetection``."""
    return _MARK in weights


def convert(weights: Weights) -> dict[str, torch.Tensor]:
    """The same weights under our DETR's keys.

    Raises:
        ValueError: two keys become one.
    """
    kept = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    return renamed(kept, _RULES)
