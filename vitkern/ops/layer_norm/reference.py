"""``layer_norm`` in plain PyTorch: the oracle, and the ``eager`` backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vitkern.dispatch import Backend
from vitkern.ops.layer_norm.call import LayerNormCall, scaled

Output = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


def reference(call: LayerNormCall) -> Output:
    """``y``, or ``(y, x + residual_scale * residual)`` where a residual is given."""
    x = call.x
    if call.residual is not None:
        x = x + scaled(call.residual, call.residual_scale)
    weight, bias = call.weight, call.bias
    if any(p is not None and p.dtype != x.dtype for p in (weight, bias)):
        # Beside a half-precision x PyTorch takes float32 parameters only as a pair.
        shape, wide = x.shape[-1:], torch.float32
        weight = x.new_ones(shape, dtype=wide) if weight is None else weight.to(wide)
        bias = x.new_zeros(shape, dtype=wide) if bias is None else bias.to(wide)
        if x.device.type != "cpu":  # and on a GPU not at all
            y = F.layer_norm(x.float(), shape, weight, bias, call.eps).to(x.dtype)
            return y if call.residual is None else (y, x)
    y = F.layer_norm(x, x.shape[-1:], weight, bias, call.eps)
    return y if call.residual is None else (y, x)


BACKEND = Backend(
    name="eager",
    supports=lambda call: [],
    forward=lambda call, needs_grad: (reference(call), ()),
)
