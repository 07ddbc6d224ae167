"""What an adapter is, and what it finds out about a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitkern.patching.classes import title

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap

Call = tuple[Any, ...]


@dataclass(frozen=True)
class Match:
    """What an adapter says of one module.

    Attributes:
        reasons: why it cannot take the module, whatever the backend; empty if it can.
        calls: one representative call of each op it will use, made of the module's own parameters
            and an input of a single row. Backends are asked about these; nothing is computed.
        units: children that are patched themselves. The module's fused forward bypasses them
            only while they are. All other descendants belong to this module's swap.
        note: what a user should know, for the report.
        ignored: it is nothing that an op computes: neither patched nor skipped.
        otherwise: the adapter that takes the module where these reasons hold.
        calls_like: of a module without parameters, in place of ``calls``: what makes a call of a
            tensor that has the dtype and the device of the parameters around the module.
    """

    reasons: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    units: tuple[str, ...] = ()
    note: str = ""
    ignored: bool = False
    otherwise: Adapter | None = None
    calls_like: list[Callable[[torch.Tensor], Call]] = field(default_factory=list)


class Adapter:
    """How modules of some classes run on ops. Subclasses say what they look for, and compute.

    Attributes:
        name: unique and stable, as pickled models name their adapters.
        classes: the exact classes it takes, as ``"package.module:Class"``.
        ops: names of the ops that it uses.
        only_if_asked: the module gains nothing by itself, so that it is patched only where a
            backend is asked for by name. It is then neither patched nor skipped otherwise.
        transparent: it runs the module's own forward, which calls the children, so that these are
            patched by themselves, and their hooks and parametrizations are no matter of it.
        quiet: only plain modules of the classes are of interest: subclasses, and instances with a
            forward of their own, are neither patched nor skipped.
        forms: whether the Linears below can have forms: bfloat16 and int8 weights. Not where the
            module's own forward reads their weights without calling them.
    """

    ops: tuple[str, ...] = ()
    only_if_asked = False
    transparent = False
    quiet = False
    forms = True

    def __init__(self, name: str, *classes: str) -> None:
        self.name = name
        self.classes = classes

    def match(self, module: nn.Module) -> Match:
        """Looks at a module of one of the classes. Reads it, changes nothing."""
        raise NotImplementedError

    def forward(self, swap: Swap, module: Any, *args: Any, **kwargs: Any) -> Any:
        """The module's forward on ops, with ``swap.backend``.

        Called only while :meth:`match` holds and no hook sits on a descendant. Reads parameters,
        modes and rates anew in every call, for all of them may change.
        """
        raise NotImplementedError


class Unsupported(Adapter):
    """Classes that one would expect to be patched and that are not (yet)."""

    def __init__(self, name: str, op: str, reason: str, *classes: str) -> None:
        super().__init__(name, *classes)
        self.ops = (op,)
        self.reason = reason

    def match(self, module: nn.Module) -> Match:
        return Match([f"is {title(type(module))}: {self.reason}"])
