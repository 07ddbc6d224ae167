"""Adapters of single layers: LayerNorm, Linear, and the patch embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from vitkern import ops
from vitkern.patching import compute, parts, probe, suitable
from vitkern.patching.adapter import Adapter, Call, Match

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap


class LayerNorm(Adapter):
    """A layer norm over the last dimension.

    PyTorch's own is as fast: it pays where it is part of something larger.
    """

    ops = ("layer_norm",)
    only_if_asked = True

    def match(self, module: nn.Module) -> Match:
        """One normalised dimension, plain parameters or none."""
        reasons = parts.layer_norm_reasons("", module)
        return Match(reasons) if reasons else Match(calls=[probe.layer_norm(module)])

    def forward(self, swap: Swap, module: Any, input: torch.Tensor) -> torch.Tensor:
        return compute.layer_norm(module, input, swap.backend)


class Linear(Adapter):
    """A linear layer that no larger adapter covers, such as a classifier head.

    PyTorch's own is as fast: it pays where bias, activation, layer scale or residual go with it.
    """

    ops = ("linear",)
    only_if_asked = True

    def match(self, module: nn.Module) -> Match:
        """Plain parameters."""
        reasons = parts.linear_reasons("", module)
        return Match(reasons) if reasons else Match(calls=[probe.linear(module)])

    def forward(self, swap: Swap, module: Any, input: torch.Tensor) -> torch.Tensor:
        return compute.linear(module, input, swap.backend)


class PointwiseConvolution(Adapter):
    """A convolution of single pixels, which is a linear layer over channels.

    Where the image has channels last in memory: the result has them last too then, as PyTorch's.
    With channels first PyTorch's own is as fast, and so it is for other convolutions. Measured on
    CPUs only: elsewhere a backend must be asked for by name.
    """

    ops = ("linear",)
    quiet = True
    forms = False

    def match(self, module: Any) -> Match:
        """A kernel of one pixel and a stride of one, no groups; other convolutions are ignored."""
        if module.kernel_size != (1, 1) or module.stride != (1, 1) or module.groups != 1:
            return Match(ignored=True)
        if not self._is_linear(module) or parts.parameter_reasons("", module, "weight", "bias"):
            return Match(["has padding, or parameters that are not plain"], ignored=True)
        return Match(
            calls=[probe.pointwise(module)], note="PyTorch computes channels-first and small ones"
        )

    @staticmethod
    def _is_linear(module: Any) -> bool:
        """Whether the layer is one over channels, as it is now."""
        plain = module.padding_mode == "zeros" and module.padding in ((0, 0), "valid", "same")
        return plain and module.stride == (1, 1) and module.groups == 1

    def forward(self, swap: Swap, module: Any, input: torch.Tensor) -> torch.Tensor:
        weight, bias = module._parameters["weight"], module._parameters["bias"]
        here = input.is_cpu or swap.backend is not None
        if here and input.dim() == 4 and not input.is_contiguous() and self._is_linear(module):
            pixels = input.permute(0, 2, 3, 1)
            if pixels.is_contiguous() and input.shape[1] == weight.shape[1]:
                matrix = weight.flatten(1)
                if suitable.linear(swap.backend, pixels, matrix, bias) is None:
                    y = ops.linear(pixels, matrix, bias, backend=swap.backend)
                    return y.permute(0, 3, 1, 2)
        own: torch.Tensor = swap.original(module, input)
        return own


class PatchEmbed(Adapter):
    """Patch embedding with channels last: children ``proj`` (a convolution) and ``norm``."""

    ops = ("patch_embed",)

    def match(self, module: Any) -> Match:
        """A convolution whose stride is its kernel, then a LayerNorm or nothing."""
        m = module._modules
        reasons = convolution_reasons(m.get("proj"))
        reasons += parts.optional_norm_reasons("norm", m.get("norm"))
        if not self.channels_last(module):
            reasons.append("its output has channels first, which the op would have to transpose")
        if reasons:
            return Match(reasons)
        calls: list[Call] = [probe.patch_embed(m["proj"])]
        if type(m["norm"]) is not nn.Identity:
            calls.append(probe.layer_norm(m["norm"], m["proj"].weight))
        return Match(calls=calls)

    def channels_last(self, module: Any) -> bool:
        """Whether the output is (B, N, D) or (B, rows, columns, D)."""
        return True

    def forward(self, swap: Swap, module: Any, x: torch.Tensor) -> torch.Tensor:
        m = module._modules
        weight = m["proj"]._parameters["weight"]
        rows, columns = module.patch_size
        if x.dim() != 4 or not x.is_floating_point() or x.shape[1] != weight.shape[1]:
            return swap.original(module, x)  # raises the module's own error
        height, width = x.shape[2], x.shape[3]
        strict = module.img_size is not None and module.strict_img_size
        if strict and (height, width) != tuple(module.img_size):
            return swap.original(module, x)
        if height % rows or width % columns:
            if not module.dynamic_img_pad:
                return swap.original(module, x)  # refuses them, or leaves a border out
            x = F.pad(x, (0, -width % columns, 0, -height % rows))
            height, width = x.shape[2], x.shape[3]
        if height < rows or width < columns:
            return swap.original(module, x)
        y = ops.patch_embed(x, weight, m["proj"]._parameters["bias"], backend=swap.backend)
        if not module.flatten:
            y = y.reshape(x.shape[0], height // rows, width // columns, weight.shape[0])
        if type(m["norm"]) is not nn.Identity:
            y = compute.layer_norm(m["norm"], y, swap.backend)
        return y


def convolution_reasons(conv: Any) -> list[str]:
    """Why a patch embedding's convolution is not a product of patches with a matrix."""
    reasons = parts.role_reasons("proj", conv, ("torch.nn:Conv2d",))
    if reasons:
        return reasons
    if conv.stride != conv.kernel_size:
        reasons.append(f"proj has stride {conv.stride} and kernel {conv.kernel_size}")
    if conv.padding not in ((0, 0), "valid") or conv.dilation != (1, 1) or conv.groups != 1:
        reasons.append("proj has padding, dilation or groups")
    return reasons + parts.parameter_reasons("proj", conv, "weight", "bias")
