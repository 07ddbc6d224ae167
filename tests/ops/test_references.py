"""The references are right: against finite differences, timm, torchvision and PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Attention, PatchEmbed
from torchvision.models.swin_transformer import shifted_window_attention

from tests.ops import harness
from vitkern import ops
from vitkern.ops.attention.dropout import keep_mask, random_bits

# Tiny, with every option somewhere: finite differences take two evaluations an element.
GRADIENTS: dict[str, dict[str, Any]] = {
    "attention": {"batch": 2, "heads": 1, "queries": 3, "keys": 2, "head_dim": 2},
    "deformable_attention": {
        "batch": 1,
        "shapes": ((2, 3), (3, 1)),
        "queries": 3,
        "heads": 2,
        "head_dim": 2,
        "points": 2,
    },
    "gated_mlp": {"rows": (2,), "dims": (3, 4, 2)},
    "layer_norm": {"shape": (3, 4)},
    "linear": {"rows": (2,), "inputs": 3, "outputs": 2},
    "mlp": {"rows": (2,), "dims": (3, 4, 2)},
    "patch_embed": {"images": (1, 2, 4, 3), "patch": (2, 3), "dim": 2},
    "rotary_attention": {"batch": 2, "heads": 1, "queries": 3, "keys": 3, "head_dim": 4},
    "window_attention": {"batch": 1, "size": (3, 4), "heads": 2, "head_dim": 1, "window": (2, 3)},
}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "attention": [
        {},
        {"bias": (1, 3, 2), "kept": (1, 0), "scale": 0.7},
        {"dropout_p": 0.4, "bias": (3, 1)},
    ],
    "deformable_attention": [{}, {"where": "far"}],
    "gated_mlp": [{"activation": "silu", "gamma": True}, {"residual": False}],
    "layer_norm": [
        {},
        {"residual": True},
        {"affine": False},
        {"residual": True, "drop_path": True},
    ],
    "linear": [
        {"activation": name, "gamma": i % 2 == 0, "residual": i % 2 == 1}
        for i, name in enumerate((None, "gelu", "gelu_tanh", "relu", "silu", "quick_gelu"))
    ],
    "mlp": [{"gamma": True}, {"activation": "silu", "residual": False}],
    "patch_embed": [{}, {"bias": False}],
    "rotary_attention": [
        {"norm": "layer"},
        {"norm": "rms", "rotated": 2, "interleaved": True},
        {"rotated": 3, "planes": (2, 1)},
    ],
    "window_attention": [
        {},
        {"shift": (1, 2), "pad": True},
        {"shift": (1, 1), "pad": True, "pad_first": True},
        {"table": False, "shift": (0, 1), "scale": 0.5},
    ],
}


@pytest.mark.parametrize(
    "op, options", [(op, options) for op in harness.OPS for options in OPTIONS[op]]
)
def test_gradients(op: str, options: dict[str, Any], generator: torch.Generator) -> None:
    case_type = type(harness.cases(op)[0])
    case = case_type(name="tiny", tags=(), **(GRADIENTS[op] | options))
    call = harness.make(op, case, torch.float64)
    leaves = {name: t.requires_grad_() for name, t in harness.floating(call).items()}

    def run(*values: torch.Tensor) -> Any:
        changed = call._replace(**dict(zip(leaves, values, strict=True)))
        return harness.reference(op)(changed)

    assert torch.autograd.gradcheck(run, tuple(leaves.values()))


# Map, window, shift: divided by the window or not, along one axis or both, not square.
MAPS = [
    ((14, 14), (7, 7), (0, 0)),
    ((14, 14), (7, 7), (3, 3)),
    ((8, 12), (4, 4), (2, 2)),
    ((10, 17), (7, 7), (3, 3)),
    ((10, 17), (7, 7), (0, 0)),
    ((9, 20), (4, 5), (2, 0)),
    ((13, 11), (7, 6), (3, 2)),
    ((7, 9), (7, 3), (0, 1)),
]


@pytest.fixture(params=MAPS, ids=str)
def block(request: pytest.FixtureRequest) -> SwinTransformerBlock:
    size, window, shift = request.param
    made = SwinTransformerBlock(
        24, size, 3, window_size=window, shift_size=shift, always_partition=True
    ).double()
    torch.nn.init.normal_(made.attn.relative_position_bias_table)
    torch.nn.init.normal_(made.attn.qkv.bias)
    assert (made.window_size, made.shift_size) == (window, shift)
    return made


def _ours(block: SwinTransformerBlock, x: torch.Tensor, *, pad_first: bool) -> torch.Tensor:
    attn = block.attn
    out = ops.window_attention(
        attn.qkv(x),
        attn.relative_position_bias_table,
        num_heads=3,
        window_size=block.window_size,
        shift_size=block.shift_size,
        pad_value=attn.qkv.bias,
        pad_first=pad_first,
        backend="eager",
    )
    return attn.proj(out)


def test_window_attention_is_timm_s(block: SwinTransformerBlock) -> None:
    x = torch.randn(2, *block.input_resolution, 24, dtype=torch.float64)
    torch.testing.assert_close(_ours(block, x, pad_first=False), block._attn(x))


def test_window_attention_is_torchvision_s(block: SwinTransformerBlock) -> None:
    x = torch.randn(2, *block.input_resolution, 24, dtype=torch.float64)
    attn = block.attn
    expected = shifted_window_attention(
        x,
        attn.qkv.weight,
        attn.proj.weight,
        attn._get_rel_pos_bias(),
        list(block.window_size),
        3,
        list(block.shift_size),
        qkv_bias=attn.qkv.bias,
        proj_bias=attn.proj.bias,
    )
    torch.testing.assert_close(_ours(block, x, pad_first=True), expected)


def test_attention_is_timm_s() -> None:
    module = Attention(24, num_heads=3, qkv_bias=True).double()
    x = torch.randn(2, 11, 24, dtype=torch.float64)
    q, k, v = module.qkv(x).view(2, 11, 3, 3, 8).permute(2, 0, 3, 1, 4).unbind(0)
    out = ops.attention(q, k, v, backend="eager")
    torch.testing.assert_close(module.proj(out.transpose(1, 2).reshape(2, 11, 24)), module(x))


def test_attention_with_a_bias_of_zeros_is_attention_without() -> None:
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (5, 7, 7))
    bias = torch.zeros(5, 7, dtype=torch.float64)
    torch.testing.assert_close(
        ops.attention(q, k, v, bias=bias, backend="eager"), ops.attention(q, k, v, backend="eager")
    )


def test_attention_with_masks_is_pytorch_s() -> None:
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (5, 7, 7))
    bias = torch.randn(3, 5, 7, dtype=torch.float64)
    mask = torch.arange(7) >= torch.tensor([[4], [6]])
    merged = bias.expand(2, -1, -1, -1).masked_fill(mask[:, None, None, :], float("-inf"))
    torch.testing.assert_close(
        ops.attention(q, k, v, bias=bias, key_padding_mask=mask, scale=0.3, backend="eager"),
        F.scaled_dot_product_attention(q, k, v, attn_mask=merged, scale=0.3),
    )


def test_patch_embed_is_timm_s() -> None:
    module = PatchEmbed((12, 20), (4, 5), 3, 16)
    images = torch.randn(2, 3, 12, 20)
    ours = ops.patch_embed(images, module.proj.weight, module.proj.bias, backend="eager")
    torch.testing.assert_close(ours, module(images))


def _hash(seed: int, row: int, column: int) -> int:
    """The dropout hash in Python integers, as csrc/cpu/kernels/dropout.h states it."""
    low = 0xFFFFFFFF

    def mix(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D & low
        x ^= x >> 15
        x = x * 0x846CA68B & low
        return x ^ x >> 16

    x = column * 0x9E3779B1 + (row & low) * 0x85EBCA77 + (row >> 32) * 0xC2B2AE3D + (seed & low)
    return mix(mix(x & low) + (seed >> 32) & low)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 0x0123_4567_89AB_CDEF, 2**63 - 1])
def test_dropout_bits(seed: int) -> None:
    rows = torch.tensor([0, 1, 77, 2**31, 2**32 - 1, 2**32, 2**40 + 12345])
    columns = torch.tensor([0, 1, 196, 2**20 + 1])
    bits = random_bits(torch.tensor([seed]), rows[:, None], columns)
    expected = [[_hash(seed, row, column) for column in columns.tolist()] for row in rows.tolist()]
    assert bits.tolist() == expected


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_statistics(p: float) -> None:
    seeds = torch.randint(2**63 - 1, (2,))
    kept, other = (keep_mask(seed.view(1), 2, 4, 100, 197, p).double() for seed in seeds)
    expected = 1 - p
    deviation = (p * expected) ** 0.5
    for axes in ((0, 1, 2, 3), (0, 1, 2), (0, 1, 3), (2, 3)):
        terms = kept.numel() / max(kept.mean(axes).numel(), 1)
        assert (kept.mean(axes) - expected).abs().max() < 5 * deviation / terms**0.5
    centred, shifted = kept - expected, other - expected
    for one, two in (
        (centred, shifted),
        (centred[..., 1:], centred[..., :-1]),
        (centred[..., 1:, :], centred[..., :-1, :]),
        (centred[:, 1:], centred[:, :-1]),
    ):
        correlation = (one * two).mean() / deviation**2
        assert correlation.abs() < 5 / one.numel() ** 0.5
