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
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    # triton comes with torch._dynamo, which decorators like torch.compiler.disable import.
    heavy = {"accelerate", "matplotlib", "pytest", "rich", "scipy", "sklearn", "timm"}
    too_much = loaded & (heavy | {"torchvision", "transformers", "triton"})
    assert not too_much
