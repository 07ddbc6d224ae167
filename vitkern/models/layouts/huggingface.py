"""Hugging Face's ViT, Swin and Swinv2, with or without a classifier.

Two generations of keys are known: those that files on the hub have, and those of the modules in
transformers 5. Their ViT's norms add 1e-12 to the variance unless the configuration says otherwise,
ours 1e-6: logits then agree to about that.
"""

from __future__ import annotations

import re

import torch

from vitkern.models.layouts._renaming import Rules, Weights, renamed, without

_BLOCK_RULES: Rules = (
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.attention\.(?:(?:self|attention)\.)?(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
)
_VIT_RULES: Rules = (
    (r"^vit\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    *_BLOCK_RULES,
    (r"^classifier\.", "head."),
)
_SWIN_RULES: Rules = (
    (r"^(swin|swinv2)\.", ""),
    (r"^encoder\.layers\.", "layers."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    *_BLOCK_RULES,
    (r"\.attention\.(?:self|relative_position_bias)\.", ".attn."),
    (r"\.attn\.continuous_position_bias_mlp\.", ".attn.cpb_mlp."),
    (r"^classifier\.", "head.fc."),
)
_CONSTANTS = ("relative_position_index", "relative_coords_table")
_SWIN_MARK = "embeddings.patch_embeddings.projection.weight"


def is_vit(weights: Weights) -> bool:
    """Whether the keys are those of their ViT."""
    return "vit.embeddings.cls_token" in weights or "embeddings.cls_token" in weights


def is_swin(weights: Weights) -> bool:
    """Whether the keys are those of their Swin or Swinv2."""
    return any(prefix + _SWIN_MARK in weights for prefix in ("swin.", "swinv2.", ""))


def vit(weights: Weights) -> dict[str, torch.Tensor]:
    """The same weights under the keys of our ViT; their pooler, which we do not have, is left out.

    Raises:
        ValueError: two keys become one, or q, k and v do not belong together.
    """
    kept = {k: v for k, v in weights.items() if not k.startswith(("vit.pooler.", "pooler."))}
    return _fused(renamed(kept, _VIT_RULES))


def swin(weights: Weights) -> dict[str, torch.Tensor]:
    """The same weights under the keys of our Swin.

    Raises:
        ValueError: as :func:`vit`.
    """
    return _fused(_swin(weights))


def swin_v2(weights: Weights) -> dict[str, torch.Tensor]:
    """The same weights under the keys of our Swin V2, whose k has no bias.

    Raises:
        ValueError: as :func:`vit`.
    """
    rules: Rules = (
        (r"\.attn\.query\.bias$", ".attn.q_bias"),
        (r"\.attn\.value\.bias$", ".attn.v_bias"),
    )
    return _fused(renamed(_swin(weights), rules))


def _swin(weights: Weights) -> dict[str, torch.Tensor]:
    """Our keys, but for q, k and v; stages merge patches at their end, ours at their beginning."""
    return {
        re.sub(
            r"^layers\.(\d+)\.downsample\.",
            lambda match: f"layers.{int(match[1]) + 1}.downsample.",
            key,
        ): value
        for key, value in renamed(without(weights, _CONSTANTS), _SWIN_RULES).items()
    }


def _fused(weights: Weights) -> dict[str, torch.Tensor]:
    """q, k and v as one: ``attn.query``, ``attn.key`` and ``attn.value`` become ``attn.qkv``.

    Raises:
        ValueError: one of the three is missing, or they have different shapes.
    """
    result: dict[str, torch.Tensor] = {}
    for key, value in weights.items():
        match = re.fullmatch(r"(.*\.attn\.)(query|key|value)\.(weight|bias)", key)
        if match is None:
            result[key] = value
            continue
        prefix, _, kind = match.groups()
        names = [f"{prefix}{part}.{kind}" for part in ("query", "key", "value")]
        parts = [weights[name] for name in names if name in weights]
        if len(parts) < 3 or len({part.shape for part in parts}) > 1:
            got = ", ".join(f"{n} {tuple(weights[n].shape)}" for n in names if n in weights)
            raise ValueError(f"q, k and v must all be there and have one shape, got {got}")
        if key == names[0]:
            result[f"{prefix}qkv.{kind}"] = torch.cat(parts)
    return result
