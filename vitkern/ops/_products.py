"""Matrix products as GPU kernels see them: operands as matrices, what follows, and those that
PyTorch computes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


def matrix(tensor: torch.Tensor) -> torch.Tensor:
    """(..., K) as (rows, K), of any strides."""
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


@dataclass(frozen=True)
class Epilogue:
    """What follows a product with an (M, N) result.

    ``bias`` and ``gamma`` are (N,); ``residual`` is (..., N) of any strides; ``slope``, ``pre`` and
    ``activated`` are (..., N) and contiguous; ``sums`` (N,) gets the sums of the result's columns,
    from kernels that have them.
    """

    bias: torch.Tensor | None = None
    activation: int = 0
    gamma: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    slope: torch.Tensor | None = None
    pre: torch.Tensor | None = None
    activated: torch.Tensor | None = None
    sums: torch.Tensor | None = None

    @property
    def beside(self) -> bool:
        """Whether it loads or stores more tiles than those of the result."""
        others = (self.residual, self.slope, self.pre, self.activated)
        return any(tensor is not None for tensor in others)

    def is_bias(self) -> bool:
        """Whether there is nothing else: then no kernel has something to fuse."""
        return not (self.activation or self.beside) and self.gamma is None and self.sums is None


def plain(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, bias: torch.Tensor | None = None
) -> None:
    """``c = a @ b + bias`` by PyTorch: a (M, K), b (K, N), c (..., N) contiguous, bias (N,).

    On a GPU that is cuBLAS, whose tiles kernels of ours cannot have.
    """
    out = c.view(a.shape[0], b.shape[1])
    if c.device.type == "cpu":
        # Emulated. In bfloat16 on AMX PyTorch 2.14 reads behind rows of odd length: 0 times NaN.
        a, b = a.contiguous(), b.contiguous()
    with torch.no_grad():  # what is written into has no gradient; ops have their own backward
        if bias is None:
            torch.mm(a, b, out=out)
        else:
            torch.addmm(bias, a, b, out=out)
