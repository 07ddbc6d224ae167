"""Bad arguments of fused blocks raise, and the message names the argument."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from tests.ops import harness
from vitkern import ops

OPS = harness.BLOCKS
BF16 = torch.bfloat16
Z = torch.zeros


def _block(op: str, **changes: object) -> Callable[[], object]:
    c = 4
    arguments: dict[str, object] = {
        "x": Z(2, 8, 8, c) if op == "window_attention_block" else Z(2, 8, c),
        "norm_weight": Z(c), "norm_bias": Z(c), "gamma": Z(c),
    }  # fmt: skip
    if op == "mlp_block":
        arguments |= {"weight1": Z(6, c), "bias1": Z(6), "weight2": Z(c, 6), "bias2": Z(c)}
    else:
        arguments |= {"qkv_weight": Z(12, c), "qkv_bias": Z(12), "num_heads": 2}
        arguments |= {"proj_weight": Z(c, c), "proj_bias": Z(c)}
    if op == "window_attention_block":
        arguments |= {"bias_table": Z(49, 2), "window_size": 4}
    return lambda: getattr(ops, op)(**(arguments | changes))


A, M, W = OPS
BAD: list[tuple[str, dict[str, object], type[Exception], str]] = [
    *(
        row
        for op in OPS
        for row in (
            (op, {"x": [1]}, TypeError, "x must be a tensor, got list"),
            (op, {"x": Z(2, 8, 8, 4).int()}, TypeError, "x must be float32.*got torch.int32"),
            (op, {"norm_weight": Z(5)}, ValueError, r"norm_weight must have shape \(4,\).*\(5,\)"),
            (op, {"norm_bias": 0.0}, TypeError, "norm_bias must be a tensor, got float"),
            (op, {"norm_bias": Z(4).double()}, TypeError, "norm_bias is torch.float64 but x is"),
            (op, {"norm_weight": Z(4).to(BF16)}, TypeError, "norm_weight is torch.bfloat16 but x"),
            (op, {"norm_weight": Z(4, device="meta")}, ValueError, "norm_weight is on meta but x"),
            (op, {"gamma": Z(1)}, ValueError, r"gamma must have shape \(4,\)"),
            (op, {"gamma": Z(4).int()}, TypeError, "gamma must be float32.*got torch.int32"),
            (op, {"gamma": Z(4, device="meta")}, ValueError, "gamma is on meta but x is on cpu"),
            (op, {"backend": "cup"}, ValueError, "did you mean 'cpu'"),
        )
    ),
    *(
        row
        for op in (A, W)
        for row in (
            (op, {"qkv_weight": None}, TypeError, "qkv_weight must be a tensor, got NoneType"),
            (op, {"qkv_weight": Z(9, 4)}, ValueError, r"qkv_weight must have shape \(12, 4\)"),
            (op, {"qkv_weight": Z(12, 4).to(BF16)}, TypeError, "qkv_weight is torch.bfloat16 but"),
            (op, {"qkv_bias": Z(4)}, ValueError, r"qkv_bias must have shape \(12,\)"),
            (op, {"proj_weight": None}, TypeError, "proj_weight must be a tensor, got NoneType"),
            (op, {"proj_weight": Z(4)}, ValueError, r"proj_weight must have shape \(4, 4\)"),
            (op, {"proj_bias": Z(4).double()}, TypeError, "proj_bias is torch.float64 but x"),
            (op, {"num_heads": 3}, ValueError, "x must have a last .* multiple of num_heads = 3"),
            (op, {"num_heads": 0}, ValueError, "num_heads must be at least 1, got 0"),
            (op, {"num_heads": 2.0}, TypeError, "num_heads must be an int, got float"),
            (op, {"num_heads": True}, TypeError, "num_heads must be an int, got bool"),
            (op, {"scale": "1"}, TypeError, "scale must be a number or None, got str"),
        )
    ),
    (A, {"x": Z(8, 4)}, ValueError, "x must have 3 dimensions, got 2"),
    (A, {"x": Z(2, 8, 0)}, ValueError, "x must have a last dimension"),
    (W, {"x": Z(2, 8, 4)}, ValueError, "x must have 4 dimensions, got 3"),
    (W, {"bias_table": Z(49, 3)}, ValueError, r"bias_table must have shape \(49, 2\)"),
    (W, {"bias_table": Z(49, 2).to(BF16)}, TypeError, "bias_table is torch.bfloat16 but x is"),
    (W, {"window_size": 9}, ValueError, r"window_size \(9, 9\) must not be larger.*\(8, 8\)"),
    (W, {"window_size": "4"}, TypeError, "window_size must be an int or a"),
    (W, {"shift_size": 4}, ValueError, "shift_size must be below window_size"),
    (M, {"x": Z(())}, ValueError, "x must have a last dimension of at least 1"),
    (M, {"x": Z(3, 0)}, ValueError, "x must have a last dimension of at least 1"),
    (M, {"x": Z(3, 5)}, ValueError, r"norm_weight must have shape \(5,\) \(x is \(3, 5\)\), got"),
    (M, {"weight1": None}, TypeError, "weight1 must be a tensor, got NoneType"),
    (M, {"weight1": Z(6)}, ValueError, "weight1 must have 2 dimensions, got 1"),
    (M, {"weight1": Z(6, 5)}, ValueError, r"weight1 must have shape \(6, 4\)"),
    (M, {"bias1": Z(4)}, ValueError, r"bias1 must have shape \(6,\)"),
    (M, {"weight2": None}, TypeError, "weight2 must be a tensor, got NoneType"),
    (M, {"weight2": Z(5, 6)}, ValueError, r"weight2 must have shape \(4, 6\)"),
    (M, {"bias2": Z(6)}, ValueError, r"bias2 must have shape \(4,\)"),
    (M, {"activation": "gelu_tahn"}, ValueError, "did you mean 'gelu_tanh'"),
]


@pytest.mark.parametrize("op, changes, error, pattern", BAD, ids=[f"{r[0]}-{r[3]}" for r in BAD])
def test_bad_argument(
    op: str, changes: dict[str, object], error: type[Exception], pattern: str
) -> None:
    _block(op)()
    with pytest.raises(error) as caught:
        _block(op, **changes)()
    assert re.search(pattern, str(caught.value)), str(caught.value)
