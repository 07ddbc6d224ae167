"""Custom kernels that make vision transformers fast."""

from vitkern import ops
from vitkern._build import BuildError
from vitkern.building import build_cpu, build_cuda
from vitkern.dispatch import UnknownBackend, UnsupportedInput, measuring, use_backend
from vitkern.patching import (
    CannotPatch,
    GraphReport,
    PatchReport,
    graph_backend,
    patch,
    patched,
    unpatch,
)
from vitkern.quantization import (
    CannotQuantize,
    QuantizationReport,
    dequantize,
    load_quantized,
    quantize,
    save_quantized,
)
from vitkern.tuning import TuneReport, tune

__all__ = [
    "BuildError",
    "CannotPatch",
    "CannotQuantize",
    "GraphReport",
    "PatchReport",
    "QuantizationReport",
    "TuneReport",
    "UnknownBackend",
    "UnsupportedInput",
    "build_cpu",
    "build_cuda",
    "dequantize",
    "graph_backend",
    "load_quantized",
    "measuring",
    "ops",
    "patch",
    "patched",
    "quantize",
    "save_quantized",
    "tune",
    "unpatch",
    "use_backend",
]
