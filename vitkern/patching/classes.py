"""Classes of other libraries, named without importing the libraries."""

from __future__ import annotations

import sys

from torch import nn


def loaded(*paths: str) -> tuple[type, ...]:
    """The classes among ``paths`` (``"package.module:Class"``) whose modules are imported.

    A model whose library is not imported cannot exist, so nothing is missed.
    """
    found = []
    for path in paths:
        module, _, name = path.partition(":")
        cls = getattr(sys.modules.get(module), name, None)
        if isinstance(cls, type):
            found.append(cls)
    return tuple(found)


def plain_class(module: nn.Module) -> type:
    """The module's class; of a module under FSDP2, which swaps classes, the one it had before."""
    cls = type(module)
    if len(cls.__mro__) > 2 and cls.__mro__[1].__name__ == "FSDPModule":
        return cls.__mro__[2]
    return cls


def title(cls: type) -> str:
    """How reasons and reports name a class: ``timm.Attention``, ``torch.Linear``.

    PyTorch has several classes of one name, such as its quantized layers: these are named in full.
    """
    package, _, rest = cls.__module__.partition(".")
    if package == "torch" and not rest.startswith("nn."):
        return f"{cls.__module__}.{cls.__qualname__}"
    return f"{package}.{cls.__qualname__}"
