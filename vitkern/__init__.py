"""Custom kernels that make vision transformers fast."""

from vitkern import ops
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
    "CannotPatch",
    "CannotQuantize",
    "GraphReport",
    "PatchReport",
    "QuantizationReport",
    "TuneReport",
    "UnknownBackend",
    "UnsupportedInput",
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
