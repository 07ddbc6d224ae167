"""``use_backend``: the backend asked for in a block of code."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from vitkern.dispatch.errors import UnknownBackend

# A context variable, not a flag: other threads and other tasks are not affected.
_ACTIVE: ContextVar[str | None] = ContextVar("vitkern_backend", default=None)


class _Traced:
    """What torch.compile sees of the variable before torch 2.14, which cannot trace and guard it.

    That of the block entered last, in whichever thread; read while tracing only.
    """

    def __init__(self) -> None:
        self.backend: str | None = None
        self._blocks: dict[object, str | None] = {}
        # Reentrant: the block of a generator that nobody holds ends wherever it is collected.
        self._lock = threading.RLock()

    def enter(self, block: object, backend: str | None) -> None:
        with self._lock:
            self._blocks[block] = self.backend = backend

    def leave(self, block: object) -> None:
        """Blocks of several threads end in any order."""
        with self._lock:
            del self._blocks[block]
            self.backend = next(reversed(self._blocks.values()), None)


_TRACED = _Traced()
_CANNOT_TRACE = torch.__version__ < "2.14"  # a TorchVersion: compares as one


def active_backend() -> str | None:
    """The backend named by the innermost ``use_backend`` block, or None."""
    if _CANNOT_TRACE and torch.compiler.is_compiling():
        return _TRACED.backend
    return _ACTIVE.get()


def check_backend_name(backend: str | None) -> None:
    """Raise if ``backend`` is neither None nor the name of a backend of some op.

    Raises:
        TypeError: not a string or None.
        UnknownBackend: nothing of that name is registered (a ValueError).
    """
    if backend is None:
        return
    if not isinstance(backend, str):
        raise TypeError(f"backend must be a string or None, got {type(backend).__name__}")
    from vitkern.dispatch.operator import known_backends

    known = known_backends()
    if backend not in known:
        near = difflib.get_close_matches(backend, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownBackend(f"backend {backend!r} is unknown; there are {', '.join(known)}{hint}")


@contextmanager
def use_backend(backend: str | None) -> Iterator[None]:
    """Run every vitkern op in the block on ``backend``; None restores automatic choice.

    It holds for the thread (or the task) that enters the block, not for others.

    The most specific request wins: an op's own ``backend=`` argument, then the ``backend`` given
    to ``patch``, then the innermost ``use_backend``. A backend asked for by name that cannot
    take a call raises :class:`UnsupportedInput` with every reason; nothing falls back.

    Raises:
        UnknownBackend: no op has a backend of that name.
    """
    check_backend_name(backend)
    token, block = _ACTIVE.set(backend), object()
    _TRACED.enter(block, backend)
    try:
        yield
    finally:
        _ACTIVE.reset(token)
        _TRACED.leave(block)
