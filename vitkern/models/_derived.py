"""A tensor that parameters determine, computed once while they stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from vitkern.models._built_once import tensors_are_ordinary


class Derived:
    """Keeps the last result of a function of parameters, for inference.

    It follows the parameters: when one is replaced, moved, cast or written to (its version or its
    memory changes, as by an optimizer step or ``load_state_dict``), the function runs again.
    Writing through ``parameter.data`` leaves no trace that could be seen. Where a gradient is
    wanted, and under ``torch.compile``, ``torch.export``, function transforms or fake tensors, the
    function runs at every call. Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[nn.Parameter, ...], tuple[Any, ...], torch.Tensor] | None = None

    def __call__(
        self, sources: Sequence[nn.Parameter], build: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """``build()``, or what it gave before for the same parameters; not to be changed in place.

        Args:
            sources: every parameter that ``build`` reads.
            build: a pure function of them.
        """
        if not self._keeps(sources):
            return build()
        state = (_autocast(sources[0].device.type), *(_state(source) for source in sources))
        kept = self._kept  # read once: another thread may replace it
        if (
            kept is not None
            and len(kept[0]) == len(sources)
            and all(a is b for a, b in zip(kept[0], sources, strict=True))
            and kept[1] == state
        ):
            return kept[2]
        with torch.inference_mode(False), torch.no_grad():  # so that any later call may use it
            result = build()
        if type(result) is torch.Tensor:
            self._kept = (tuple(sources), state, result)
        return result

    @staticmethod
    def _keeps(sources: Sequence[nn.Parameter]) -> bool:
        if torch.compiler.is_compiling() or not tensors_are_ordinary():
            return False
        if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
            return False
        return all(
            type(source) is nn.Parameter and not source.is_inference() and not source.is_meta
            for source in sources
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Derived:
        return Derived()

    def __reduce__(self) -> tuple[type[Derived], tuple[()]]:
        return Derived, ()


def _state(parameter: nn.Parameter) -> tuple[Any, ...]:
    return parameter._version, parameter.data_ptr(), parameter.dtype, parameter.device


def _autocast(device: str) -> torch.dtype | None:
    """The dtype that autocast gives to products on this device, None where it is off."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
