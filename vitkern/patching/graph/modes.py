"""The modes that are on at a place in a graph: autocast, gradients."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import fx

_ENTER = torch.amp.autocast_mode._enter_autocast
_EXIT = torch.amp.autocast_mode._exit_autocast
_GRAD = torch._C._set_grad_enabled


class Modes:
    """While it is on, the modes are those of the node that was followed last.

    Others than autocast and gradients (``inference_mode`` inside of the graph) are not followed:
    they change nothing that an op asks about.
    """

    def __enter__(self) -> Modes:
        self._grad = torch.is_grad_enabled()
        self._entered: dict[fx.Node, Any] = {}
        return self

    def follow(self, node: fx.Node) -> None:
        """Go past a node of the graph, in its order."""
        if node.op != "call_function":
            return
        if node.target is _GRAD:
            torch._C._set_grad_enabled(bool(node.args[0]))
        elif node.target is _ENTER:
            self._entered[node] = _ENTER(*node.args)
        elif node.target is _EXIT:
            (entered,) = node.args
            assert isinstance(entered, fx.Node)
            _EXIT(self._entered.pop(entered))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for entered in reversed(self._entered.values()):
            _EXIT(entered)
        torch._C._set_grad_enabled(self._grad)
