"""What the dimensions of a tensor are made of, while views and permutations move its values about.

The dimensions of a first tensor are *axes*. A view splits them and puts them together, so that a
dimension is a row of *atoms*: parts of an axis, each with a size, and a step along its axis. A map
of 14 rows in windows of 7 has its rows as an atom of 2 with steps of 7 (which window) and one of 7
with steps of 1 (where in the window). Sizes may be symbols.

Atoms of size 1 are left out, and neighbours that are one part of an axis are joined: layouts that
mean the same are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch

Size = Any  # an int, or sympy's expression of symbols


class Atom(NamedTuple):
    """A part of an axis; of a dimension that only repeats values the axis is None."""

    axis: Any
    size: Size
    step: int = 1


Dim = tuple[Atom, ...]
Layout = tuple[Dim, ...]


def plain_size(size: Any) -> Size:
    """An int where it is known, else the expression that it is."""
    if isinstance(size, torch.SymInt):
        expression: Any = size.node.expr
        return int(expression) if expression.is_number else expression
    return size


def sizes(shape: Sequence[Any]) -> tuple[Size, ...]:
    """The sizes of a tensor's dimensions."""
    return tuple(plain_size(size) for size in shape)


def whole(shape: Sequence[Size], axes: Sequence[Any] | None = None) -> Layout:
    """That of a tensor itself: each dimension an axis."""
    named = range(len(shape)) if axes is None else axes
    return tuple(_joined((Atom(axis, size),)) for axis, size in zip(named, shape, strict=True))


def regrouped(layout: Layout, shape: Sequence[Size]) -> Layout | None:
    """That of a view in ``shape``; None where an axis would be cut unevenly."""
    atoms = [atom for dim in layout for atom in dim]
    dims: list[Dim] = []
    for wanted in reversed(shape):
        dim: list[Atom] = []
        while wanted != 1:
            if not atoms:
                return None
            atom = atoms.pop()
            rest = _quotient(wanted, atom.size)
            if rest is not None:
                dim.insert(0, atom)
                wanted = rest
                continue
            rest = _quotient(atom.size, wanted)
            if rest is None:
                return None
            dim.insert(0, Atom(atom.axis, wanted, atom.step))
            atoms.append(Atom(atom.axis, rest, atom.step * wanted))
            wanted = 1
        dims.insert(0, _joined(tuple(dim)))
    return None if atoms else tuple(dims)


def aligned(dim: Dim, like: Dim) -> Dim | None:
    """``dim`` cut as ``like`` is, an atom for each: of axis None and step 0 where it only repeats.

    None where it cannot be.
    """
    if not dim:
        return tuple(Atom(None, atom.size, 0) for atom in like)
    cut = regrouped((dim,), [atom.size for atom in like])
    if cut is None or any(len(part) != 1 for part in cut):
        return None
    return tuple(part[0] for part in cut)


def _joined(dim: Dim) -> Dim:
    found: list[Atom] = []
    for atom in dim:
        if atom.size == 1:
            continue
        last = found[-1] if found else None
        if last is not None and last.axis == atom.axis and last.step == atom.step * atom.size:
            found[-1] = Atom(atom.axis, last.size * atom.size, atom.step)
        else:
            found.append(atom)
    return tuple(found)


def _quotient(size: Size, divisor: Size) -> Size | None:
    """``size / divisor`` where that is whole for all values of the symbols."""
    if isinstance(size, int) and isinstance(divisor, int):
        return size // divisor if divisor and size % divisor == 0 else None
    sympy: Any = import_module("sympy")  # it has no types, and is slow to import
    found = sympy.cancel(sympy.sympify(size) / divisor)
    if found.is_number:
        return int(found) if found.is_integer else None
    whole_numbers = all(symbol.is_integer for symbol in found.free_symbols)
    return found if whole_numbers and sympy.fraction(found)[1] == 1 else None
