"""Attention in windows of a map, shifted or not, as Swin has it.

From the map before it is shifted to the map after it was shifted back: the roll, the padding, the
partition, the layer that makes q, k and v, the attention with position bias and mask, the layer
behind it, and all that undoes the rest. Linear layers do the same to each position, and are done to
the map. However it is written: the values are followed (``movement.py``), and the numbers in bias
and mask are looked at (``known.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from vitkern import ops
from vitkern.patching import suitable
from vitkern.patching.graph.candidate import Candidate, Unsuitable
from vitkern.patching.graph.layout import Atom, Layout
from vitkern.patching.graph.movement import (
    BATCH,
    CHANNELS,
    COLUMNS,
    ROWS,
    Track,
    follow,
    map_of,
    moved,
    path_to,
)
from vitkern.patching.graph.patterns.attention import Step, around
from vitkern.patching.graph.patterns.linear import tails
from vitkern.patching.graph.patterns.window_scores import WindowScores
from vitkern.patching.graph.reading import Reading, only_user, read, value

OP = "window_attention"


def starts(reading: Reading) -> bool:
    """At PyTorch's attention, and at every softmax."""
    return reading.name in ("attention", "softmax")


@dataclass(frozen=True)
class _Attention:
    """The attention inside of the windows."""

    q: fx.Node
    k: fx.Node
    v: fx.Node
    k_is_transposed: bool
    nodes: tuple[fx.Node, ...]
    steps: tuple[tuple[fx.Node, Step], ...]
    dropout_p: float
    scale: float | None  # None is the usual one


@dataclass(frozen=True)
class _Windows:
    """The way into the windows.

    Attributes:
        root: the map.
        tracks: of q, k and v.
        nodes: from the map to q, k and v.
        window: height and width of one.
        heads: of the attention.
        width: of a head.
    """

    root: fx.Node
    tracks: tuple[Track, Track, Track]
    nodes: frozenset[fx.Node]
    window: tuple[int, int]
    heads: int
    width: int

    @property
    def many(self) -> bool:
        """Whether there is more than one window."""
        return self.tracks[0].size != self.window


def propose(node: fx.Node, reading: Reading, backend: str | None) -> Iterator[Candidate]:
    """The whole of it, with LayerScale and residual where they follow, or without."""
    attention = _attention(node, reading)
    windows = None if attention is None else _way_in(attention)
    if attention is None or windows is None:
        return
    q, k, _ = windows.tracks
    size = value(windows.root).shape[1:3]
    pads, rolls = "pad" in q.events, "roll" in q.events
    pad_first = pads and (not rolls or q.events.index("pad") < q.events.index("roll"))
    rolled = q.size if pad_first else size
    shift = (-q.shift[0] % rolled[0], -q.shift[1] % rolled[1])
    if not windows.many and not any(shift) and not attention.steps:
        return  # attention of all positions to all
    if attention.dropout_p:
        raise Unsuitable("drops weights of its attention, which the op does not")
    if any(s >= w for s, w in zip(shift, windows.window, strict=True)):
        raise Unsuitable("is shifted by more than a window")
    if any(all_ - s >= w for all_, s, w in zip(q.size, size, windows.window, strict=True)):
        raise Unsuitable("is padded by more than its windows need")
    counts = (q.size[0] // windows.window[0], q.size[1] // windows.window[1])
    scale = windows.width**-0.5 if attention.scale is None else attention.scale
    scores = WindowScores(
        q.layout[:-2], counts, windows.window, shift, windows.heads, scale * q.factor * k.factor
    )
    try:
        for one, step in attention.steps:
            scores.step(one, step)
    except Unsuitable:
        if windows.many or any(shift):
            raise
        return  # of all positions to all, with a bias of another kind
    if any(shift) and not scores.masked:
        raise Unsuitable("is shifted, and has no mask")
    if not windows.many and scores.table is None and not any(shift):
        return
    out, projection, end = _way_out(attention.nodes[-1], windows, (size[0], size[1]), pad_first)
    layers = _layers(windows.tracks)
    events = [_kind(event) for event in q.events]
    pads_bias = pads and "linear" in events[events.index("pad") :]
    nodes = {*windows.nodes, *attention.nodes, *out} - {end}
    for tail, epilogue in tails(end) if projection else [([], {})]:
        yield Candidate(
            "window_attention",
            (*nodes, end, *tail),
            window_attention,
            (backend, windows.root, scores.table, layers, projection),
            {
                "num_heads": windows.heads,
                "window_size": windows.window,
                "shift_size": shift,
                "scale": scores.scale,
                "pad_first": pad_first,
                "pads_bias": pads_bias,
                **epilogue,
            },
            read=tuple(dict.fromkeys((*scores.read, *_measured(nodes)))),
            assumed=scores.assumed,
        )


def _measured(nodes: set[fx.Node]) -> list[fx.Node]:
    """The nodes that ask for the sizes of ``nodes``, and compute with them."""
    found: list[fx.Node] = []
    waiting = list(nodes)
    while waiting:
        for user in waiting.pop().users:
            sizes = value(user)
            numbers = isinstance(sizes, torch.Size | int | torch.SymInt) or user.target == "size"
            if numbers and user not in found:
                found.append(user)
                waiting.append(user)
    return found


def _attention(node: fx.Node, reading: Reading) -> _Attention | None:
    """The attention at a node; None where it is none that could be in windows."""
    if reading.name == "attention":
        q, k, v = (reading[name] for name in ("query", "key", "value"))
        scale, mask = reading["scale"], reading["attn_mask"]
        if reading["is_causal"] or not all(isinstance(one, fx.Node) for one in (q, k, v)):
            return None
        if not (scale is None or isinstance(scale, int | float)):
            return None
        if isinstance(value(mask), torch.Tensor) and value(mask).dtype == torch.bool:
            return None
        steps: tuple[tuple[fx.Node, Step], ...] = ()
        if mask is not None:
            steps = ((node, ("plus", mask)),)
        return _Attention(q, k, v, False, (node,), steps, reading["dropout_p"], scale)
    try:
        found = around(node, reading)
    except Unsuitable:  # which the pattern for attention reports
        return None
    if found is None or not all(
        isinstance(one, fx.Node) for one in (found.q, found.k_transposed, found.v)
    ):
        return None
    return _Attention(
        found.q, found.k_transposed, found.v, True, found.nodes, found.steps, found.dropout_p, 1.0
    )


def _way_in(attention: _Attention) -> _Windows | None:
    """From a map to q, k and v in windows of it; None where that is not what they come from.

    Raises:
        Unsuitable: it is, of a map whose size is not known.
    """
    paths = [path_to(one) for one in (attention.q, attention.k, attention.v)]
    shared = 0
    while all(len(path) > shared for path in paths) and len({path[shared] for path in paths}) == 1:
        shared += 1
    for i in range(shared):
        found = _from(paths, i, attention)
        if found is not None:
            # A layer that comes first is no part of it.
            following = read(paths[0][i + 1]) if i + 1 < shared else None
            behind = following is not None and following.name == "linear"
            return (_from(paths, i + 1, attention) if behind else None) or found
    for node in paths[0]:
        reading = read(node)
        rolls = reading is not None and reading.name == "roll"
        if rolls and any(isinstance(size, torch.SymInt) for size in value(node).shape[1:]):
            raise Unsuitable("is in windows of a map whose height or width is dynamic")
    return None


def _from(paths: list[list[fx.Node]], start: int, attention: _Attention) -> _Windows | None:
    """That from the map at a place of the paths; None where it is none."""
    track = map_of(paths[0][start])
    tracks: list[Track] = []
    for path in paths:
        found = track
        for node in path[start + 1 :]:
            found = found and follow(found, node)
        if found is None:
            return None
        tracks.append(found)
    q, k, v = tracks
    if attention.k_is_transposed:
        k = Track(**{**vars(k), "layout": (*k.layout[:-2], k.layout[-1], k.layout[-2])})
    if v.factor != 1.0 or "crop" in q.events or not len(q.layout) == len(k.layout) >= 3:
        return None
    kinds = [tuple(_kind(one) for one in each.events) for each in (q, k, v)]
    if not kinds[0] == kinds[1] == kinds[2] or len(set(kinds[0])) != len(kinds[0]):
        return None
    if not q.shift == k.shift == v.shift or not q.size == k.size == v.size:
        return None
    layers = len({each.events for each in (q, k, v)})
    if layers == 2 or not q.channels == k.channels == v.channels:
        return None  # two of q, k and v are one
    channels, rest = divmod(q.channels, 3) if layers == 1 else (q.channels, 0)
    offsets = (0, channels, 2 * channels) if layers == 1 else (0, 0, 0)
    if rest or (q.offset, k.offset, v.offset) != offsets:
        return None
    places, width = q.layout[-2], q.layout[-1]
    if len(width) != 1 or width[0][0] != CHANNELS or channels % width[0].size:
        return None
    window = tuple(_extent(places, axis) for axis in (ROWS, COLUMNS))
    heads = channels // width[0].size
    expected = _layout(q, (window[0], window[1]), heads, width[0].size)
    for each in (q, k, v):
        leading = tuple(atom for dim in each.layout[:-2] for atom in dim)
        if (leading, *each.layout[-2:]) != expected or each.layout[:-2] != q.layout[:-2]:
            return None
    nodes = frozenset(node for path in paths for node in path[start + 1 :])
    return _Windows(paths[0][start], (q, k, v), nodes, (window[0], window[1]), heads, width[0].size)


def _kind(event: str | fx.Node) -> str:
    return event if isinstance(event, str) else "linear"


def _extent(places: tuple[Atom, ...], axis: int) -> int:
    return next((atom.size for atom in places if atom.axis == axis), 1)


def _layout(track: Track, window: tuple[int, int], heads: int, width: int) -> Layout:
    """Of windows as Swin has them: which one and which head, where in it, and the head's width."""
    rows, columns = track.size[0] // window[0], track.size[1] // window[1]
    leading = (
        Atom(BATCH, track.batch),
        Atom(ROWS, rows, window[0]),
        Atom(COLUMNS, columns, window[1]),
        Atom(CHANNELS, heads, width),
    )
    places = (Atom(ROWS, window[0]), Atom(COLUMNS, window[1]))
    dims = (leading, places, (Atom(CHANNELS, width),))
    return tuple(tuple(atom for atom in dim if atom.size != 1) for dim in dims)


def _layers(tracks: tuple[Track, ...]) -> tuple[tuple[Any, Any], ...]:
    """Weight and bias of the layer that makes q, k and v, or of each of the three."""
    found: dict[fx.Node, tuple[Any, Any]] = {}
    for track in tracks:
        for node in track.events:
            reading = read(node)
            if isinstance(node, fx.Node) and reading is not None:
                found[node] = (reading["weight"], reading["bias"])
    return tuple(found.values())


def _way_out(
    node: fx.Node, windows: _Windows, size: tuple[int, int], pad_first: bool
) -> tuple[list[fx.Node], tuple[Any, ...], fx.Node]:
    """From the windows back to the map: nodes, weight and bias of a layer there, the last node.

    Raises:
        Unsuitable: it is not put together as it was.
    """
    q = windows.tracks[0]
    channels = windows.heads * windows.width
    track = Track(q.layout, q.batch, q.size, channels)
    rolled = q.size if pad_first else size
    nodes: list[fx.Node] = []
    found: tuple[list[fx.Node], tuple[Any, ...], fx.Node] | None = None
    while True:
        user = only_user(node)
        reading = read(user)
        if user is None or reading is None or moved(user) is not node:
            break
        if found is not None and reading.name == "linear":
            break
        following = follow(track, user)
        if following is None:
            break
        node, track = user, following
        nodes.append(node)
        order = [event for event in map(_kind, track.events) if event != "linear"]
        turned = all(
            (out + back) % length == 0
            for out, back, length in zip(track.shift, q.shift, rolled, strict=True)
        )
        whole = track.is_map and track.size == size and turned and track.factor == 1.0
        if whole and (len(order) < 2 or order == (["roll", "crop"] if pad_first else _CROPPED)):
            readings = [read(one) for one in track.events if isinstance(one, fx.Node)]
            layers = [(one["weight"], one["bias"]) for one in readings if one is not None]
            found = list(nodes), layers[0] if layers else (), node
    if found is None:
        raise Unsuitable("is not put back into a map as it was taken from it")
    return found


_CROPPED = ["crop", "roll"]


def window_attention(
    backend: str | None,
    x: Any,
    table: Any,
    layers: tuple[tuple[Any, Any], ...],
    projection: tuple[Any, ...],
    *,
    num_heads: int,
    window_size: tuple[int, int],
    shift_size: tuple[int, int],
    scale: float,
    pad_first: bool,
    pads_bias: bool,
    gamma: Any = None,
    residual: Any = None,
) -> Any:
    """Attention in windows of a map, between linear layers.

    Args:
        backend: asked for by name, or None.
        x: (B, H, W, channels), or (B, H, W, 3*C) where there are no layers.
        table: of the position bias, or None.
        layers: weight and bias of the one that makes q, k and v, or of each of the three.
        projection: weight and bias of the layer behind, or nothing.
        num_heads: as of ``ops.window_attention``, and the next ones.
        window_size: likewise.
        shift_size: likewise.
        scale: likewise.
        pad_first: likewise.
        pads_bias: whether padded positions have the layers' bias as their q, k and v, not zeros.
        gamma: what the projection's result is multiplied with, or None.
        residual: what is added to that, or None.
    """
    parts = [_linear(backend, x, weight, bias) for weight, bias in layers]
    y = x if not parts else parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    pad = None
    if pads_bias and any(bias is not None for _, bias in layers):
        biases = [weight.new_zeros(weight.shape[:1]) if bias is None else bias
                  for weight, bias in layers]  # fmt: skip
        pad = biases[0] if len(biases) == 1 else torch.cat(biases)
    reason = suitable.window_attention(backend, y, table, pad, window_size)
    if reason is not None:
        raise Unsuitable(reason)
    y = ops.window_attention(
        y,
        table,
        num_heads=num_heads,
        window_size=window_size,
        shift_size=shift_size,
        scale=scale,
        pad_value=pad,
        pad_first=pad_first,
        backend=backend,
    )
    if not projection:
        return y
    if gamma is None and residual is None:
        return _linear(backend, y, *projection)
    return ops.linear(y, *projection, gamma=gamma, residual=residual, backend=backend)


def _linear(backend: str | None, x: Any, weight: Any, bias: Any) -> Any:
    if suitable.linear(backend, x, weight, bias) is None:
        return ops.linear(x, weight, bias, backend=backend)
    return torch.nn.functional.linear(x, weight, bias)
