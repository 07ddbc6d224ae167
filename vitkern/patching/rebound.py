"""A module's own forward, in which one function that it calls is another.

Some forwards call a function of their own file for what an op computes. The forward runs as it is,
as a copy whose globals have another function under that name: nobody else sees it, in no thread.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitkern.patching import scores
from vitkern.patching.adapter import Match
from vitkern.patching.products import Products, Routed

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap

Function = Callable[..., Any]


class Rebound(Products):
    """Modules that multiply, as in ``products.py``, and call a function of their file.

    While torch.compile traces, they call the function that their library wrote.

    Args:
        name: of the adapter.
        classes: that it takes.
        function: the name of that function.
        replacement: makes the one that is called instead, of the backend and the original.
        ops: what they compute.
        written_out: whether they write attention out.
    """

    def __init__(
        self,
        name: str,
        *classes: str,
        function: str,
        replacement: Callable[[str | None, Function], Function],
        ops: tuple[str, ...],
        written_out: bool = False,
    ) -> None:
        super().__init__(name, *classes, ops=ops, written_out=written_out)
        self.function, self.replacement = function, replacement

    def match(self, module: nn.Module) -> Match:
        """As of all products; the function must be a global of the class's forward."""
        own: Any = type(module).forward
        if type(own) is not FunctionType or self.function not in own.__code__.co_names:
            return Match([f"its forward does not call {self.function} itself"])
        if not callable(own.__globals__.get(self.function)):
            return Match([f"{self.function} is not a function beside its class"])
        return super().match(module)

    def forward(self, swap: Swap, module: Any, *args: Any, **kwargs: Any) -> Any:
        own: Any = type(module).forward
        if not torch.compiler.is_compiling():
            original = own.__globals__[self.function]
            names = {**own.__globals__, self.function: self.replacement(swap.backend, original)}
            keywords = own.__kwdefaults__
            own = FunctionType(own.__code__, names, own.__name__, own.__defaults__, own.__closure__)
            own.__kwdefaults__ = keywords
        with Routed(swap, module):
            result = own(module, *args, **kwargs)
        return scores.plain(result) if self.written_out else result
