"""Runs ops on a library of sanitized kernels: ``python sanitized.py LIBRARY``.

A process of its own, which test_sanitizers.py starts with the sanitizer's runtime before Python.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch

from tests.ops import harness
from vitkern.dispatch import OPERATORS
from vitkern.testing import ops_with_kernels
from vitkern.testing.emulation import kernels_of

NAME = "cuda_sanitized"
EACH = 7
"""Of the cases every so many: tails and edges, in turns of dtypes and layouts."""


def main(library: str) -> None:
    """Parity of outputs and gradients; the sanitizers end the process at their first finding."""
    kernels, done = kernels_of(Path(library), NAME), 0
    for op in [op for op in harness.OPS if op in ops_with_kernels()]:
        OPERATORS[op].add(importlib.import_module(f"vitkern.ops.{op}.cuda").backend(kernels))
        for i, case in enumerate(harness.cases(op, "tail", "edge")[::EACH]):
            dtype, layout = harness.DTYPES[i % 3], harness.LAYOUTS[i // 3 % 3]
            # Not poisoned: PyTorch's own filling of memory is what would take the time.
            call = harness.make(op, case, dtype)
            harness.check(op, NAME, call, grad=True, layout=layout, poison=False)
            done += 1
    print(f"{done} cases passed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
