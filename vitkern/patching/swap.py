"""The object that stands in a patched instance's ``forward``, and what it checks in every call."""

from __future__ import annotations

import copy
import inspect
import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import TorchFunctionMode

from vitkern.ops.weights import Bfloat16Weight, ConvertedWeight
from vitkern.patching.adapter import Adapter
from vitkern.patching.classes import title
from vitkern.patching.registry import adapters


class Swap:
    """A module's forward on ops.

    It lives in the instance's ``__dict__`` under ``forward``, where ``nn.Module.__call__`` finds it
    before the class's own, so hooks on the module, ``type(module)``, parameters and the state dict
    are untouched. The module is held weakly: a strong reference would be a cycle, and a deleted
    model would keep its memory until the garbage collector runs. Copies and pickles of the module
    carry a swap that is bound to the copy.

    Attributes:
        adapter: what computes.
        backend: the backend of all ops; None leaves the choice to each call.
        name: the module's name in the model that was patched, for messages.
        units: children that were patched too, and must still be, with the same backend, for this
            module to bypass them.
        form: of a Linear, the form in which products take its weight; None is its own.
        under: the form that it had before this one.
    """

    def __init__(
        self,
        module: nn.Module,
        adapter: Adapter,
        backend: str | None,
        name: str,
        units: tuple[str, ...],
        form: ConvertedWeight | None = None,
        under: ConvertedWeight | None = None,
    ) -> None:
        self._owner = weakref.ref(module)
        self.adapter = adapter
        self.backend = backend
        self.name = name
        self.units = units
        self.form = form
        self.under = under
        self._snapshot: Snapshot | None = None
        self._warned: set[str] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self._owner()
        if module is None:
            raise ReferenceError(f"the patched module {self.name!r} no longer exists")
        if not args and not self.adapter.transparent:
            # Adapters name their arguments as they like; the class's names are those that count.
            bound = self.__signature__.bind(**kwargs)
            args, kwargs = bound.args, bound.kwargs
        # torch.fx traces with proxies, which stand for values that no op can check.
        if self._may_fuse() and not (args and isinstance(args[0], torch.fx.Proxy)):
            if not self.adapter.transparent and args and _only_routed(args[0]):
                with torch._C.DisableTorchFunction():
                    return self.adapter.forward(self, module, *args, **kwargs)
            return self.adapter.forward(self, module, *args, **kwargs)
        return _class_forward(module)(module, *args, **kwargs)

    def original(self, module: nn.Module, *args: Any, why: str | None = None, **kwargs: Any) -> Any:
        """The module's own forward; where there is a reason to tell, it is told once."""
        if why is not None and not torch.compiler.is_compiling():
            self._warn(module, why)
        return _class_forward(module)(module, *args, **kwargs)

    def tell(self, module: nn.Module, why: str) -> None:
        """Warns once that something of the module is not computed by ops, and why."""
        if not torch.compiler.is_compiling():
            self._warn(module, why)

    def owner(self) -> nn.Module | None:
        """The module, if it still exists."""
        return self._owner()

    def converted(self, weight: torch.Tensor) -> torch.Tensor | ConvertedWeight:
        """The layer's weight in its form; ``weight`` is what the layer has now."""
        form = self.form
        if form is None or (type(form) is Bfloat16Weight and weight.dtype is not torch.float32):
            return weight
        converted = form.of(weight)
        # Kept, so that it is made once. Other tensors stand in for the parameter for a while only.
        if (
            converted is not form
            and type(weight) is nn.Parameter
            and not torch.compiler.is_compiling()
        ):
            self.form = converted
        return converted

    def _may_fuse(self) -> bool:
        """Whether the module is as the adapter wants it, and no hook would be bypassed."""
        module = self._module()
        snapshot = self._snapshot
        if snapshot is None or snapshot.outdated(module):
            snapshot = self._snapshot = Snapshot(module, self)
            if snapshot.reasons:
                self._warn(module, "; ".join(snapshot.reasons))
        if snapshot.reasons or snapshot.watched() or _has_any_global_hook():
            return False
        if _transforms():
            self._warn(module, "torch.func transforms and forward-mode gradients are PyTorch's")
            return False
        return True

    # torch.compile and torch.export evaluate it while tracing, and do not guard on it: as with
    # hooks in general, those that are added later are not seen by what is compiled. This is all
    # that torch.compiler.assume_constant_result does, but for importing the compiler.
    _may_fuse._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _warn(self, module: nn.Module, why: str) -> None:
        if why in self._warned:
            return
        self._warned.add(why)
        warnings.warn(
            f"vitkern: {self.name or 'the module'} ({title(type(module))}) runs its original"
            f" forward: {why}",
            UserWarning,
            stacklevel=_callers_level(),
        )

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(_class_forward(self._module()))
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    @property
    def __code__(self) -> Any:
        """The class's, which ``torch.export`` reads the names of arguments from."""
        return _class_forward(self._module()).__code__

    def __repr__(self) -> str:
        return f"<vitkern {self.adapter.name} of {self.name!r}, backend={self.backend!r}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Swap:
        adapter, backend, name, units, *forms = self._options()
        module = copy.deepcopy(self._module(), memo)
        return Swap(module, adapter, backend, name, units, *copy.deepcopy(forms, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        adapter, *options = self._options()
        return _restore, (self._module(), adapter.name, *options)

    def _module(self) -> nn.Module:
        module = self._owner()
        if module is None:
            raise ReferenceError(f"the patched module {self.name!r} no longer exists")
        return module

    def _options(
        self,
    ) -> tuple[
        Adapter, str | None, str, tuple[str, ...], ConvertedWeight | None, ConvertedWeight | None
    ]:
        return self.adapter, self.backend, self.name, self.units, self.form, self.under


def _callers_level() -> int:
    """The stacklevel of the first caller outside of vitkern and torch, seen from ``_warn``."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        level, frame = level + 1, frame.f_back
    return level


_LIBRARIES = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


def _transforms() -> bool:
    """Whether a torch.func transform (vmap, grad, jvp, ...) or forward-mode AD runs this call.

    Compiled backends have no rules for them, and the module's own forward has.
    """
    return torch._C._functorch.peek_interpreter_stack() is not None or _dual_level() >= 0


def _dual_level() -> int:
    level: int = torch.autograd.forward_ad._current_level
    return level


def _only_routed(x: Any) -> bool:
    """Whether the innermost function mode is that of a patched module around this one.

    It would see every attribute of a tensor that an op checks, at microseconds each, for nothing.
    """
    if torch.compiler.is_compiling() or type(x) not in (torch.Tensor, nn.Parameter):
        return False
    modes = torch._C._len_torch_function_stack()
    return modes > 0 and isinstance(torch._C._get_function_stack_at(modes - 1), RoutingMode)


class RoutingMode(TorchFunctionMode):
    """A mode that computes functions of PyTorch by ops while a patched module runs."""


def _class_forward(module: nn.Module) -> Any:
    return type(module).forward


def _restore(module: nn.Module, adapter: str, *options: Any) -> Swap:
    """Unpickles a swap; ``module`` has no attributes yet."""
    return Swap(module, adapters()[adapter], *options)


def swap_of(module: nn.Module) -> Swap | None:
    """The swap in the instance's ``forward``, if there is one."""
    # Not by ``__dict__.get``, which Dynamo does not guard on where there is none: what is compiled
    # before a layer gets a form would go on without it. Scripted modules may have none at all.
    forward = getattr(module, "forward", None)
    return forward if type(forward) is Swap else None


def is_patched(model: nn.Module) -> bool:
    """Whether any module of it is."""
    return any(swap_of(module) is not None for module in model.modules())


def _types(tensors: dict[str, Any]) -> tuple[type, ...]:
    return tuple(map(type, tensors.values()))


def _states(buffers: dict[str, Any]) -> list[tuple[int, int]]:
    """Which tensors the buffers are, and their versions: in-place changes raise these."""
    return [
        (id(one), 0 if one is None or one.is_inference() else one._version)
        for one in buffers.values()
    ]


class Snapshot:
    """The descendants of a module when its adapter last looked at it.

    Made to be compared quickly: the comparison runs in every call, and must cost less than the
    calls of children that a fused forward saves.
    """

    def __init__(self, module: nn.Module, swap: Swap) -> None:
        modules = [module] if swap.adapter.transparent else list(module.modules())
        units = {id(module._modules.get(name)) for name in swap.units}
        self.backend = swap.backend
        self.cls = type(module)
        self.families = [(m._modules, tuple(m._modules.values())) for m in modules if m._modules]
        self.parameters = [
            (m._parameters, tuple(m._parameters), _types(m._parameters))
            for m in modules
            if m._parameters
        ]
        self.buffers = [(m._buffers, _states(m._buffers)) for m in modules if m._buffers]
        # Of the module itself nothing is kept: it owns this, and would become a cycle.
        self.children = [(m, type(m), m.__dict__, id(m) in units) for m in modules[1:]]
        self.reasons = swap.adapter.match(module).reasons

    def outdated(self, module: nn.Module) -> bool:
        """Whether modules, parameters or buffers were replaced by others, or buffers changed in
        place, so that the adapter must look."""
        if type(module) is not self.cls:
            return True
        for modules, children in self.families:
            if tuple(modules.values()) != children:
                return True
        for tensors, names, types in self.parameters:
            if tuple(tensors) != names or _types(tensors) != types:
                return True
        for buffers, states in self.buffers:
            if _states(buffers) != states:
                return True
        for child, cls, _, _ in self.children:  # noqa: SIM110 - faster than any()
            if type(child) is not cls:
                return True
        return False

    def watched(self) -> bool:
        """Whether a descendant has hooks or a forward of its own, which only its call runs."""
        for _, _, state, unit in self.children:
            if (
                state["_forward_hooks"]
                or state["_forward_pre_hooks"]
                or state["_backward_hooks"]
                or state["_backward_pre_hooks"]
            ):
                return True
            if unit or "forward" in state:
                forward = state.get("forward")  # a unit without one was unpatched by itself
                if type(forward) is not Swap or forward.backend != self.backend:
                    return True
        return False
