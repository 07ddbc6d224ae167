"""Errors that dispatch raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def describe(call: tuple[Any, ...]) -> str:
    """One line about an op's arguments: shapes and dtypes of tensors, values of the rest."""
    parts = []
    for field, value in zip(call._fields, call, strict=True):  # type: ignore[attr-defined]
        if isinstance(value, torch.Tensor):
            shape = "x".join(map(str, value.shape)) or "scalar"
            parts.append(f"{field}={str(value.dtype).removeprefix('torch.')}[{shape}]")
        elif value is not None:
            parts.append(f"{field}={value!r}")
    return ", ".join(parts)


class UnsupportedInput(RuntimeError):
    """No allowed backend takes this call; ``reasons`` maps each backend to why it refused."""

    def __init__(
        self, op: str, call: tuple[Any, ...], reasons: Mapping[str, Sequence[str]]
    ) -> None:
        self.op = op
        self.reasons = {name: list(why) for name, why in reasons.items()}
        lines = [f"{op}({describe(call)}) is not supported by the backend asked for:"]
        lines += [f"  {name}: {'; '.join(why)}" for name, why in self.reasons.items()]
        super().__init__("\n".join(lines))


class UnknownBackend(ValueError):
    """A backend name that nothing is registered under."""
