"""What a pattern proposes: nodes of a graph, and the call that computes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx


class Unsuitable(Exception):
    """Raised by a replacement, in the trial on fake tensors: why PyTorch is to compute it."""


@dataclass(frozen=True)
class Candidate:
    """Some nodes, and a call for them.

    Attributes:
        op: the op that the call is of.
        nodes: all that it stands for.
        call: gives the value of the output, or a tuple where there are several.
        args: of the call; nodes among them are its inputs.
        kwargs: likewise.
        outputs: those of ``nodes`` whose values others use. None is the last of ``nodes``.
        read: nodes that the call does not need, and whose values were read. They go too where
            nobody else uses them; what they write to is theirs.
        assumed: inputs of the graph that must have these values, on the CPU.
        note: why nothing larger was proposed, or empty.
    """

    op: str
    nodes: tuple[fx.Node, ...]
    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[fx.Node, ...] | None = None
    read: tuple[fx.Node, ...] = ()
    assumed: Mapping[fx.Node, torch.Tensor] = field(default_factory=dict)
    note: str = ""

    @property
    def results(self) -> tuple[fx.Node, ...]:
        """``outputs``, filled in."""
        return (self.nodes[-1],) if self.outputs is None else self.outputs
