from __future__ import annotations

from tests.dispatch.toy import ToyCall
from vitkern.dispatch import Backend


def forward(call: ToyCall, needs_grad: bool) -> tuple[object, tuple[()]]:
    raise AssertionError("refused, and called all the same")


BACKEND = Backend(
    "picky", supports=lambda call: ["wrong moon", f"tag {call.tag!r}"], forward=forward
)
