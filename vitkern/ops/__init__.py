"""WHAT can be computed: one package an op. See each function for its shapes and its source."""

from vitkern.ops.layer_norm import layer_norm

__all__ = ["layer_norm"]
