"""What graph-level patching did: which nodes became which op, and what was left and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Replaced:
    """Nodes that are one op now.

    Attributes:
        op: the op.
        backend: that computes it.
        module: path of the module that they are in; empty for the model itself.
        source: ``file:line`` of the last of them.
        nodes: how many.
        note: why no larger pattern was taken, or empty.
    """

    op: str
    backend: str
    module: str
    source: str
    nodes: int
    note: str = ""


@dataclass(frozen=True)
class Left:
    """A product, or a norm after a sum, that was left to the rest; or windows around an attention.

    Attributes:
        op: the op that would compute it.
        module: as of :class:`Replaced`.
        source: as of :class:`Replaced`.
        reason: why.
    """

    op: str
    module: str
    source: str
    reason: str


@dataclass(frozen=True)
class GraphReport:
    """The outcome for one captured graph: a model with graph breaks has several.

    Attributes:
        replaced: in the order of the graph.
        left: in the order of the graph.
        rest: what compiles the rest: "inductor", "aot_eager" or "eager".
    """

    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]
    rest: str

    def counts(self) -> dict[str, int]:
        """How many ops of which kind, on which backend."""
        found: dict[str, int] = {}
        for one in self.replaced:
            key = f"{one.op}: {one.backend}"
            found[key] = found.get(key, 0) + 1
        return found

    def reasons(self) -> dict[str, int]:
        """Why how many were left."""
        found: dict[str, int] = {}
        for one in self.left:
            key = f"{one.op}: {one.reason}"
            found[key] = found.get(key, 0) + 1
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{one.module or '(the model)'}: {one.op} on {one.backend}, of {one.nodes} nodes"
            + (f" ({one.source})" if one.source else "")
            + (f"; {one.note}" if one.note else "")
            for one in self.replaced
        ]
        lines += [
            f"{one.module or '(the model)'}: {one.op} left, {one.reason}"
            + (f" ({one.source})" if one.source else "")
            for one in self.left
        ]
        summary = f"{len(self.replaced)} ops, {len(self.left)} left; the rest by {self.rest}"
        return "\n".join([*lines, summary])
