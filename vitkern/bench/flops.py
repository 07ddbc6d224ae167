"""Counts what has to be computed: multiply-adds of matrix products, two operations each.

Linear layers, convolutions and the two products of attention, as PyTorch's own counter knows them.
Norms, activations, softmax and additions are not counted: they are work, but no multiply-adds of
products, and what fusion makes nearly free. So the count is that of the model, whoever computes it.
(Many tables, timm's too, give multiply-adds under the name FLOPs: half of these figures.)

The count runs on meta tensors, which have shapes and no data: it takes a fraction of a second.
Attention is counted under the plain ("math") kernel of PyTorch, as the counter does not know the
CPU's fused one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitkern.dispatch import OPERATORS
from vitkern.patching import unpatch

__all__ = ["model_flops", "op_flops"]


def model_flops(model: nn.Module, *inputs: torch.Tensor, backward: bool = False) -> int:
    """Floating-point operations of ``model(*inputs)``, and of its backward pass if wanted.

    The model's own forward is counted, also where it is patched. With ``backward``, gradients of
    all parameters that require them are counted, as are those of inputs that do.
    """
    shapes = copy.deepcopy(model).to("meta")
    unpatch(shapes)
    if not backward:
        # The counter hooks inputs of modules that require a gradient, and these have no graph then.
        shapes.requires_grad_(False)
    metas = [
        value.detach().to("meta").requires_grad_(value.requires_grad and backward)
        for value in inputs
    ]

    def run() -> None:
        out = shapes(*metas)
        if backward:
            out.sum().backward()

    return _count(run, grad=backward)


def op_flops(op: str, call: Any) -> int:
    """Floating-point operations of the products in one call of an op.

    Counted on the op's reference; windows are counted with their padding.
    """
    shapes = call._replace(
        **{
            name: value.detach().to("meta")
            for name, value in zip(call._fields, call, strict=True)
            if isinstance(value, torch.Tensor)
        }
    )
    return _count(lambda: OPERATORS[op].backends["eager"].forward(shapes, False), grad=False)


def _count(run: Callable[[], object], *, grad: bool) -> int:
    counter = FlopCounterMode(display=False)
    with torch.set_grad_enabled(grad), counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return int(counter.get_total_flops())
