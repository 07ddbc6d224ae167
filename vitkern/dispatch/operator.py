"""An op as dispatch sees it: its backends, the choice among them, and its gradient."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Generic, TypeVar

import torch
from torch.autograd import forward_ad

from vitkern.dispatch.backend import Backend, Tensors
from vitkern.dispatch.errors import UnsupportedInput
from vitkern.dispatch.measured import STORE, choice
from vitkern.dispatch.override import active_backend, check_backend_name

CallT = TypeVar("CallT", bound=tuple[Any, ...])

OPERATORS: dict[str, Operator[Any]] = {}

# Static order of automatic choice: Triton's kernels took less time in each model where both ran (an
# H100, docs/gpu.md); CUDA's need no compiler at run time.
_ORDER = ("triton", "cuda", "cpu")


def known_backends() -> list[str]:
    """Names of all backends that any op has, in order of automatic choice."""
    names = {name for op in OPERATORS.values() for name in op.backends}
    return sorted(names, key=_rank)


def _rank(name: str) -> tuple[int, str]:
    if name == "eager":
        return len(_ORDER) + 1, name
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER)), name


class Operator(Generic[CallT]):
    """The backends of one op, found among the modules of its package.

    Every module of the op's package that defines ``BACKEND`` contributes it; ``reference.py``
    contributes ``eager``. Adding a backend is adding such a module.

    Args:
        name: the op's.
        call_type: of its calls.
        package: that has the modules.
        composed: whether the public function calls other ops instead where only ``eager`` takes a
            call (:meth:`whole`): each of these chooses its own backend.
    """

    def __init__(
        self, name: str, call_type: type[CallT], package: str, *, composed: bool = False
    ) -> None:
        self.name = name
        self.call_type = call_type
        self.composed = composed
        self.backends: dict[str, Backend] = {}
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if module.name == "cases" or module.name.endswith("_kernels"):
                continue
            backend = getattr(importlib.import_module(f"{package}.{module.name}"), "BACKEND", None)
            if backend is not None:
                self.add(backend)
        OPERATORS[name] = self

    def add(self, backend: Backend) -> None:
        """Give the op one more backend."""
        known = {**self.backends, backend.name: backend}
        self.backends = dict(sorted(known.items(), key=lambda item: _rank(item[0])))
        STORE.chosen_anew()

    def select(self, call: CallT, backend: str | None = None) -> Backend:
        """The backend that will compute ``call``.

        The one asked for by name; else the one that was measured to be the fastest for such calls
        (:mod:`vitkern.dispatch.measured`); else the first in the fixed order triton, cuda, cpu,
        others by name, eager. Always one that does not refuse, and of those that may be chosen
        automatically unless it is asked for.

        Raises:
            UnsupportedInput: a backend asked for by name refuses; lists why.
            UnknownBackend: no op has a backend of that name.
        """
        asked = backend if backend is not None else active_backend()
        if asked is not None:
            chosen = self.backends.get(asked)
            if chosen is None:
                check_backend_name(asked)
                raise UnsupportedInput(self.name, call, {asked: ["has no such op"]})
            reasons = chosen.supports(call)
            if reasons:
                raise UnsupportedInput(self.name, call, {asked: reasons})
            return chosen
        if not torch.compiler.is_compiling():  # what was timed is not what compiled code runs
            measured = choice(self, call)
            if measured is not None:
                return measured
        for candidate in self.backends.values():
            if candidate.automatic and not candidate.supports(call):
                return candidate
        raise UnsupportedInput(self.name, call, self.refusals(call))

    def whole(self, call: CallT, backend: str | None = None) -> Any:
        """Compute ``call`` on the selected backend; None = compose it.

        ``eager`` computes it where that was measured to be faster than a backend that takes it. A
        backend that is asked for by name and has no such op is asked about the ops it consists of.
        """
        asked = backend if backend is not None else active_backend()
        if asked is not None and asked not in self.backends:
            check_backend_name(asked)
            return None
        chosen = self.select(call, backend)
        if chosen.name == "eager" and all(
            other is chosen or not other.automatic or other.supports(call)
            for other in self.backends.values()
        ):
            return None
        return self.compute(chosen, call)

    def refusals(self, call: CallT) -> dict[str, list[str]]:
        """For every backend of the op, the reasons it would refuse ``call`` (empty = takes it)."""
        return {name: backend.supports(call) for name, backend in self.backends.items()}

    def __call__(self, call: CallT, backend: str | None = None) -> Any:
        """Compute ``call`` on the selected backend, differentiably."""
        return self.compute(self.select(call, backend), call)

    def compute(self, chosen: Backend, call: CallT) -> Any:
        """Compute ``call`` on a backend that takes it, differentiably.

        Raises:
            NotImplementedError: a forward-mode derivative is wanted, and the backend has none.
        """
        if chosen.backward is None:
            return chosen.forward(call, False)[0]
        if forward_ad._current_level >= 0 and any(map(_has_tangent, call)):
            raise NotImplementedError(
                f"{self.name} on backend {chosen.name!r} has no forward-mode derivative (jvp);"
                " backend='eager' has that of PyTorch's own functions"
            )
        if torch.is_grad_enabled() and any(
            isinstance(value, torch.Tensor) and value.requires_grad for value in call
        ):
            fields = _apart(call) if torch.compiler.is_compiling() else call
            return _Differentiable.apply(self.name, chosen.name, *fields)
        return chosen.forward(call, False)[0]


def _has_tangent(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and forward_ad.unpack_dual(value).tangent is not None


def _apart(call: Any) -> list[Any]:
    """The fields of a call, none of them a tensor that is another one too (``residual=x``).

    Dynamo traces no autograd function that is given one tensor twice.
    """
    fields: list[Any] = []
    for value in call:
        again = isinstance(value, torch.Tensor) and any(value is one for one in fields)
        fields.append(value.view_as(value) if again else value)
    return fields


class _Differentiable(torch.autograd.Function):
    """The one autograd wrapper: forward and backward of a backend as a graph node."""

    @staticmethod
    def forward(ctx: Any, op_name: str, backend_name: str, *fields: Any) -> Any:
        operator = OPERATORS[op_name]
        call = operator.call_type(*fields)
        output, saved = operator.backends[backend_name].forward(call, True)
        tensors = [value for value in fields if isinstance(value, torch.Tensor)]
        ctx.save_for_backward(*tensors, *saved)
        ctx.names = (op_name, backend_name)
        # None marks the places of tensors, which autograd keeps (and checks for staleness).
        ctx.fields = [
            (isinstance(v, torch.Tensor), None if isinstance(v, torch.Tensor) else v)
            for v in fields
        ]
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        op_name, backend_name = ctx.names
        operator = OPERATORS[op_name]
        saved = list(ctx.saved_tensors)
        fields = [saved.pop(0) if is_tensor else value for is_tensor, value in ctx.fields]
        call = operator.call_type(*fields)
        needs = tuple(ctx.needs_input_grad[2:])
        backward = operator.backends[backend_name].backward
        assert backward is not None
        with torch.no_grad():
            results = backward(call, tuple(saved), grads, needs)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            results = _once(results, f"{op_name} on backend {backend_name!r}")
        return None, None, *results


def _once(grads: Tensors, what: str) -> Tensors:
    """Gradients of a ``backward(create_graph=True)`` that raise where they are differentiated.

    PyTorch's own ``once_differentiable`` does so only if the upstream gradient requires one; where
    it does not (``y.sum()``), what the gradient owes to the inputs would be dropped in silence.
    """
    message = (
        f"{what} has no second derivative; backend='eager' has those that PyTorch's own functions"
        " have (for attention: under sdpa_kernel(SDPBackend.MATH))"
    )
    error = torch._C._functions.DelayedError(message.encode(), len(grads))
    leaves: list[Any] = [g if g is None else g.detach().requires_grad_() for g in grads]
    return tuple(error(*leaves))
