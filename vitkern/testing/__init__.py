"""The backend ``cuda_emulated``: the CUDA kernels on the CPU, to test them without a GPU.

Importing this module gives it to every op that has a ``cuda`` backend; it is taken only where it is
asked for by name::

    import vitkern.testing

    with vitkern.use_backend("cuda_emulated"):
        ops.layer_norm(x)

It needs vitkern's source tree and a C++ compiler: the kernels are compiled at their first use.
"""

from __future__ import annotations

import importlib

import vitkern.ops  # noqa: F401 - registers the ops
from vitkern.dispatch import OPERATORS
from vitkern.testing.emulation import EMULATED, Card, Counters, emulation

__all__ = ["EMULATED", "Card", "Counters", "emulation", "ops_with_kernels"]


def ops_with_kernels() -> list[str]:
    """The ops that have a ``cuda`` backend."""
    return [name for name, operator in OPERATORS.items() if "cuda" in operator.backends]


for _name in ops_with_kernels():
    _module = importlib.import_module(f"vitkern.ops.{_name}.cuda")
    OPERATORS[_name].add(_module.backend(EMULATED))
