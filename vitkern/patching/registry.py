"""All adapters: every module of this package that defines ``ADAPTERS`` contributes them."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from vitkern.patching.adapter import Adapter
from vitkern.patching.classes import loaded


@functools.cache
def adapters() -> dict[str, Adapter]:
    """The adapters by name."""
    found: dict[str, Adapter] = {}
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        table = importlib.import_module(f"{package}.{module.name}")
        for adapter in getattr(table, "ADAPTERS", ()):
            assert adapter.name not in found, f"two adapters are named {adapter.name}"
            found[adapter.name] = adapter
    return found


def by_class() -> dict[type, Adapter]:
    """The adapter of each class whose library is imported now."""
    return {cls: adapter for adapter in adapters().values() for cls in loaded(*adapter.classes)}
