"""What is added to the scores of attention in windows: Swin's position bias, and its mask."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from vitkern.ops.window_attention.reference import MASKED, relative_positions, shift_mask
from vitkern.patching.graph.candidate import Unsuitable
from vitkern.patching.graph.known import Known, known
from vitkern.patching.graph.layout import Atom, Layout, aligned, regrouped, sizes, whole
from vitkern.patching.graph.movement import (
    BATCH,
    CHANNELS,
    COLUMNS,
    ROWS,
    expanded,
    relaid,
    relays,
)
from vitkern.patching.graph.reading import read, shape, value

# In a window: the row and column of the query, and of the key. And the heads of a table.
_PLACES = ("query row", "query column", "key row", "key column")
_HEADS = "head"
_INDICES = (torch.int64, torch.int32)  # a bool is a mask
_OTHER = "adds to its scores what is neither Swin's position bias nor its mask"


@dataclass
class WindowScores:
    """The scores of all windows, as they are changed one node after the other.

    Attributes:
        leading: the layout of q before its last two dimensions.
        windows: how many, down and right.
        window: height and width of one.
        shift: of the map, up and left.
        heads: of the attention.
        scale: what the product is multiplied with.
        table: of the position bias.
        masked: whether the mask was added.
        read: nodes whose values the op makes itself.
        assumed: inputs of the graph, and the values that they were found to have.
    """

    leading: Layout
    windows: tuple[int, int]
    window: tuple[int, int]
    shift: tuple[int, int]
    heads: int
    scale: float
    table: fx.Node | None = None
    masked: bool = False
    read: list[fx.Node] = field(default_factory=list)
    assumed: dict[fx.Node, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        places = [Atom(place, size) for place, size in zip(_PLACES, self.window * 2, strict=True)]
        ends = (tuple(places[:2]), tuple(places[2:]))
        self._layout: Layout = (
            *self.leading,
            *(tuple(atom for atom in end if atom.size > 1) for end in ends),
        )

    def step(self, node: fx.Node, step: tuple[Any, ...]) -> None:
        """One change of the scores, as the attention pattern has it.

        Raises:
            Unsuitable: the op has none like it.
        """
        name, operand = step
        if name == "plus":
            self.plus(operand)
        elif name in ("times", "over"):
            if not isinstance(operand, int | float) or (name == "over" and operand == 0):
                raise Unsuitable("has scores that are scaled with a tensor or a symbol")
            if self.table is not None or self.masked:
                raise Unsuitable("scales its scores after something was added")
            self.scale = self.scale * operand if name == "times" else self.scale / operand
        elif name == "view":
            layout = regrouped(self._layout, sizes(value(node).shape))
            if layout is None:
                raise Unsuitable("cuts its scores unevenly")
            self._layout = layout
        else:
            raise Unsuitable("masks its scores with minus infinity")

    def plus(self, node: Any, moves: tuple[fx.Node, ...] = ()) -> None:
        """``scores + node``, after the nodes ``moves`` have moved it about.

        Raises:
            Unsuitable: it is neither Swin's position bias nor its mask.
        """
        if not isinstance(node, fx.Node) or not isinstance(value(node), torch.Tensor):
            raise Unsuitable(_OTHER)
        reading = read(node)
        self.read.append(node)
        gathered = _gathered(node)
        if gathered is not None:
            self._bias(node, *gathered, moves)
            return
        if reading is not None and relays(reading):
            self.plus(reading["input"], (node, *moves))
            return
        found = known(node)
        if found is not None:
            self._mask(node, found, moves)
        elif reading is not None and reading.name == "add" and reading["alpha"] == 1:
            for one in (reading["input"], reading["other"]):
                self.plus(one, (node, *moves))
        else:
            raise Unsuitable(_OTHER)

    def _bias(
        self, node: fx.Node, table: fx.Node, index: fx.Node, moves: tuple[fx.Node, ...]
    ) -> None:
        """A row of ``table`` for each query and key."""
        if self.table is not None:
            raise Unsuitable("has more than one position bias")
        found = known(index)
        rows = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
        if found is None:
            raise Unsuitable("has a position bias at places that are known at run time only")
        if found.tensor.dtype not in _INDICES or shape(table) != (rows, self.heads):
            raise Unsuitable("has a position bias whose table is not that of its window")
        places = found.tensor
        axes: tuple[Hashable, ...] = (*range(places.dim()), _HEADS)
        parts = self._placed(whole((*places.shape, self.heads), axes), moves)
        of_heads = parts.pop(CHANNELS, Atom(None, self.heads, 0))
        if self.heads > 1 and of_heads != Atom(_HEADS, self.heads, 1):
            raise Unsuitable("has a position bias whose heads are not its own")
        positions = self._at_places(places, parts, ())
        expected = relative_positions(self.window, positions.device)
        if not torch.equal(positions.reshape(expected.shape).long(), expected):
            raise Unsuitable("has a position bias that is not by Swin's relative positions")
        self.table = table
        self._remember(found)

    def _mask(self, node: fx.Node, found: Known, moves: tuple[fx.Node, ...]) -> None:
        """Numbers for each window, query and key."""
        mask = found.tensor
        if mask.dtype != value(node).dtype or not mask.is_floating_point():
            raise Unsuitable(_OTHER)
        parts = self._placed(whole(tuple(mask.shape)), moves)
        if parts.pop(CHANNELS, Atom(None, 1, 0)).axis is not None:
            raise Unsuitable("has a mask that differs between its heads")
        numbers = self._at_places(mask, parts, (ROWS, COLUMNS))
        size = (self.windows[0] * self.window[0], self.windows[1] * self.window[1])
        apart = shift_mask(size, self.window, self.shift, numbers.device)
        expected = apart.to(numbers.dtype) * MASKED
        numbers = numbers.reshape(expected.shape)
        if self.masked or not torch.equal(numbers, expected):
            raise Unsuitable(f"has a mask that is not Swin's ({MASKED:g} between regions)")
        self.masked = any(self.shift)
        self._remember(found)

    def _remember(self, found: Known) -> None:
        self.read += found.nodes
        self.assumed |= found.assumed

    def _placed(self, layout: Layout, moves: tuple[fx.Node, ...]) -> dict[Hashable, Atom]:
        """What of a term is added where: for each part of the scores a part of the term's axes."""
        found: Layout | None = layout
        for node in moves:
            reading = read(node)
            assert found is not None and reading is not None
            self.read.append(node)
            if reading.name == "add":  # with what is larger
                found = expanded(found, sizes(value(node).shape))
            else:
                found = relaid(found, node)
            if found is None:
                raise Unsuitable(_OTHER)
        assert found is not None
        missing = len(self._layout) - len(found)
        if missing < 0:
            raise Unsuitable(_OTHER)
        parts: dict[Hashable, Atom] = {}
        for dim, scores in zip((((),) * missing + found), self._layout, strict=True):
            cut = aligned(dim, scores)
            if cut is None:
                raise Unsuitable(_OTHER)
            parts |= {atom.axis: part for atom, part in zip(scores, cut, strict=True)}
        if parts.pop(BATCH, Atom(None, 1, 0)).axis is not None:
            raise Unsuitable("adds to its scores what differs between images")
        return parts

    def _at_places(
        self, term: torch.Tensor, parts: dict[Hashable, Atom], more: tuple[Hashable, ...]
    ) -> torch.Tensor:
        """The numbers of ``term`` for each of ``more``, and each place of query and key."""
        term = term.contiguous()
        full: dict[Hashable, int] = dict(zip((ROWS, COLUMNS), self.windows, strict=True))
        full |= dict(zip(_PLACES, self.window * 2, strict=True))
        strides = []
        for axis in (*more, *_PLACES):
            part = parts.pop(axis, Atom(None, full[axis], 0))
            strides.append(0 if part.axis is None else term.stride(part.axis) * part.step)
        if any(part.axis is not None for part in parts.values()):
            raise Unsuitable(_OTHER)
        return term.as_strided([full[axis] for axis in (*more, *_PLACES)], strides)


def _gathered(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The table and the rows of ``table[rows]``."""
    reading = read(node)
    if reading is None or reading.name not in ("getitem", "index_select"):
        return None
    table, index = reading["input"], reading["index"]
    if isinstance(index, tuple) and len(index) == 1:
        (index,) = index
    if reading.name == "index_select" and reading["dim"] != 0:
        return None
    if not isinstance(table, fx.Node) or not isinstance(index, fx.Node):
        return None
    pair = (value(table), value(index))
    return (table, index) if all(isinstance(one, torch.Tensor) for one in pair) else None
