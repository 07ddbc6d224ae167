"""How other libraries name and cut the weights of the models that are here.

A layout says whether a state dict is its own, and gives the same weights under our keys. Ours are
timm's (DETR has keys of its own), so timm's checkpoints need no layout.
"""

from __future__ import annotations

from vitkern.models.layouts._layout import Layout, Weights, layout_of

__all__ = ["Layout", "Weights", "layout_of"]
