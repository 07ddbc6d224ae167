"""Blocks that are recomputed in the backward pass give what they gave before."""

from __future__ import annotations

import pytest
import torch

from vitkern.models import (
    DETR,
    AdaptiveViT,
    MedicalViT,
    SwinTransformer,
    SwinTransformerV2,
    VisionTransformer,
    create_model,
)

SWIN = {"embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4), "window_size": 4}
BACKBONE = {
    "out_indices": [2],
    "layers": [1, 1, 1, 1],
    "channels": [8, 16, 16, 16],
    "stem_width": 8,
}


def vit():
    return VisionTransformer(
        16, 4, 1, 3, embed_dim=16, depth=3, num_heads=2, attn_drop_rate=0.2, drop_path_rate=0.5
    )


def swin():
    return SwinTransformer(16, 2, 1, 3, proj_drop_rate=0.2, drop_path_rate=0.5, **SWIN)


def swin_v2():
    return SwinTransformerV2(16, 2, 1, 3, proj_drop_rate=0.2, drop_path_rate=0.5, **SWIN)


def detr():
    return DETR(
        "resnet18", 3, 1, num_queries=4, embed_dim=16, encoder_depth=2, decoder_depth=2,
        num_heads=2, mlp_dim=32, drop_rate=0.2, backbone_arguments=BACKBONE,
    )  # fmt: skip


def outputs(model, images):
    """One tensor, whatever the model gives."""
    found = model(images)
    return found if isinstance(found, torch.Tensor) else found["pred_boxes"]


@pytest.mark.parametrize("make, side", [(vit, 16), (swin, 16), (swin_v2, 16), (detr, 64)])
def test_recomputed_blocks(make, side):
    torch.manual_seed(1)
    model = make().double().train()
    images = torch.randn(2, 1, side, side, dtype=torch.float64)
    stacks = ("blocks", "layers")
    blocks = [
        block
        for name, stack in model.named_modules()
        if name.rpartition(".")[2] in stacks and ("box_head" not in name)
        for block in stack.children()
        if not hasattr(block, "blocks")  # a stage of a Swin
        and "backbone" not in name
    ]
    calls = []
    for block in blocks:
        block.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    results = []
    for wanted in (False, True, False):
        model.set_grad_checkpointing(wanted)
        model.zero_grad()
        calls.clear()
        torch.manual_seed(2)
        out = outputs(model, images)
        assert len(calls) == len(blocks) >= 3
        out.square().sum().backward()
        assert len(calls) == len(blocks) * (2 if wanted else 1)
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        results.append([out.detach(), *grads])
    for one, two in zip(results[0], results[1], strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    with torch.no_grad():
        model.set_grad_checkpointing()
        calls.clear()
        outputs(model, images)
    assert len(calls) == len(blocks)


@pytest.mark.parametrize("cls", [AdaptiveViT, MedicalViT])
def test_other_models_have_it(cls):
    assert callable(cls.set_grad_checkpointing)


def test_state_is_what_it_was():
    model = create_model("vit_tiny_patch16_224", depth=1)
    assert "blocks.0.norm1.weight" in model.state_dict()
    assert not any("checkpoint" in name for name in model.state_dict())
