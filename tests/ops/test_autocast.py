"""Under autocast ops give what PyTorch's own layers give: the same dtypes, much the same values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from tests.ops import harness
from vitkern import ops

BF16, F32 = torch.bfloat16, torch.float32
DEVICE = harness.DEVICE


def _autocast() -> torch.autocast:
    return torch.autocast(DEVICE.type, dtype=BF16)


def _leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in shapes]


def _same(
    ours: Callable[[], torch.Tensor], theirs: Callable[[], torch.Tensor], leaves: list[torch.Tensor]
) -> torch.Tensor:
    with _autocast():
        got, expected = ours(), theirs()
    assert got.dtype == expected.dtype
    # Both sides round their own sums to bfloat16 on the way: two units of the largest value. (On an
    # H100 one element of mlp's 160 was off by 0.10.)
    atol = 2 * torch.finfo(BF16).eps * expected.abs().max().item()
    torch.testing.assert_close(got, expected, rtol=0.02, atol=atol)
    upstream = torch.randn_like(got)
    for one, other in zip(
        torch.autograd.grad(got, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
        strict=True,
    ):
        assert one.dtype == other.dtype == F32
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.03 * other.abs().max().item())
    return got


@pytest.mark.parametrize("backend", harness.backends("linear"))
def test_linear(backend: str) -> None:
    x, w, b = _leaves((2, 5, 16), (24, 16), (24,))
    got = _same(
        lambda: ops.linear(x, w, b, activation="gelu", backend=backend),
        lambda: F.gelu(F.linear(x, w, b)),
        [x, w, b],
    )
    assert got.dtype == BF16


@pytest.mark.parametrize("backend", harness.backends("linear"))
def test_linear_with_a_float32_residual(backend: str) -> None:
    x, w, b, g, r = _leaves((2, 5, 16), (24, 16), (24,), (24,), (2, 5, 24))
    got = _same(
        lambda: ops.linear(x, w, b, gamma=g, residual=r, backend=backend),
        lambda: r + F.linear(x, w, b) * g,
        [x, w, b, g, r],
    )
    assert got.dtype == F32


@pytest.mark.parametrize("backend", harness.backends("mlp"))
def test_mlp(backend: str) -> None:
    x, w1, b1, w2, b2 = _leaves((2, 5, 16), (32, 16), (32,), (16, 32), (16,))
    got = _same(
        lambda: ops.mlp(x, w1, b1, w2, b2, residual=x, backend=backend),
        lambda: x + F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2),
        [x, w1, b1, w2, b2],
    )
    assert got.dtype == F32


@pytest.mark.parametrize("backend", harness.backends("patch_embed"))
def test_patch_embed(backend: str) -> None:
    x, w, b = _leaves((2, 3, 8, 12), (16, 3, 4, 4), (16,))
    got = _same(
        lambda: ops.patch_embed(x, w, b, backend=backend),
        lambda: F.conv2d(x, w, b, stride=4).flatten(2).transpose(1, 2),
        [x, w, b],
    )
    assert got.dtype == BF16


@pytest.mark.parametrize("backend", harness.backends("attention"))
def test_attention(backend: str) -> None:
    q, k, v, bias = _leaves((2, 3, 9, 16), (2, 3, 11, 16), (2, 3, 11, 16), (3, 9, 11))
    got = _same(
        lambda: ops.attention(q, k, v, bias=bias, backend=backend),
        lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(2, -1, -1, -1)),
        [q, k, v, bias],
    )
    assert got.dtype == BF16


@pytest.mark.parametrize("backend", harness.backends("window_attention"))
def test_window_attention(backend: str) -> None:
    qkv, table, pad = _leaves((2, 7, 9, 24), (49, 2), (24,))
    options = {"num_heads": 2, "window_size": 4, "shift_size": 2}
    got = _same(
        lambda: ops.window_attention(qkv, table, pad_value=pad, **options, backend=backend),
        lambda: ops.window_attention(
            qkv.bfloat16(), table.bfloat16(), pad_value=pad.bfloat16(), **options, backend="eager"
        ),
        [qkv, table, pad],
    )
    assert got.dtype == BF16


@harness.of("deformable_attention")
def test_deformable_attention_keeps_the_dtype(backend: str, dtype: torch.dtype) -> None:
    """A sum over float32 locations stays float32; narrower ones are taken in value's dtype."""
    (case,) = (c for c in harness.cases("deformable_attention") if c.name == "as-detr")
    call = harness.make("deformable_attention", case, dtype)
    expected = ops.deformable_attention(*call, backend=backend)
    narrow = call.attention_weights.bfloat16()
    with _autocast():
        torch.testing.assert_close(ops.deformable_attention(*call, backend=backend), expected)
        got = ops.deformable_attention(*call[:3], narrow, backend=backend)
    assert got.dtype == expected.dtype == dtype
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.03)


@harness.of("layer_norm")
def test_layer_norm_keeps_the_dtype(backend: str, dtype: torch.dtype) -> None:
    """On the CPU autocast leaves layer_norm alone."""
    if harness.ON_GPU and dtype != F32:
        pytest.xfail("CUDA's autocast computes layer_norm in float32, ops.layer_norm in x's dtype")
    x, w, b = (torch.randn(shape, device=DEVICE) for shape in ((5, 48), (48,), (48,)))
    x = x.to(dtype)
    with _autocast():
        got = ops.layer_norm(x, w, b, backend=backend)
        expected = F.layer_norm(x, (48,), w, b)
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected)


def test_float64_is_left_alone() -> None:
    x, w = (torch.randn(n, 4, dtype=torch.float64, device=DEVICE) for n in (3, 2))
    with _autocast():
        assert ops.linear(x, w).dtype == F.linear(x, w).dtype == torch.float64


def test_other_dtypes_go_together_under_autocast_only() -> None:
    x, w = torch.randn(3, 4, device=DEVICE), torch.randn(2, 4, device=DEVICE).bfloat16()
    with _autocast():
        assert ops.linear(x, w).dtype == BF16
    with pytest.raises(TypeError, match=r"weight is torch\.bfloat16 but x"):
        ops.linear(x, w)
