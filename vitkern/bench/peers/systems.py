"""The table of systems. Another one is another entry, and nothing else.

Each peer runs in its own best usual setting for the latency of single calls, on as many threads as
PyTorch uses.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn

from vitkern.bench.measure import nothing_patched
from vitkern.bench.passes import forward
from vitkern.bench.peers import onnx_runtime, openvino, torch_compile
from vitkern.bench.peers.system import EAGER, OURS, Run, System, Unavailable
from vitkern.patching import patch

__all__ = ["SYSTEMS"]


def _patched(model: nn.Module, images: torch.Tensor, *, dtype: torch.dtype | None = None) -> Run:
    """A patched copy, with its products in ``dtype``.

    Raises:
        Unavailable: nothing was patched, so that it would be eager.
    """
    copied = copy.deepcopy(model)
    same = nothing_patched(patch(copied, dtype=dtype))
    if same is not None:
        raise Unavailable(f"nothing was patched: {same}")
    return forward(copied, images)


ONNX_RUNTIME, OPENVINO = onnx_runtime.PACKAGES, openvino.PACKAGES

SYSTEMS: tuple[System, ...] = (
    System(EAGER, "PyTorch", "fp32", forward),
    System("torch.compile", "torch.compile", "fp32", torch_compile.default),
    System("torch.compile, frozen", "torch.compile", "fp32", torch_compile.frozen),
    System("ONNX Runtime", "ONNX Runtime", "fp32", onnx_runtime.float32, ONNX_RUNTIME),
    System("OpenVINO", "OpenVINO", "fp32", openvino.float32, OPENVINO),
    System("vitkern", OURS, "fp32", _patched),
    System("OpenVINO bf16", "OpenVINO", "bf16", openvino.bfloat16, OPENVINO),
    System("vitkern bf16", OURS, "bf16", partial(_patched, dtype=torch.bfloat16)),
    System("OpenVINO int8", "OpenVINO", "int8", openvino.int8, (*OPENVINO, "nncf")),
)
"""In the order in which they run in the first round."""
