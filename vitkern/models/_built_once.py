"""Tensors that depend on sizes alone, built at first use and kept.

Swin's attention masks and relative position indices are functions of a few integers. Buffers would
tie each to one module, one device and one image size; building them at every call would cost more
than the additions that use them. So one bounded cache holds them for every model in the process.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import ParamSpec

import torch

P = ParamSpec("P")

CAPACITY = 64
"""Results that each decorated function keeps; the least recently used is dropped first."""


def built_once(build: Callable[P, torch.Tensor]) -> Callable[P, torch.Tensor]:
    """``build`` with its results kept by argument; callers must not change them in place.

    Nothing is kept or reused where a tensor made now would not be an ordinary one with its values
    in place: under ``torch.compile`` and ``torch.export`` (the compiler fuses the construction into
    its use), in fake-tensor mode, and while a CUDA graph is captured.

    Args:
        build: a pure function of hashable arguments that returns a tensor.

    Raises:
        TypeError: when called, for an argument that is not hashable.
    """
    kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
    lock = threading.Lock()

    @functools.wraps(build)
    def remembered(*args: P.args, **kwargs: P.kwargs) -> torch.Tensor:
        if torch.compiler.is_compiling() or not tensors_are_ordinary():
            return build(*args, **kwargs)
        key = (args, tuple(sorted(kwargs.items())))
        with lock:
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        with torch.inference_mode(False):  # so that a later training step may use it too
            result = build(*args, **kwargs)
        with lock:
            kept[key] = result
            while len(kept) > CAPACITY:
                kept.popitem(last=False)
        return result

    return remembered


def tensors_are_ordinary() -> bool:
    """Whether a tensor made now is a plain one whose values are computed now."""
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        return False
    return type(torch.empty(0, device="cpu")) is torch.Tensor
