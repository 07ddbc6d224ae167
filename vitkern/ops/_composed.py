"""Blocks of several ops, where no kernel computes them whole: decided at first, then repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic

import torch

from vitkern.dispatch import OPERATORS, Operator, active_backend
from vitkern.dispatch.measured import measures
from vitkern.dispatch.operator import CallT
from vitkern.ops._family import looked_at
from vitkern.ops._plans import Kinds, kind_of
from vitkern.ops._recorder import recorder


class Composed(Generic[CallT]):
    """An op that is composed of others, without gradients.

    A backend that takes the whole call computes it; else the others do. On a GPU their launches are
    written down together and repeated, since checking and choosing for each op takes longer than
    the kernels.

    Args:
        operator: the op's.
        compose: ``compose(call, backend)`` computes it by other ops.
    """

    def __init__(
        self, operator: Operator[CallT], compose: Callable[[CallT, str | None], torch.Tensor]
    ) -> None:
        self._operator, self._compose = operator, compose
        self.kinds = Kinds()

    def __call__(self, call: CallT, backend: str | None) -> torch.Tensor:
        """The result of a call of which no gradient is wanted.

        Raises:
            UnsupportedInput: a backend asked for by name refuses.
        """
        key = None
        # Before they are asked: on a CPU one backend computes all, and nothing is looked up.
        # (What is compiled would be anew for each kind that is met, if it knew of them.)
        if not torch.compiler.is_compiling() and (self.kinds or not call[0].is_cpu) and not _seen():
            key = _key(call, backend)
            plan = self.kinds.plan(key)
            if plan is not None:
                return plan(call)  # type: ignore[return-value]
        out: torch.Tensor | None = self._operator.whole(call, backend)
        if out is not None:
            return out
        if key is None and not _seen():
            key = _key(call, backend)
        if key is None or not _is_recorded(call[0], backend or active_backend()):
            return self._compose(call, backend)

        def decide(*fields: Any) -> torch.Tensor:
            return self._compose(call, backend)

        result: torch.Tensor = self.kinds.run(key, decide, call)
        return result


def _seen() -> bool:
    """Whether somebody has to see the ops: a compiler, a mode, a measurement, another plan."""
    return torch.compiler.is_compiling() or looked_at() or recorder() is not None or measures()


def _key(call: tuple[Any, ...], backend: str | None) -> tuple[Any, ...] | None:
    """What a plan holds for: the kind of call, and who was asked for."""
    kind = kind_of(call)
    return None if kind is None else (kind, backend or active_backend())


def _is_recorded(x: torch.Tensor, asked: str | None) -> bool:
    """Whether launches of all backends that may compute ops on ``x`` can be written down.

    PyTorch's are seen; those of the CPU's kernels, and of backends that others add, are not.
    """
    backends = [one for op in OPERATORS.values() for one in op.backends.values()]
    if asked is not None:
        return all(one.recorded for one in backends if one.name == asked)
    known = ("cpu", "eager")
    return not x.is_cpu and all(
        one.recorded or one.name in known for one in backends if one.automatic
    )
