"""The table of systems. Another one is another entry, and nothing else.

Each peer runs in its own best usual setting for the latency of single calls, on as many threads as
PyTorch uses.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn

from vitkern.bench.forms import FormUnavailable, prepare
from vitkern.bench.measure import nothing_patched
from vitkern.bench.parity import MIN_COSINE
from vitkern.bench.passes import forward
from vitkern.bench.peers import onnx_runtime, openvino, torch_compile
from vitkern.bench.peers.system import EAGER, OURS, Run, System, Unavailable

__all__ = ["SYSTEMS"]


def _patched(model: nn.Module, images: torch.Tensor, *, form: str | None = None) -> Run:
    """A copy, patched, with products in ``form``.

    Raises:
        Unavailable: nothing was patched, or no kernel takes int8 here: it would be eager.
    """
    copied = copy.deepcopy(model)
    try:
        same = nothing_patched(prepare(copied, images, form))
    except FormUnavailable as error:
        raise Unavailable(str(error)) from error
    if same is not None:
        raise Unavailable(f"nothing was patched: {same}")
    return forward(copied, images)


def _bfloat16(model: nn.Module, images: torch.Tensor) -> Run:
    """A copy of the model in bfloat16, by PyTorch as it comes."""
    return forward(copy.deepcopy(model).bfloat16(), images.bfloat16())


ONNX_RUNTIME, OPENVINO = onnx_runtime.PACKAGES, openvino.PACKAGES

SYSTEMS: tuple[System, ...] = (
    System(EAGER, "PyTorch", "fp32", forward),
    System("torch.compile", "torch.compile", "fp32", torch_compile.default),
    System("torch.compile, frozen", "torch.compile", "fp32", torch_compile.frozen),
    System("ONNX Runtime", "ONNX Runtime", "fp32", onnx_runtime.float32, ONNX_RUNTIME),
    System("OpenVINO", "OpenVINO", "fp32", openvino.float32, OPENVINO),
    System("vitkern", OURS, "fp32", _patched),
    System("PyTorch bf16", "PyTorch", "bf16", _bfloat16),
    System("torch.compile, frozen bf16", "torch.compile", "bf16", torch_compile.bfloat16),
    System("OpenVINO bf16", "OpenVINO", "bf16", openvino.bfloat16, OPENVINO),
    System("vitkern bf16", OURS, "bf16", partial(_patched, form="bfloat16")),
    System("OpenVINO int8", "OpenVINO", "int8", openvino.int8, (*OPENVINO, "nncf")),
    System("vitkern int8", OURS, "int8", partial(_patched, form="int8"), min_cosine=MIN_COSINE),
)
"""In the order in which they run in the first round."""
