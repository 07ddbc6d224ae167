"""Bad arguments raise at the public function, and the message names the argument."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch

from vitkern import UnknownBackend, ops

Z = torch.zeros
INT = torch.zeros(2, 3, dtype=torch.int64)
HALF, BF16, DOUBLE, META = torch.float16, torch.bfloat16, torch.float64, "meta"
QKV = Z(2, 3, 5, 8)


def _window(*shape: int, **options: object) -> torch.Tensor:
    defaults: dict[str, object] = {"num_heads": 2, "window_size": 4}
    return ops.window_attention(Z(*shape), **(defaults | options))  # type: ignore[arg-type]


def _mlp(**changes: object) -> torch.Tensor:
    arguments: dict[str, object] = {
        "x": Z(5, 3), "weight1": Z(4, 3), "bias1": Z(4), "weight2": Z(2, 4), "bias2": Z(2),
    }  # fmt: skip
    return ops.mlp(**(arguments | changes))  # type: ignore[arg-type]


def _deformable(**changes: object) -> torch.Tensor:
    arguments: dict[str, object] = {
        "value": Z(1, 10, 2, 8), "spatial_shapes": ((2, 3), (4, 1)),
        "sampling_locations": Z(1, 3, 2, 2, 4, 2), "attention_weights": Z(1, 3, 2, 2, 4),
    }  # fmt: skip
    # One dict of arguments of several types, some of them wrong on purpose.
    return ops.deformable_attention(**(arguments | changes))  # type: ignore[arg-type]


# What is called, the error, and a pattern that its message matches.
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    # attention
    (lambda: ops.attention([1], QKV, QKV), TypeError, "q must be a tensor, got list"),
    (lambda: ops.attention(INT, QKV, QKV), TypeError, "q must be float32.*got torch.int64"),
    (lambda: ops.attention(QKV, Z(2, 5, 8), QKV), ValueError, "k must have 4 dim.*got 3.*2, 5, 8"),
    (lambda: ops.attention(QKV, Z(2, 3, 5, 7), QKV), ValueError, r"k must have shape \(2, 3, 5, 8"),
    (lambda: ops.attention(QKV, Z(2, 1, 5, 8), QKV), ValueError, r"k must have shape \(2, 3, 5, 8"),
    (lambda: ops.attention(QKV, QKV, Z(2, 3, 6, 8)), ValueError, "v must have shape .*like k"),
    (lambda: ops.attention(*[Z(2, 3, 5, 0)] * 3), ValueError, "q must have a head_dim of at least"),
    (lambda: ops.attention(QKV, QKV.to(HALF), QKV), TypeError, "k is torch.float16 but q is"),
    (lambda: ops.attention(QKV, QKV, QKV.to(META)), ValueError, "v is on meta but q is on cpu"),
    (lambda: ops.attention(QKV, QKV, QKV, bias=Z(5)), ValueError, "bias must have 2 to 4 dim"),
    (lambda: ops.attention(QKV, QKV, QKV, bias=Z(2, 5, 5)), ValueError, r"bias must broadcast to"),
    (lambda: ops.attention(QKV, QKV, QKV, bias=Z(5, 5).bool()), TypeError, "bias must be float32"),
    (lambda: ops.attention(QKV, QKV, QKV, bias=Z(5, 5, dtype=BF16)), TypeError, "bias is torch.bf"),
    (
        lambda: ops.attention(QKV, QKV, QKV, key_padding_mask=Z(2, 5)),
        TypeError,
        "key_padding_mask must be a bool tensor.*got torch.float32",
    ),
    (
        lambda: ops.attention(QKV, QKV, QKV, key_padding_mask=True),
        TypeError,
        "key_padding_mask must be a bool tensor.*got bool",
    ),
    (
        lambda: ops.attention(QKV, QKV, QKV, key_padding_mask=Z(2, 4).bool()),
        ValueError,
        r"key_padding_mask must have shape \(2, 5\) \(batch, keys\), got \(2, 4\)",
    ),
    (
        lambda: ops.attention(QKV, QKV, QKV, key_padding_mask=Z(2, 5).bool().to(META)),
        ValueError,
        "key_padding_mask is on meta",
    ),
    (
        lambda: ops.attention(QKV, QKV, QKV, key_padding_mask=Z(2, 5).bool().to_sparse()),
        TypeError,
        "key_padding_mask must be strided, got layout torch.sparse_coo",
    ),
    (lambda: ops.attention(QKV, QKV, QKV, scale="1"), TypeError, "scale must be a number.*got str"),
    (lambda: ops.attention(QKV, QKV, QKV, dropout_p=1.0), ValueError, "dropout_p must be.*got 1.0"),
    (lambda: ops.attention(QKV, QKV, QKV, dropout_p=-0.1), ValueError, "dropout_p must be"),
    (lambda: ops.attention(QKV, QKV, QKV, dropout_p="a"), TypeError, "dropout_p must be a number"),
    (lambda: ops.attention(QKV, QKV, QKV, scale=math.nan), ValueError, "scale must be finite"),
    (lambda: _window(1, 8, 8, 24, pad_first="no"), TypeError, "pad_first must be True or False"),
    (lambda: ops.layer_norm(QKV, eps="1e-6"), TypeError, "eps must be a number, got str"),
    (lambda: ops.layer_norm(QKV, eps=-1.0), ValueError, "eps must be finite and at least 0"),
    # window_attention
    (lambda: _window(8, 8, 12), ValueError, "qkv must have 4 dimensions, got 3"),
    (lambda: _window(1, 8, 8, 13), ValueError, r"qkv must have a last .* multiple of 3 \* num_h"),
    (lambda: _window(1, 8, 8, 0), ValueError, "qkv must have a last dimension"),
    (lambda: _window(1, 8, 8, 12, num_heads=0), ValueError, "num_heads must be at least 1, got 0"),
    (lambda: _window(1, 8, 8, 12, num_heads=2.0), TypeError, "num_heads must be an int, got float"),
    (lambda: _window(1, 8, 8, 12, window_size=0), ValueError, "window_size must be at least 1"),
    (lambda: _window(1, 8, 8, 12, window_size="7"), TypeError, "window_size must be an int or a"),
    (lambda: _window(1, 8, 8, 12, window_size=(4, 4, 4)), TypeError, "window_size must be an int"),
    (lambda: _window(1, 8, 3, 12), ValueError, r"window_size \(4, 4\) must not be .*\(8, 3\)"),
    (lambda: _window(1, 8, 8, 12, shift_size=4), ValueError, "shift_size must be below.*got 4"),
    (lambda: _window(1, 8, 8, 12, shift_size=(0, 4)), ValueError, "shift_size must be below"),
    (lambda: _window(1, 8, 8, 12, shift_size=-1), ValueError, "shift_size must be at least 0"),
    (
        lambda: _window(1, 8, 8, 12, bias_table=Z(49, 3)),
        ValueError,
        r"bias_table must have shape \(49, 2\).*got \(49, 3\)",
    ),
    (lambda: _window(1, 8, 8, 12, bias_table=Z(49, 2, dtype=DOUBLE)), TypeError, "bias_table is"),
    (lambda: _window(1, 9, 8, 12, pad_value=Z(11)), ValueError, r"pad_value must have shape \(12,"),
    (lambda: _window(1, 9, 8, 12, pad_value=Z(12).to(META)), ValueError, "pad_value is on meta"),
    (lambda: _window(1, 8, 8, 12, scale=[1]), TypeError, "scale must be a number or None"),
    (
        lambda: _window(1, 8, 8, 12, scale=0.5, logit_scale=Z(2)),
        ValueError,
        "scale must be None where logit_scale is given, got 0.5",
    ),
    (lambda: _window(1, 8, 8, 12, logit_scale=9.0), TypeError, "logit_scale must be a tensor"),
    (lambda: _window(1, 8, 8, 12, logit_scale=Z(2, 1, 1)), ValueError, r"logit_scale .*\(2,\)"),
    (lambda: _window(1, 8, 8, 12, logit_scale=Z(2, dtype=HALF)), TypeError, "logit_scale is"),
    # linear
    (lambda: ops.linear(None, Z(2, 3)), TypeError, "x must be a tensor, got NoneType"),
    (lambda: ops.linear(Z(3), Z(3)), ValueError, "weight must have 2 dimensions, got 1"),
    (lambda: ops.linear(Z(5, 4), Z(2, 3)), ValueError, "x must have a last dimension of 3.*5, 4"),
    (lambda: ops.linear(Z(()), Z(2, 3)), ValueError, "x must have a last dimension of 3"),
    (lambda: ops.linear(Z(5, 3), Z(2, 3), Z(3)), ValueError, r"bias must have shape \(2,\)"),
    (lambda: ops.linear(Z(5, 3), Z(2, 3), Z(2, dtype=BF16)), TypeError, "bias is torch.bfloat16"),
    (lambda: ops.linear(INT, Z(2, 3)), TypeError, "x must be float32.*got torch.int64"),
    (
        lambda: ops.linear(Z(5, 3), Z(2, 3), activation="gelu_tahn"),
        ValueError,
        "activation must be None or one of 'gelu'.*did you mean 'gelu_tanh'",
    ),
    (lambda: ops.linear(Z(5, 3), Z(2, 3), gamma=Z(3)), ValueError, r"gamma must have shape \(2,\)"),
    (lambda: ops.linear(Z(5, 3), Z(2, 3), gamma=0.1), TypeError, "gamma must be a tensor"),
    (lambda: ops.linear(Z(5, 3), Z(2, 3), residual=Z(2)), ValueError, r"residual .*shape \(5, 2\)"),
    (lambda: ops.linear(Z(5, 3), Z(2, 3), gamma=Z(2).to(META)), ValueError, "gamma is on meta"),
    # mlp
    (lambda: _mlp(x=Z(5, 4)), ValueError, "x must have a last dimension of 3"),
    (lambda: _mlp(weight1=Z(4)), ValueError, "weight1 must have 2 dimensions"),
    (lambda: _mlp(weight2=Z(2, 5)), ValueError, r"weight2 must have shape \(2, 4\)"),
    (lambda: _mlp(bias1=Z(2)), ValueError, r"bias1 must have shape \(4,\)"),
    (lambda: _mlp(bias2=Z(4)), ValueError, r"bias2 must have shape \(2,\)"),
    (lambda: _mlp(weight2=Z(2, 4, dtype=HALF)), TypeError, "weight2 is torch.float16 but x is"),
    (lambda: _mlp(activation=1), ValueError, "activation must be None or one of"),
    (lambda: _mlp(residual=Z(5, 3)), ValueError, r"residual must have shape \(5, 2\)"),
    # patch_embed
    (lambda: ops.patch_embed(Z(3, 8, 8), Z(2, 3, 4, 4)), ValueError, "images must have 4 dim"),
    (lambda: ops.patch_embed(Z(1, 3, 8, 8), Z(2, 3, 4)), ValueError, "weight must have 4 dim"),
    (lambda: ops.patch_embed(Z(1, 1, 8, 8), Z(2, 3, 4, 4)), ValueError, "images must have 3 chan"),
    (
        lambda: ops.patch_embed(Z(1, 3, 9, 8), Z(2, 3, 4, 4)),
        ValueError,
        "images must have a height that is a multiple of the patch's 4, got 9",
    ),
    (
        lambda: ops.patch_embed(Z(1, 3, 8, 9), Z(2, 3, 4, 4)),
        ValueError,
        "images must have a width that is a multiple of the patch's 4, got 9",
    ),
    (lambda: ops.patch_embed(Z(1, 3, 0, 8), Z(2, 3, 4, 4)), ValueError, "images must have a heigh"),
    (lambda: ops.patch_embed(Z(1, 3, 8, 8), Z(0, 3, 4, 4)), ValueError, "weight must have no emp"),
    (lambda: ops.patch_embed(Z(1, 3, 8, 8), Z(2, 3, 4, 4), Z(3)), ValueError, "bias must have sha"),
    (lambda: ops.patch_embed(Z(1, 3, 8, 8).byte(), Z(2, 3, 4, 4)), TypeError, "images must be flo"),
    # layer_norm
    (lambda: ops.layer_norm(Z(())), ValueError, "x must have a last dimension"),
    (lambda: ops.layer_norm(Z(3, 0)), ValueError, "x must have a last dimension"),
    (lambda: ops.layer_norm(Z(3, 4), Z(3)), ValueError, r"weight must have shape \(4,\)"),
    (lambda: ops.layer_norm(Z(3, 4), Z(4, dtype=BF16)), TypeError, "weight is torch.bfloat16"),
    (lambda: ops.layer_norm(Z(3, 4), None, Z(4).to(META)), ValueError, "bias is on meta"),
    (lambda: ops.layer_norm(Z(3, 4), residual=Z(4)), ValueError, "residual must have shape"),
    # deformable_attention
    (lambda: _deformable(value=Z(1, 16, 8)), ValueError, "value must have 4 dimensions, got 3"),
    (lambda: _deformable(value=Z(1, 10, 2, 0)), ValueError, "value must have at least one head"),
    (lambda: _deformable(value=INT), TypeError, "value must be float32.*got torch.int64"),
    (lambda: _deformable(spatial_shapes=((2, 3),)), ValueError, "have 6 pixels .*value has 10"),
    (lambda: _deformable(spatial_shapes=()), ValueError, "spatial_shapes must have at least one l"),
    (lambda: _deformable(spatial_shapes=((5, 2), (0, 1))), ValueError, "sizes of at least 1, got"),
    (lambda: _deformable(spatial_shapes=((5, 4), (5, -2))), ValueError, "sizes of at least 1, got"),
    (lambda: _deformable(spatial_shapes=INT), TypeError, r"got a tensor: .*spatial_shapes.tolist"),
    (lambda: _deformable(spatial_shapes=10), TypeError, r"\(height, width\) pairs of ints, got "),
    (lambda: _deformable(spatial_shapes=(5, 2)), TypeError, r"pairs of ints, got \(5, 2\)"),
    (lambda: _deformable(spatial_shapes=((5.0, 2),)), TypeError, r"pairs of ints, got \(\(5.0, 2"),
    (
        lambda: _deformable(sampling_locations=Z(1, 3, 2, 2, 4, 3)),
        ValueError,
        r"sampling_locations must have shape \(1, 3, 2, 2, 4, 2\)",
    ),
    (
        lambda: _deformable(sampling_locations=Z(1, 3, 2, 1, 4, 2)),
        ValueError,
        r"sampling_locations must have shape \(1, 3, 2, 2, 4, 2\).*a level for each",
    ),
    (
        lambda: _deformable(sampling_locations=Z(1, 3, 2, 2, 4)),
        ValueError,
        "sampling_locations must have 6 dimensions, got 5",
    ),
    (
        lambda: _deformable(sampling_locations=Z(1, 3, 2, 2, 0, 2)),
        ValueError,
        "sampling_locations must have at least one point",
    ),
    (
        lambda: _deformable(attention_weights=Z(1, 3, 2, 8)),
        ValueError,
        r"attention_weights must have shape \(1, 3, 2, 2, 4\)",
    ),
    (
        lambda: _deformable(sampling_locations=Z(1, 3, 2, 2, 4, 2).to(BF16)),
        TypeError,
        "sampling_locations is torch.bfloat16 but value is torch.float32",
    ),
    (
        lambda: _deformable(attention_weights=Z(1, 3, 2, 2, 4).double()),
        TypeError,
        "attention_weights is torch.float64 but value is torch.float32",
    ),
    (
        lambda: _deformable(attention_weights=Z(1, 3, 2, 2, 4).to(META)),
        ValueError,
        "attention_weights is on meta but value is on cpu",
    ),
    # backends
    (lambda: ops.layer_norm(Z(3, 4), backend="cup"), UnknownBackend, "did you mean 'cpu'"),
    (lambda: ops.layer_norm(Z(3, 4), backend=3), TypeError, "backend must be a string or None"),
]  # fmt: skip


@pytest.mark.parametrize("call, error, pattern", BAD, ids=[row[2] for row in BAD])
def test_bad_argument(call: Callable[[], object], error: type[Exception], pattern: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert re.search(pattern, str(caught.value)), str(caught.value)
