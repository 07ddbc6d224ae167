"""Renaming the keys of a state dict by a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

Weights = Mapping[str, torch.Tensor]
Rules = Sequence[tuple[str, str]]
"""Pairs of a regular expression, to be found in a key, and what to put in its place."""


def renamed(weights: Weights, rules: Rules) -> dict[str, torch.Tensor]:
    """``weights`` with every rule applied to each key, in their order.

    Raises:
        ValueError: two keys become one.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    result: dict[str, torch.Tensor] = {}
    origins: dict[str, str] = {}
    for key, value in weights.items():
        new = key
        for pattern, replacement in compiled:
            new = pattern.sub(replacement, new)
        if new in result:
            raise ValueError(f"checkpoint keys {origins[new]!r} and {key!r} both become {new!r}")
        result[new], origins[new] = value, key
    return result


def without(weights: Weights, suffixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """``weights`` but those whose keys end so: constants that a model computes itself."""
    return {key: value for key, value in weights.items() if not key.endswith(suffixes)}
