"""Patch embedding: a convolution whose stride is its kernel, and tokens made of its map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from vitkern import ops
from vitkern.patching import suitable
from vitkern.patching.graph.candidate import Candidate, Unsuitable
from vitkern.patching.graph.reading import Reading, only_user, read, shape, value

OP = "patch_embed"
_OTHERWISE = "is not followed by a flatten and a transpose, or by a permute to channels last"


def starts(reading: Reading) -> bool:
    """At convolutions whose stride is their kernel."""
    if reading.name != "conv2d":
        return False
    kernel = shape(reading["weight"])
    stride, images = reading["stride"], shape(reading["input"])
    if images is None or len(images) != 4 or not isinstance(stride, int | tuple | list):
        return False
    pair = (stride, stride) if isinstance(stride, int) else tuple(stride)
    return kernel is not None and pair * (2 // len(pair)) == kernel[2:] and pair != (1, 1)


def propose(node: fx.Node, reading: Reading, backend: str | None) -> Iterator[Candidate]:
    """(B, N, D) tokens, or a (B, H, W, D) map."""
    arguments = tuple(
        reading[name]
        for name in ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    )
    nodes = [node]
    user, following = only_user(node), read(only_user(node))
    if user is None or following is None or following["input"] is not node:
        raise Unsuitable(_OTHERWISE)
    if _permutes(following, (0, 2, 3, 1)):
        yield Candidate("patch_embed", (node, user), to_map, (backend, *arguments))
        return
    batch, dim, height, width = value(node).shape
    flat = shape(user) if following.name in ("flatten", "view") else None
    if flat is None or len(flat) != 3 or flat[:2] != (batch, dim) or flat[2] != height * width:
        raise Unsuitable(_OTHERWISE)
    nodes.append(user)
    last, following = only_user(user), read(only_user(user))
    if last is not None and following is not None and following["input"] is user:
        swaps = following.name == "transpose" and {
            following["dim0"] % 3, following["dim1"] % 3
        } == {1, 2}  # fmt: skip
        if swaps or _permutes(following, (0, 2, 1)):
            yield Candidate("patch_embed", (*nodes, last), to_tokens, (backend, *arguments))
            return
    raise Unsuitable(_OTHERWISE)


def _permutes(reading: Reading, order: tuple[int, ...]) -> bool:
    dims = reading.arguments.get("dims")
    if reading.name != "permute" or not isinstance(dims, tuple | list):
        return False
    return tuple(one % len(order) for one in dims) == order


def to_tokens(backend: str | None, *arguments: Any) -> Any:
    """``F.conv2d(*arguments).flatten(2).transpose(1, 2)``."""
    reason = suitable.patch_embed(*arguments)
    if reason is not None:
        raise Unsuitable(reason)
    return ops.patch_embed(*arguments[:3], backend=backend)


def to_map(backend: str | None, *arguments: Any) -> Any:
    """``F.conv2d(*arguments).permute(0, 2, 3, 1)``."""
    (height, width), (rows, columns) = arguments[0].shape[2:], arguments[1].shape[2:]
    tokens = to_tokens(backend, *arguments)
    return tokens.unflatten(1, (height // rows, width // columns))
