"""The checked arguments of ``gated_mlp``, as its backends see them."""

from __future__ import annotations

from vitkern.ops.mlp.call import MlpCall


class GatedMlpCall(MlpCall):
    """The fields of an ``MlpCall``; ``weight1`` and ``bias1`` have both halves, the gate first."""

    __slots__ = ()
