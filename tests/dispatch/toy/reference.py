from __future__ import annotations

from tests.dispatch.toy import ToyCall
from vitkern.dispatch import Backend


def forward(call: ToyCall, needs_grad: bool) -> tuple[object, tuple[()]]:
    return call.x + 1 if call.bias is None else call.x + call.bias + 1, ()


BACKEND = Backend("eager", supports=lambda call: [], forward=forward)
