"""Parameters, gradients and optimizer state split over processes: PyTorch's FSDP2.

Accelerate has a plugin for it, which it ignores where the processes compute on CPUs (1.15 asks for
it on accelerators only). So ``fully_shard`` is called here, for all devices.

A block's own forward, patched or not, runs while FSDP has put its whole parameters in place of the
parts (DTensors). State leaves as whole tensors and comes back as such: files do not tell how many
processes wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

__all__ = [
    "load_model",
    "load_optimizer",
    "shard",
    "whole",
    "without_exchange",
]

_STACKS = ("blocks", "layers")


def shard(model: nn.Module, accelerator: Accelerator) -> None:
    """Splits a model's parameters over all processes, in place.

    Members of its ``blocks`` and ``layers`` are put together by themselves, one after the other;
    what is outside of these when the model is called.

    Raises:
        ValueError: a parameter that FSDP2 cannot split; names it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise ValueError(f"distributed='fsdp': {name} is a scalar, which FSDP2 cannot split")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Inner ones first, as ``fully_shard`` wants them; single layers are none."""
    for name, child in module.named_children():
        yield from _blocks(child)
        if name in _STACKS and isinstance(child, (nn.Sequential, nn.ModuleList)):
            yield from (block for block in child.children() if any(block.children()))


def without_exchange(model: nn.Module, accelerator: Accelerator) -> AbstractContextManager[Any]:
    """A context in which backward passes only add up gradients, under DDP as under FSDP2."""
    if accelerator.num_processes == 1:
        return nullcontext()
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        return _without_reducing(model)
    context: AbstractContextManager[Any] = accelerator.no_sync(model)
    return context


@contextmanager
def _without_reducing(model: Any) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def whole(state: Any) -> Any:
    """Nested state with whole tensors in place of parts. All processes must call it together."""
    if isinstance(state, torch.Tensor):
        part: Any = state
        return part.full_tensor() if _is_part(state) else state
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value) for value in state)
    return state


def load_model(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """``load_state_dict`` of whole tensors, of which each process takes its parts."""
    own = model.state_dict()
    model.load_state_dict({name: _like(own[name], value) for name, value in state.items()})


def load_optimizer(optimizer: Any, state: Mapping[str, Any]) -> None:
    """The same of an optimizer's state: tensors as large as their parameters, and scalars."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    parts = {
        number: {name: _like(parameters[number], value) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})


def _like(own: torch.Tensor, value: Any) -> Any:
    """``value`` split as ``own`` is."""
    if not isinstance(value, torch.Tensor) or not _is_part(own) or value.shape != own.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    part: Any = own
    value = value.to(part.device_mesh.device_type)
    # Every process has read the same file: nothing is to be sent.
    return distribute_tensor(value, part.device_mesh, part.placements, src_data_rank=None)


def _is_part(tensor: torch.Tensor) -> bool:
    if type(tensor) in (torch.Tensor, nn.Parameter) or not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
