"""ONNX Runtime on the CPU, from an ONNX file that PyTorch exports."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from vitkern.bench.peers.system import Run

__all__ = ["PACKAGES", "float32"]

PACKAGES = ("onnxruntime", "onnx", "onnxscript")


def float32(model: nn.Module, images: torch.Tensor) -> Run:
    """All optimizations of graphs, and as many threads as PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Its idle threads spin otherwise, on the processors of whoever runs next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with torch.no_grad():
            torch.onnx.export(model, (images,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    inputs = {session.get_inputs()[0].name: images.numpy()}
    return lambda: torch.from_numpy(session.run(None, inputs)[0])
