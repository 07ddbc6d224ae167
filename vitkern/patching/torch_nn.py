"""PyTorch's own layers, where no adapter of a library covers them."""

from __future__ import annotations

from vitkern.patching import layers
from vitkern.patching.products import Products

ADAPTERS = (
    layers.LayerNorm("torch.LayerNorm", "torch.nn:LayerNorm"),
    layers.Linear("torch.Linear", "torch.nn:Linear"),
    Products(
        "torch.attention",
        "torch.nn:MultiheadAttention",
        "torch.nn:TransformerDecoderLayer",
        "torch.nn:TransformerEncoderLayer",
    ),
)
