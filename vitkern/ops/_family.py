"""Families of kernels that operators are registered for: Triton's, CUDA's.

``torch.compile`` sees one opaque operator for each op, direction and family, with a fake
implementation whose shapes and strides are right because it is the allocation that the real one
makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops._plans import Planned, kind_of
from vitkern.ops._recorder import recorder
from vitkern.ops.weights import ConvertedWeight

Outputs = tuple[torch.Tensor, ...]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Family:
    """The kernels of one backend, in all ops.

    Args:
        name: of the backend; operators are in the namespace ``vitkern_<name>``.
        keys: dispatch keys that operators have implementations for.
        missing: why no kernel can run on this machine, or None.
        automatic: whether the backend may be chosen without being asked for by name.
        recording: whether launches are written down now, so that fake tensors make them too.
        settings: what launches follow from beside their arguments.

    Attributes:
        planned: what its operators do, by name.
    """

    def __init__(
        self,
        name: str,
        keys: Sequence[str],
        missing: Callable[[], str | None],
        *,
        automatic: bool = True,
        recording: Callable[[], Any] = lambda: None,
        settings: Callable[[], Any] | None = None,
    ) -> None:
        self.name, self.missing = name, missing
        self._keys, self._automatic, self._recording = tuple(keys), automatic, recording
        self._settings = settings
        self.planned: dict[str, Planned] = {}
        self._namespace = f"vitkern_{name}"
        self._library = torch.library.Library(self._namespace, "DEF")

    def operator(
        self,
        name: str,
        allocate: Callable[..., torch.Tensor | Outputs],
        launch: Callable[..., None],
    ) -> Callable[..., Any]:
        """Register ``vitkern_<family>::name`` and return it.

        Args:
            name: of the operator, unique.
            allocate: typed; gives the outputs, not yet computed: a tensor, or a tuple of several.
                Its annotations are the operator's schema.
            launch: ``launch(outputs, *arguments)`` computes them, a tuple: launches kernels on the
                current stream, does not wait. It is not called where every output is empty.
        """
        schema = torch.library.infer_schema(allocate, mutates_args=())
        self._library.define(name + schema)
        recording = self._recording

        def decide(*arguments: Any) -> torch.Tensor | Outputs:
            result = allocate(*arguments)
            outputs = (result,) if isinstance(result, torch.Tensor) else result
            if any(output.numel() for output in outputs):
                launch(outputs, *arguments)
            return result

        run = self.planned[name] = Planned(decide, recording, self._settings)

        def pretend(*arguments: Any) -> torch.Tensor | Outputs:
            return run(*arguments) if recording() else allocate(*arguments)

        for key in self._keys:
            self._library.impl(name, run, key)
        torch.library.register_fake(f"{self._namespace}::{name}", pretend, lib=self._library)
        registered: Callable[..., Any] = getattr(getattr(torch.ops, self._namespace), name)

        def call(*arguments: Any) -> Any:
            # Where nobody looks, without PyTorch's dispatcher, which takes as long as two launches.
            if torch.compiler.is_compiling() or (looked_at() and recorder() is None):
                return registered(*arguments)
            kind = kind_of(arguments)
            return registered(*arguments) if kind is None else run.run(kind, arguments)

        return call

    def backend(
        self,
        supports: Callable[[Any], list[str]],
        forward: Callable[[Any, bool], tuple[Any, Tensors]],
        backward: Callable[[Any, Tensors, tuple[Any, ...], tuple[bool, ...]], Tensors],
    ) -> Backend:
        """The backend of one op."""
        return Backend(
            self.name, supports, forward, backward, self.missing, self._automatic, recorded=True
        )


def looked_at() -> bool:
    """Whether a mode, a transform or a tracer has to see operators."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
    )


def empty_unless(needed: bool, like: torch.Tensor, shape: tuple[int, ...] | torch.Size,
                 dtype: torch.dtype | None = None) -> torch.Tensor:  # fmt: skip
    """A new tensor of that shape; one with no elements where it is not needed."""
    return like.new_empty(shape if needed else (0,), dtype=dtype or like.dtype)


def refusals(
    of_device: Callable[[torch.device], list[str]],
    tensors: Sequence[torch.Tensor | ConvertedWeight | None],
) -> list[str]:
    """Reasons to refuse tensors, whatever the op: their device, dtype or layout."""
    device = None
    for tensor in tensors:
        if tensor is None:
            continue
        if isinstance(tensor, ConvertedWeight):
            return [f"a weight in {tensor.form}; takes tensors"]
        if device is None:
            device = tensor.device
            reasons = of_device(device)
            if reasons:
                return reasons
        elif tensor.device != device:
            return [f"tensors on {device} and {tensor.device}; takes one device"]
        if tensor.dtype not in DTYPES:
            return [f"dtype {tensor.dtype}; takes float32, float16 and bfloat16"]
        if tensor.layout is not torch.strided:
            return [f"layout {tensor.layout}; takes strided tensors"]
    return []
