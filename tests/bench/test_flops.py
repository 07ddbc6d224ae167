"""Counts of operations against formulas by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import vitkern
from tests.ops import harness
from vitkern.bench.flops import model_flops, op_flops
from vitkern.bench.models import create


def vit(batch: int, tokens: int, dim: int, depth: int, patches: int, classes: int = 1000) -> int:
    """Multiply-adds of a ViT with 16×16 patches, times two."""
    embed = patches * (3 * 16 * 16) * dim
    products = tokens * (3 * dim * dim + dim * dim + 8 * dim * dim)
    attention = 2 * tokens * tokens * dim
    return 2 * batch * (embed + depth * (products + attention) + dim * classes)


def swin(batch: int, dim: int, depths: tuple[int, ...], size: int = 56, window: int = 7) -> int:
    """Multiply-adds of a Swin Transformer with 4×4 patches, times two."""
    total = size * size * 48 * dim
    for stage, depth in enumerate(depths):
        width, tokens = dim << stage, (size >> stage) ** 2
        total += depth * tokens * (12 * width * width + 2 * window * window * width)
        if stage > 0:
            total += tokens * (2 * width) * width  # merging: four neighbours of half the width
    return 2 * batch * (total + (dim << len(depths) - 1) * 1000)


def test_vit_small_at_batch_8() -> None:
    model = create("vit_small_patch16_224").eval()
    count = model_flops(model, torch.empty(8, 3, 224, 224))
    assert count == vit(8, tokens=197, dim=384, depth=12, patches=196)
    assert count / 1e9 == pytest.approx(73.6, abs=0.05)  # 36.8 G multiply-adds


def test_swin_tiny_at_batch_8() -> None:
    model = create("swin_tiny_patch4_window7_224").eval()
    count = model_flops(model, torch.empty(8, 3, 224, 224))
    assert count == swin(8, 96, (2, 2, 6, 2))
    assert count / 1e9 == pytest.approx(71.8, abs=0.1)  # 35.9 G multiply-adds


def test_backward_counts_both_gradients_of_each_product() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    x = torch.empty(5, 8)
    forward = 2 * 5 * (8 * 16 + 16 * 4)
    assert model_flops(model, x) == forward
    # The first layer's input needs no gradient.
    assert model_flops(model, x, backward=True) == 3 * forward - 2 * 5 * 8 * 16
    x.requires_grad_()
    assert model_flops(model, x, backward=True) == 3 * forward


def test_a_patched_model_counts_as_what_it_is() -> None:
    model = create("vit_tiny_patch16_224").eval()
    images = torch.empty(1, 3, 224, 224)
    before = model_flops(model, images)
    with vitkern.patched(model, backend="eager"):
        assert model_flops(model, images) == before
        assert "forward" in model.blocks[0].__dict__  # and it stays patched


EXPECTED = {
    "linear": lambda c: 2 * c.x.numel() * c.weight.shape[0],
    "mlp": lambda c: 2 * c.x.numel() // c.x.shape[-1] * (c.weight1.numel() + c.weight2.numel()),
    "attention": lambda c: 4 * c.q.numel() * c.k.shape[2],
    "patch_embed": lambda c: 2 * c.images.numel() * c.weight.shape[0],
    "layer_norm": lambda c: 0,
    "window_attention": lambda c: 4 * c.qkv.numel() // 3 * c.window[0] * c.window[1],
    "attention_block": lambda c: c.x.numel() * (8 * c.x.shape[2] + 4 * c.x.shape[1]),
}


@pytest.mark.parametrize(
    "op, case", [(op, harness.cases(op, "model")[0]) for op in EXPECTED], ids=list(EXPECTED)
)
def test_ops(op: str, case: Any) -> None:
    call = harness.make(op, case)
    assert op_flops(op, call) == EXPECTED[op](call)


def test_inputs_that_require_a_gradient_do_not_disturb_a_forward() -> None:
    """As the latent query of an attention pool: the counter cannot hook these."""

    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latent = nn.Parameter(torch.zeros(1, 2, 8))
            self.q = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            query: torch.Tensor = self.q(self.latent.expand(x.shape[0], -1, -1))
            return query

    assert model_flops(Pool(), torch.empty(3, 8)) == 2 * 3 * 2 * 8 * 4
