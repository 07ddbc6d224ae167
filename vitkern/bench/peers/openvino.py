"""OpenVINO on the CPU: float32, bfloat16 where the processor has it, and int8 by NNCF."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vitkern.bench.calibration import batches
from vitkern.bench.peers.system import Run, Unavailable

__all__ = ["PACKAGES", "bfloat16", "float32", "int8"]

PACKAGES = ("openvino",)


def float32(model: nn.Module, images: torch.Tensor) -> Run:
    """The precision is asked for: where there is bfloat16, OpenVINO would take that."""
    return _run(_convert(model, images), images, "f32")


def bfloat16(model: nn.Module, images: torch.Tensor) -> Run:
    """Only where the processor multiplies in bfloat16.

    Raises:
        Unavailable: it does not.
    """
    if not _has_bfloat16():
        raise Unavailable("not on this processor")
    return _run(_convert(model, images), images, "bf16")


def int8(model: nn.Module, images: torch.Tensor) -> Run:
    """Quantized after training by NNCF; what stays floating-point runs in the best precision."""
    import nncf

    images_seen = [batch.numpy() for batch in batches(images)]
    quantized = nncf.quantize(
        _convert(model, images),
        nncf.Dataset(images_seen),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(images_seen),
    )
    return _run(quantized, images, "bf16" if _has_bfloat16() else "f32")


def _core() -> Any:
    import openvino

    return openvino.Core()


def _has_bfloat16() -> bool:
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _convert(model: nn.Module, images: torch.Tensor) -> Any:
    import openvino

    with torch.no_grad():
        return openvino.convert_model(model, example_input=images, input=[list(images.shape)])


def _run(model: Any, images: torch.Tensor, precision: str) -> Run:
    """Compiled for the latency of single calls, on as many threads as PyTorch uses."""
    compiled = _core().compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )
    request = compiled.create_infer_request()
    inputs = {0: images.numpy()}

    def run() -> torch.Tensor:
        # Shared: no copies of images and logits, which no other system makes either.
        found = request.infer(inputs, share_inputs=True, share_outputs=True)
        return torch.from_numpy(found[0])

    return run
