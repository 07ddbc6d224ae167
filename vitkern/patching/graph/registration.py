"""Makes the name "vitkern" known to ``torch.compile``."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

NAME = "vitkern"
GROUP = "torch_dynamo_backends"
TARGET = "vitkern.patching.graph:compile_graph"


def register() -> None:
    """Declare what the installed package declares as an entry point.

    So that the name is known where the package is not installed, or was before it had the entry
    point. It is only where ``torch._dynamo`` is imported already: importing it takes seconds.
    """
    registry = sys.modules.get("torch._dynamo.backends.registry")
    known = getattr(registry, "_BACKENDS", None)
    if isinstance(known, dict):
        # An entry point, not the function: with both, PyTorch would find the name taken.
        known.setdefault(NAME, EntryPoint(NAME, TARGET, GROUP))
