"""Which calls are alike: one decision holds for all of them."""

from __future__ import annotations

import ast
import functools
from typing import Any

import torch

Key = tuple[Any, ...]
"""The op's name, device, threads, then an entry a field. Hashable, unless a field is not."""

_PLAIN = frozenset((type(None), bool, int, float, str, tuple))
_Parameter = torch.nn.Parameter
_STRIDED = torch.strided


def key_of(op: str, call: tuple[Any, ...]) -> Key | None:
    """The key of a call; None where no decision can be made about it.

    A tensor counts with its shape, dtype, whether it is contiguous, whether it is a parameter (the
    packed form of one is kept) and whether a gradient of it is wanted; a weight in another form
    (``vitkern.ops.weights``) with that form and as a tensor. Tensors of other classes stand for
    something else, and are not timed.
    """
    wanted = torch.is_grad_enabled()
    device = None
    parts: list[Any] = [op, None, torch.get_num_threads()]
    try:
        for value in call:
            cls = type(value)
            if cls is torch.Tensor or cls is _Parameter:
                if device is None:
                    device = "cpu" if value.is_cpu else _device(value.device)
                whole = value.is_contiguous()
                if not whole and value.layout is not _STRIDED:
                    return None
                grad = wanted and value.requires_grad
                parts.append((value.shape, value.dtype, whole, cls is _Parameter, grad))
            elif cls in _PLAIN:
                parts.append(value)
            else:
                source = value.source
                whole, kept = source.is_contiguous(), type(source) is _Parameter
                parts.append((value.form, value.dynamic, source.shape, source.dtype, whole, kept))
    except (AttributeError, RuntimeError):  # unknown objects, nested tensors
        return None
    if device is None or device == "meta":
        return None
    parts[1] = device
    return tuple(parts)


def is_hashable(key: Key) -> bool:
    """Whether the key can be looked up. Not said by ``key_of``: hashing it takes as long again."""
    try:
        hash(key)
    except TypeError:
        return False
    return True


def variant_key(kernel: str, device: torch.device, likeness: tuple[Any, ...]) -> Key:
    """The key of the choice among the forms of a backend's kernel (``"triton:linear.forward"``)."""
    return (kernel, _device(device), None, *likeness)


def is_variant(key: Key) -> bool:
    """Whether the key is one of ``variant_key``, and not of a call."""
    return ":" in key[0]


def wants_gradient(call: tuple[Any, ...]) -> bool:
    """Whether the result of the call has to be differentiable."""
    return torch.is_grad_enabled() and any(
        isinstance(value, torch.Tensor) and value.requires_grad for value in call
    )


def to_text(key: Key) -> str | None:
    """The key for a file; None where it could not be read back (infinite numbers)."""
    text = repr(_plain(key))
    try:
        return text if from_text(text) == key else None
    except ValueError:
        return None


def from_text(text: str) -> Key:
    """What ``to_text`` wrote.

    Raises:
        ValueError: no such text.
    """
    try:
        key = _typed(ast.literal_eval(text))
        hash(key)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"not a key: {text[:80]!r}") from error
    if not isinstance(key, tuple) or len(key) < 4 or not isinstance(key[0], str):
        raise ValueError(f"not a key: {text[:80]!r}")
    return key


def first_shape(key: Key) -> Any:
    """The shape of the call's first field, where that is a tensor."""
    first = key[3]
    return first[0] if isinstance(first, tuple) and first else None


def _plain(value: Any) -> Any:
    """Of Python's own types: ``torch.Size`` and dtypes have texts that are not Python's."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return str(value) if isinstance(value, torch.dtype) else value


def _typed(value: Any) -> Any:
    """The other way."""
    if isinstance(value, tuple):
        return tuple(map(_typed, value))
    if isinstance(value, str) and value.startswith("torch."):
        dtype = getattr(torch, value.removeprefix("torch."), None)
        return dtype if isinstance(dtype, torch.dtype) else value
    return value


@functools.cache
def _device(device: torch.device) -> str:
    """The kind of device, and which: two cards of one machine may differ."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return device.type
