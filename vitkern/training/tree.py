"""State of any nesting as tensors by name and JSON, and back, bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["digest", "join", "split"]

_TENSOR, _PAIRS, _TUPLE = "@tensor", "@pairs", "@tuple"


def split(tree: Any, name: str = "") -> tuple[Any, dict[str, torch.Tensor]]:
    """What JSON can hold, with names in place of tensors; and the tensors, as copies on the host.

    Raises:
        TypeError: something in ``tree`` that is neither a tensor nor plain data.
    """
    tensors: dict[str, torch.Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[path] = value.detach().to("cpu", copy=True).contiguous()
            return {_TENSOR: path}
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and not key.startswith("@") for key in value):
                return {key: walk(one, f"{path}/{key}") for key, one in value.items()}
            return {_PAIRS: [[key, walk(one, f"{path}/{key}")] for key, one in value.items()]}
        if isinstance(value, (list, tuple)):
            items = [walk(one, f"{path}/{place}") for place, one in enumerate(value)]
            return {_TUPLE: items} if isinstance(value, tuple) else items
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"{path or 'the state'} holds a {type(value).__name__}: not plain data")

    return walk(tree, name), tensors


def join(skeleton: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What :func:`split` took apart.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(skeleton, list):
        return [join(one, tensors) for one in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if _TENSOR in skeleton:
        return tensors[skeleton[_TENSOR]]
    if _PAIRS in skeleton:
        return {key: join(one, tensors) for key, one in skeleton[_PAIRS]}
    if _TUPLE in skeleton:
        return tuple(join(one, tensors) for one in skeleton[_TUPLE])
    return {key: join(one, tensors) for key, one in skeleton.items()}


def digest(skeleton: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """A checksum of everything: names, dtypes, shapes and bytes."""
    total = hashlib.blake2b(skeleton.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
