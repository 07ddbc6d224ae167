"""`import vitkern` is light: no GPU is touched, and nothing that only some users need is loaded."""

from __future__ import annotations

import subprocess
import sys


def test_import_initialises_no_gpu_and_loads_no_extras() -> None:
    code = """
import sys, torch
before = set(sys.modules)
import vitkern
assert not torch.cuda.is_initialized()
new = set(sys.modules) - before
print(*sorted({name.partition(".")[0] for name in new} | {n for n in new if n[:6] == "torch."}))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    # Few, of Python's own, beside vitkern: what others bring along would be many more.
    assert "vitkern" in loaded
    assert not loaded & {
        "accelerate", "huggingface_hub", "matplotlib", "numpy", "onnxruntime", "openvino", "pandas",
        "PIL", "psutil", "pyarrow", "pydicom", "pytest", "rich", "safetensors", "scipy",
        "setuptools", "sklearn", "timm", "torchmetrics", "torchvision", "transformers", "triton",
        "yaml",
    }  # fmt: skip
    # torch._dynamo and torch._inductor take seconds; decorators such as torch.compiler.disable
    # import the first.
    assert not any(name.startswith("torch.") for name in loaded)
    assert len(loaded) < 25, loaded
