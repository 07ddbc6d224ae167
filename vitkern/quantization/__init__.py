"""HOW a model's products come to int8: calibration, ranges, an error budget, and files.

``quantize`` finds the Linears below patched modules, observes their inputs, gives each an
:class:`~vitkern.ops.weights.Int8Weight`, and measures what that costs. What is computed is said
there; how layers hold it, in :mod:`vitkern.patching`, which knows nothing of calibration.
"""

from vitkern.quantization.api import quantize
from vitkern.quantization.layers import CannotQuantize, dequantize
from vitkern.quantization.report import QuantizationReport, QuantizedLayer
from vitkern.quantization.storage import load_quantized, save_quantized

__all__ = [
    "CannotQuantize",
    "QuantizationReport",
    "QuantizedLayer",
    "dequantize",
    "load_quantized",
    "quantize",
    "save_quantized",
]
