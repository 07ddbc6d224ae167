"""What a backend of an op must provide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Tensors = tuple[torch.Tensor | None, ...]


@dataclass(frozen=True)
class Backend:
    """One way to compute one op.

    A *call* is the op's NamedTuple of checked arguments (tensors and plain values).

    Attributes:
        name: ``"eager"``, ``"cpu"``, ``"triton"``, ``"cuda"`` or a new one.
        supports: ``supports(call)`` lists the reasons to refuse (empty = yes). It is the only
            predicate there is: automatic choice, explicit choice and the report all ask it.
        forward: ``forward(call, needs_grad)`` gives ``(output, saved)``: a tensor or a tuple of
            tensors, and what ``backward`` wants kept (empty unless ``needs_grad``).
        backward: ``backward(call, saved, grads, needs)`` gives one gradient (or None) per field
            of the call; ``needs`` says for which fields one is wanted. None where ``forward``
            is ordinary differentiable PyTorch.
        available: why the backend cannot run on this machine at all, or None if it can.
        automatic: whether it may be chosen without being asked for by name.
        recorded: whether its launches can be written down and repeated
            (``vitkern/ops/_plans.py``).
    """

    name: str
    supports: Callable[[Any], list[str]]
    forward: Callable[[Any, bool], tuple[Any, Tensors]]
    backward: Callable[[Any, Tensors, tuple[Any, ...], tuple[bool, ...]], Tensors] | None = None
    available: Callable[[], str | None] = lambda: None
    automatic: bool = True
    recorded: bool = False
