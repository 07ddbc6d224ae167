"""What a compiled graph assumes of its inputs, checked on each call.

A pattern may have read the values of a module's buffers (Swin's relative positions and mask).
``torch.compile`` looks at their shapes only: they may be written to later, or be those of another
module that the same code is for. Comparing values costs more than a call, so it is done once for
each tensor and each time that it was written to.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.weak import WeakIdKeyDictionary

_LOG = logging.getLogger("vitkern.graph")


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """A graph to run where the other one, which is rewritten, would be wrong."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    return fx.GraphModule(module, graph)


class Assuming:
    """Runs what was compiled while its inputs are as assumed, else the graph as it was captured.

    Args:
        compiled: for inputs that are as assumed.
        captured: for others.
        assumed: by the positions of inputs, their values, on the CPU.
    """

    def __init__(
        self,
        compiled: Callable[..., Any],
        captured: fx.GraphModule,
        assumed: Mapping[int, torch.Tensor],
    ) -> None:
        self._compiled, self._captured = compiled, captured
        self._assumed = dict(assumed)
        # For each input the tensors that were seen: at which version, and whether as assumed.
        self._seen: dict[int, Any] = {i: WeakIdKeyDictionary() for i in self._assumed}
        self._warned = False

    def __call__(self, *inputs: Any) -> Any:
        changed = [i for i in self._assumed if not self._holds(i, inputs[i])]
        if changed:
            self._warn(changed)
            return self._captured(*inputs)
        return self._compiled(*inputs)

    def _holds(self, position: int, given: torch.Tensor) -> bool:
        expected = self._assumed[position]
        if isinstance(given, FakeTensor):  # only its shape is of interest
            return True
        if given.is_inference():  # has no version
            return torch.equal(given.cpu(), expected)
        seen = self._seen[position].get(given)
        if seen is None or seen[0] != given._version:
            seen = given._version, torch.equal(given.detach().cpu(), expected)
            self._seen[position][given] = seen
        holds: bool = seen[1]
        return holds

    def _warn(self, changed: list[int]) -> None:
        names = [node.name for node in self._captured.graph.nodes if node.op == "placeholder"]
        text = (
            f"{', '.join(names[i] for i in changed)}: not the values that this graph was compiled"
            " for; it runs as PyTorch captured it, without ops and not compiled. Where they were"
            " changed for good, compile the model again (torch.compiler.reset())."
        )
        _LOG.warning("%s", text)
        if not self._warned:
            self._warned = True
            warnings.warn(text, RuntimeWarning, stacklevel=2)
