"""Follows a (B, H, W, C) map through a graph: shift, padding, partition, linear layers, heads.

Whether views and permutations partition a map as Swin does is not told from how they are written,
of which there are many ways, but from where they bring the values: see
:mod:`~vitkern.patching.graph.layout`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from vitkern.patching.graph.layout import Atom, Layout, Size, regrouped, sizes, whole
from vitkern.patching.graph.reading import Reading, idle, read, shape, value

BATCH, ROWS, COLUMNS, CHANNELS = range(4)


@dataclass(frozen=True)
class Track:
    """Where the values of a map are, some nodes further on.

    Attributes:
        layout: of the tensor that they are in now; its axes are those of the map.
        batch: of the map.
        size: height and width of the map as it is now.
        channels: of the map as they are now.
        shift: by how much it was rolled, down and right.
        offset: the first channel of those that were selected.
        factor: what it was multiplied with.
        events: what was done to the map, in order: "pad", "roll", "crop", and linear layers as
            their nodes.
    """

    layout: Layout
    batch: Size
    size: tuple[int, int]
    channels: int
    shift: tuple[int, int] = (0, 0)
    offset: int = 0
    factor: float = 1.0
    events: tuple[str | fx.Node, ...] = ()

    @property
    def is_map(self) -> bool:
        """Whether the tensor is the map itself, all of its channels."""
        return self.layout == whole((self.batch, *self.size, self.channels))


def map_of(node: fx.Node) -> Track | None:
    """The track that starts at a node; None where it gives no map of a known size."""
    found = value(node)
    if not isinstance(found, torch.Tensor) or found.dim() != 4:
        return None
    batch, *rest = sizes(found.shape)
    if not all(isinstance(size, int) and size > 0 for size in rest):
        return None
    if isinstance(batch, int) and batch < 1:
        return None
    height, width, channels = rest
    return Track(whole((batch, *rest)), batch, (height, width), channels)


def moved(node: Any) -> fx.Node | None:
    """The tensor that a node moves, multiplies with a number, or puts through a linear layer."""
    reading = read(node)
    if reading is None:
        return None
    if reading.name not in _FOLLOWED and not idle(reading):
        return None
    source = reading["input"]
    if reading.name == "mul" and isinstance(source, int | float):
        source = reading["other"]
    return source if isinstance(source, fx.Node) else None


def path_to(node: fx.Node) -> list[fx.Node]:
    """The nodes on the way to ``node``, as far back as they move one tensor, itself the last."""
    path = [node]
    linears = 0
    while True:
        source, reading = moved(path[0]), read(path[0])
        linears += reading is not None and reading.name == "linear"
        if source is None or linears > 1:
            return path
        path.insert(0, source)


def follow(track: Track, node: fx.Node) -> Track | None:
    """The track behind ``node``; None where it does what cannot be followed."""
    reading = read(node)
    if reading is None:
        return None
    if idle(reading):
        return track
    step = _FOLLOWED.get(reading.name)
    if step is None:
        return None
    return step(track, node, reading)


def _as_it_is(track: Track, node: fx.Node, reading: Reading) -> Track:
    return track


def _relaid(track: Track, node: fx.Node, reading: Reading) -> Track | None:
    layout = relaid(track.layout, node)
    return None if layout is None else replace(track, layout=layout)


def relaid(layout: Layout, node: fx.Node) -> Layout | None:
    """That of what a view, permutation or expansion gives; None for other nodes."""
    reading = read(node)
    if reading is None or value(node).dtype != value(reading["input"]).dtype:
        return None
    if idle(reading) or reading.name in _COPIES:
        return layout
    if reading.name in _VIEWS or _inserts(reading):
        return regrouped(layout, sizes(value(node).shape))
    if reading.name == "expand":
        return expanded(layout, sizes(value(node).shape))
    if reading.name not in _PERMUTATIONS:
        return None
    rank = len(layout)
    order = list(range(rank))
    if reading.name == "transpose":
        first, second = reading["dim0"], reading["dim1"]
        order[first], order[second] = order[second], order[first]
    else:
        order = [dim % rank for dim in reading["dims"]]
    return tuple(layout[dim] for dim in order)


def relays(reading: Reading) -> bool:
    """Whether a node is one that :func:`relaid` knows."""
    return reading.name in _RELAYING or idle(reading) or _inserts(reading)


def _inserts(reading: Reading) -> bool:
    """Whether a node takes all of a tensor, with further dimensions of size 1: ``x[:, None]``."""
    given = shape(reading["input"]) if reading.name == "getitem" else None
    if given is None:
        return False
    index = reading["index"] if isinstance(reading["index"], tuple) else (reading["index"],)
    return all(
        one is None or one is Ellipsis or (isinstance(one, slice) and one == slice(None))
        for one in index
    )


def expanded(layout: Layout, shape: tuple[Size, ...]) -> Layout | None:
    dims: list[tuple[Atom, ...]] = [()] * (len(shape) - len(layout)) + list(layout)
    for dim, size in enumerate(shape):
        if not dims[dim] and size != 1:
            dims[dim] = (Atom(None, size, 0),)
    return tuple(dims)


def _linear(track: Track, node: fx.Node, reading: Reading) -> Track | None:
    weight = shape(reading["weight"])
    every = whole((track.channels,), (CHANNELS,))[0]
    if weight is None or len(weight) != 2 or track.layout[-1] != every or track.factor != 1.0:
        return None
    if type(weight[0]) is not int:
        return None
    layout = (*track.layout[:-1], *whole((weight[0],), (CHANNELS,)))
    return replace(track, layout=layout, channels=weight[0], events=(*track.events, node))


def _scaled(track: Track, node: fx.Node, reading: Reading) -> Track | None:
    numbers = [
        one for one in (reading["input"], reading["other"]) if isinstance(one, int | float)
    ]  # fmt: skip
    if len(numbers) != 1:
        return None
    if reading.name == "mul":
        return replace(track, factor=track.factor * numbers[0])
    if numbers[0] != reading["other"] or numbers[0] == 0 or reading["rounding_mode"] is not None:
        return None
    return replace(track, factor=track.factor / numbers[0])


def _rolled(track: Track, node: fx.Node, reading: Reading) -> Track | None:
    shifts, dims = reading["shifts"], reading["dims"]
    pairs = [(shifts, dims)] if isinstance(shifts, int) else None
    if pairs is None:
        if not isinstance(dims, tuple | list) or len(dims) != len(shifts):
            return None
        pairs = list(zip(shifts, dims, strict=True))
    elif isinstance(dims, tuple | list):
        pairs = [(shifts, dim) for dim in dims]
    by = [0, 0]
    for shift, dim in pairs:
        if type(shift) is not int or type(dim) is not int or dim % 4 not in (ROWS, COLUMNS):
            return None
        by[dim % 4 - 1] += shift
    if not any(by):
        return track
    if not track.is_map:
        return None
    down, right = track.shift[0] + by[0], track.shift[1] + by[1]
    events = track.events if track.events[-1:] == ("roll",) else (*track.events, "roll")
    return replace(track, shift=(down, right), events=events)


def _padded(track: Track, node: fx.Node, reading: Reading) -> Track | None:
    pad = reading["pad"]
    if not isinstance(pad, tuple | list) or not all(type(one) is int for one in pad):
        return None
    if not any(pad):
        return track
    if not track.is_map or reading["mode"] != "constant" or reading["value"] not in (None, 0):
        return None
    before, after = [*pad[0::2], 0, 0, 0, 0][:4], [*pad[1::2], 0, 0, 0, 0][:4]
    if any(before) or after[0] or after[3] or min(after) < 0:
        return None
    return _resized(track, (track.size[0] + after[2], track.size[1] + after[1]), "pad")


def _resized(track: Track, size: tuple[int, int], event: str) -> Track:
    layout = whole((track.batch, *size, track.channels))
    return replace(track, layout=layout, size=size, events=(*track.events, event))


def _item(track: Track, node: fx.Node, reading: Reading) -> Track | None:
    source, index = reading["input"], reading["index"]
    if _inserts(reading):
        return _relaid(track, node, reading)
    if isinstance(value(source), tuple | list):
        return _of_several(track, source, index)
    given = shape(source)
    if given is None:
        return None
    entries = index if isinstance(index, tuple) else (index,)
    if not all(type(one) is int or isinstance(one, slice) for one in entries):
        return None
    if len(entries) > len(given):
        return None
    cuts: dict[int, tuple[int, int]] = {}
    chosen: list[tuple[int, int]] = []
    for dim, one in enumerate(entries):
        if isinstance(one, int):
            chosen.append((dim, one))
        elif not _everything(one, given[dim]):
            if type(given[dim]) is not int or not _numbers(one):
                return None
            start, stop, step = one.indices(given[dim])
            if step != 1 or stop <= start:
                return None
            cuts[dim] = (start, stop - start)
    found: Track | None = track
    if cuts and track.is_map and cuts.keys() <= {ROWS, COLUMNS}:
        if any(start for start, _ in cuts.values()) or chosen:
            return None
        size = tuple(cuts[dim][1] if dim in cuts else given[dim] for dim in (ROWS, COLUMNS))
        return _resized(track, (size[0], size[1]), "crop")
    for dim, (start, length) in cuts.items():
        found = found and _narrowed(found, dim, start, length)
    for dim, one in reversed(chosen):
        found = found and _selected(found, dim, one)
    return found


def _everything(one: slice, size: Any) -> bool:
    """Whether a slice takes all."""
    if one.start not in (None, 0) or one.step not in (None, 1):
        return False
    return one.stop is None or (
        type(one.stop) is int and type(size) is int and one.stop >= size
    )  # fmt: skip


def _numbers(one: slice) -> bool:
    return all(part is None or type(part) is int for part in (one.start, one.stop, one.step))


def _of_several(track: Track, source: Any, index: Any) -> Track | None:
    """One of the results of an unbind, chunk or split."""
    reading = read(source)
    if reading is None or type(index) is not int or type(reading["dim"]) is not int:
        return None
    dim = reading["dim"] % len(track.layout)
    if reading.name == "unbind":
        return _selected(track, dim, index)
    lengths = [one.shape[dim] for one in value(source)]
    index %= len(lengths)
    return _narrowed(track, dim, sum(lengths[:index]), lengths[index])


def _select(track: Track, node: fx.Node, reading: Reading) -> Track | None:
    return _selected(track, reading["dim"] % len(track.layout), reading["index"])


def _selected(track: Track, dim: int, index: Any) -> Track | None:
    """The channels at one place of a dimension that is of channels only."""
    atoms = track.layout[dim]
    if len(atoms) != 1 or type(index) is not int or type(atoms[0].size) is not int:
        return None
    found = _narrowed(track, dim, index % atoms[0].size, 1)
    if found is None:
        return None
    return replace(found, layout=(*found.layout[:dim], *found.layout[dim + 1 :]))


def _narrowed(track: Track, dim: int, start: Any, length: Any) -> Track | None:
    atoms = track.layout[dim]
    if len(atoms) != 1 or atoms[0].axis != CHANNELS:
        return None
    if type(start) is not int or type(length) is not int:
        return None
    step = atoms[0].step
    kept = () if length == 1 else (Atom(CHANNELS, length, step),)
    return replace(
        track,
        layout=(*track.layout[:dim], kept, *track.layout[dim + 1 :]),
        offset=track.offset + start * step,
    )


_COPIES = ("contiguous", "clone")
_VIEWS = ("view", "flatten", "unflatten", "squeeze", "unsqueeze")
_PERMUTATIONS = ("permute", "transpose")
_RELAYING = (*_COPIES, *_VIEWS, *_PERMUTATIONS, "expand")
_FOLLOWED: dict[str, Callable[[Track, fx.Node, Reading], Track | None]] = {
    **dict.fromkeys(("unbind", "chunk", "split"), _as_it_is),
    **dict.fromkeys((*_COPIES, *_VIEWS, *_PERMUTATIONS), _relaid),
    **dict.fromkeys(("mul", "div"), _scaled),
    "linear": _linear,
    "roll": _rolled,
    "pad": _padded,
    "getitem": _item,
    "select": _select,
}
