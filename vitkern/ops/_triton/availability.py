"""Whether Triton can run on this machine, and the refusals that hold for every op."""

from __future__ import annotations

import functools
import importlib
import os

import torch

from vitkern.ops import _family
from vitkern.ops._triton.recorder import ACTIVE
from vitkern.ops.weights import ConvertedWeight

LEAST_CAPABILITY = (8, 0)
"""Ampere: the first with asynchronous copies and bfloat16 products, which all kernels use."""


def interpreted() -> bool:
    """Whether ``TRITON_INTERPRET=1`` is set: Triton's interpreter runs kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def missing() -> str | None:
    """Why no Triton kernel can run on this machine, or None. Initialises no GPU."""
    return _missing()


@functools.cache
def _missing() -> str | None:
    if not interpreted() and not torch.cuda.is_available():
        return "no CUDA device (to try the kernels on the CPU, slowly, set TRITON_INTERPRET=1)"
    if torch.version.hip is not None and not interpreted():
        return (
            "a ROCm build of PyTorch; takes NVIDIA's GPUs (for AMD's the kernels are only compiled)"
        )
    return _broken()


@functools.cache
def _broken() -> str | None:
    """Why Triton cannot be imported, or None."""
    try:
        importlib.import_module("triton.language")
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    except Exception as error:
        return f"Triton fails when it is imported: {type(error).__name__}: {error}"
    if interpreted():
        from vitkern.ops._triton import interpreter

        interpreter.mend()
    return None


def refusals(*tensors: torch.Tensor | ConvertedWeight | None) -> list[str]:
    """Reasons to refuse that hold for every op: no Triton, wrong device, dtype or layout."""
    reason = missing()
    if _recording():
        return []
    if reason is not None:
        return [reason]
    return _family.refusals(_device_refusals, tensors)


def _device_refusals(device: torch.device) -> list[str]:
    wanted = "cpu" if interpreted() else "cuda"
    if device.type != wanted:
        why = " under TRITON_INTERPRET" if interpreted() else ""
        return [f"a tensor on {device}; takes tensors on {wanted}{why}"]
    if device.type == "cuda":
        capability = _capability(device.index)
        if capability < LEAST_CAPABILITY:
            least = ".".join(map(str, LEAST_CAPABILITY))
            got = ".".join(map(str, capability))
            return [f"compute capability {got}; takes {least} and newer"]
    return []


def _recording() -> bool:
    return ACTIVE.get() is not None


def _capability(index: int | None) -> tuple[int, int]:
    return _known_capability(index)


@functools.cache
def _known_capability(index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


# What is compiled keeps the answers for the machine that it was compiled on.
missing._dynamo_marked_constant = True  # type: ignore[attr-defined]
_capability._dynamo_marked_constant = True  # type: ignore[attr-defined]
# Before 2.14 torch.compile cannot trace the variable; what is compiled is not recorded.
_recording._dynamo_marked_constant = True  # type: ignore[attr-defined]
