"""Registered operators of the ``triton`` backends, made from two functions each.

``torch.compile`` sees one opaque operator for each op and direction, with a fake implementation
whose shapes and strides are right because it is the allocation that the real one makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vitkern.ops._triton import availability
from vitkern.ops._triton.recorder import recording

_LIBRARY = torch.library.Library("vitkern_triton", "DEF")

Outputs = tuple[torch.Tensor, ...]


def operator(
    name: str, allocate: Callable[..., Outputs], launch: Callable[..., None]
) -> Callable[..., Outputs]:
    """Register ``vitkern_triton::name`` and return it.

    Args:
        name: of the operator, unique.
        allocate: typed; gives the outputs, not yet computed, as a tuple. Its annotations are the
            operator's schema.
        launch: ``launch(outputs, *arguments)`` computes them: launches kernels on the current
            stream, does not wait. It is not called where every output is empty.
    """
    schema = torch.library.infer_schema(allocate, mutates_args=())
    _LIBRARY.define(name + schema)

    def run(*arguments: Any) -> Outputs:
        outputs = allocate(*arguments)
        if any(output.numel() for output in outputs):
            launch(outputs, *arguments)
        return outputs

    def pretend(*arguments: Any) -> Outputs:
        return run(*arguments) if recording() else allocate(*arguments)

    _LIBRARY.impl(name, run, "CUDA")
    if availability.interpreted():
        _LIBRARY.impl(name, run, "CPU")
    torch.library.register_fake(f"vitkern_triton::{name}", pretend, lib=_LIBRARY)
    found: Callable[..., Outputs] = getattr(torch.ops.vitkern_triton, name)
    return found


def empty_unless(needed: bool, like: torch.Tensor, shape: tuple[int, ...] | torch.Size,
                 dtype: torch.dtype | None = None) -> torch.Tensor:  # fmt: skip
    """A new tensor of that shape; one with no elements where it is not needed."""
    return like.new_empty(shape if needed else (0,), dtype=dtype or like.dtype)
