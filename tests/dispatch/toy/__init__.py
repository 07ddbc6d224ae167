"""An op with backends that do little, to test dispatch without kernels.

``eager`` adds one to ``x``; ``double`` adds two and so can be told apart, and has a backward of
its own; ``picky`` refuses everything, with two reasons.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class ToyCall(NamedTuple):
    x: torch.Tensor
    bias: torch.Tensor | None
    tag: str
