"""The kernels of csrc/cuda as ops see them: compiled for GPUs, or emulated on the CPU.

Both are the same code with another library, so that what an op's ``cuda.py`` does is tested where
there is no GPU: :mod:`vitkern.testing`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from vitkern.ops import _family
from vitkern.ops._cuda.library import FORMATS, CudaLibrary, Field
from vitkern.ops._family import Family
from vitkern.ops.weights import ConvertedWeight


class CudaKernels:
    """A library's kernels, and the family of operators that launch them.

    Args:
        family: the operators.
        library: the library; raises where ``family.missing()`` has a reason.
        of_device: reasons to refuse tensors on a device.
        processors: of a device: how many blocks run at the same time, at least.
        tf32: whether float32 products of an operand may round it to ten bits.
        warpgroups: whether a device has the tensor cores of Hopper (wgmma).
    """

    def __init__(
        self,
        family: Family,
        library: Callable[[], CudaLibrary],
        of_device: Callable[[torch.device], list[str]],
        processors: Callable[[torch.device], int],
        tf32: Callable[[torch.Tensor], bool],
        warpgroups: Callable[[torch.device], bool],
    ) -> None:
        self.family, self.processors, self.tf32 = family, processors, tf32
        self.warpgroups = warpgroups
        self.library, self._of_device = library, of_device
        self.backend = family.backend

    def refusals(self, *tensors: torch.Tensor | ConvertedWeight | None) -> list[str]:
        """Reasons to refuse that hold for every op: no library, wrong device, dtype or layout."""
        reason = self.family.missing()
        return [reason] if reason is not None else _family.refusals(self._of_device, tensors)

    def run(self, entry: str, like: torch.Tensor, **fields: Field) -> None:
        """Launch ``vitkern_<entry>`` on the device of ``like``, whose dtype is its ``format``.

        Fields are those of the entry point's struct: tensors, numbers, and None for null.

        Raises:
            LaunchFailed: with the library's reason.
        """
        self.library().run(entry, like.device, {**fields, "format": FORMATS[like.dtype]})

    def operator(
        self,
        name: str,
        allocate: Callable[..., torch.Tensor | _family.Outputs],
        launch: Callable[..., None],
    ) -> Callable[..., Any]:
        """As :meth:`Family.operator`; ``launch(kernels, outputs, *arguments)``."""
        return self.family.operator(name, allocate, functools.partial(launch, self))
