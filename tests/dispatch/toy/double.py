from __future__ import annotations

from typing import Any

import torch

from tests.dispatch.toy import ToyCall
from vitkern.dispatch import Backend

LOG: list[tuple[Any, ...]] = []


def supports(call: ToyCall) -> list[str]:
    return ["takes float32"] if call.x.dtype != torch.float32 else []


def forward(call: ToyCall, needs_grad: bool) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    if not torch.compiler.is_compiling():  # the log would be what compiled code is valid for
        LOG.append(("forward", needs_grad))
    out = call.x + 2 if call.bias is None else call.x + call.bias + 2
    return out, (out,) if needs_grad else ()


def backward(
    call: ToyCall, saved: Any, grads: tuple[torch.Tensor, ...], needs: tuple[bool, ...]
) -> tuple[torch.Tensor | None, ...]:
    LOG.append(("backward", needs, call.tag, len(saved)))
    return (*(grads[0] * 10 if need else None for need in needs[:2]), None)


BACKEND = Backend("double", supports, forward, backward)
