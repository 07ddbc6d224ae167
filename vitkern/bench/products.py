"""Counts the matrix products of a forward: all, and those in vitkern's operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vitkern.bench.operator_flops import call_flops, named_arguments
from vitkern.patching import GraphReport
from vitkern.patching.graph import compile_graph

__all__ = ["Products", "count_graph_products", "count_products"]


@dataclass(frozen=True)
class Products:
    """Floating-point operations of a forward's matrix products.

    Attributes:
        total: all of them.
        ours: in vitkern's operators.
        convolution: in PyTorch's convolutions that are no products of matrices: their windows
            overlap, or their channels are in groups.
    """

    total: int
    ours: int
    convolution: int

    @property
    def share(self) -> float:
        """Of all, how much is ours: 0 to 1."""
        return self.ours / self.total if self.total else 0.0

    @property
    def share_beside_convolutions(self) -> float:
        """Of all but ``convolution``, how much is ours: 0 to 1."""
        rest = self.total - self.convolution
        return self.ours / rest if rest else 0.0


class _Counter(TorchDispatchMode):
    """Adds up the products of every operator below it."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.ours = self.convolution = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        arguments = named_arguments(func, args, kwargs)
        flops = call_flops(func, arguments, out)
        if flops:
            namespace, _, name = func._schema.name.partition("::")
            self.total += flops
            self.ours += flops * namespace.startswith("vitkern")
            self.convolution += flops * ("convolution" in name and _convolves(arguments))
        return out


def _convolves(arguments: Mapping[str, Any]) -> bool:
    """Whether a convolution is more than a product of pixels, or of patches, with a matrix."""
    kernel = tuple(arguments["weight"].shape[2:])
    if arguments["groups"] != 1:
        return True
    disjoint = tuple(arguments["stride"]) == kernel and not any(arguments["padding"])
    return not (disjoint or all(size == 1 for size in kernel))


def count_products(run: Callable[[], object]) -> Products:
    """Counts the products of ``run``, called once, without gradients."""
    # Not inference_mode, under which composite operators would arrive whole.
    with torch.no_grad(), _Counter() as counter:
        run()
    return Products(counter.total, counter.ours, counter.convolution)


def count_graph_products(
    model: nn.Module, images: torch.Tensor
) -> tuple[Products, list[GraphReport]]:
    """The same of a forward through ``torch.compile(model, backend="vitkern")``, and its reports.

    Graphs run operator by operator. What the model computes outside of graphs counts as PyTorch's.
    """
    outside = count_products(lambda: model(images))
    reports: list[GraphReport] = []
    counter = _Counter()

    def backend(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
        run = compile_graph(module, inputs, options={"rest": "eager"}, report=reports.append)

        def counted(*args: Any) -> Any:
            # In here, because torch.compile compiles nothing while such a mode is on.
            with counter:
                return run(*args)

        return counted

    torch.compiler.reset()
    try:
        with torch.no_grad():
            torch.compile(model, backend=backend)(images)
    finally:
        torch.compiler.reset()
    total = max(outside.total, counter.total)
    return Products(total, counter.ours, counter.convolution), reports
