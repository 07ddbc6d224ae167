"""What ``patch`` did: which modules run on which backend, and why others do not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


NOTHING = (
    "nothing to patch: no module of a kind that vitkern knows (a LayerNorm or Linear by itself is"
    ' patched where a backend is named; torch.compile(model, backend="vitkern") takes any model)'
)


@dataclass(frozen=True)
class PatchedModule:
    """A module that runs on ops.

    Attributes:
        name: as in ``model.named_modules()``; empty for the model itself.
        op: the ops that compute it, joined by " + ".
        backend: the backend that takes them; two names, joined by " + ", where they differ.
        note: what to know about it, or empty.
    """

    name: str
    op: str
    backend: str
    note: str = ""


@dataclass(frozen=True)
class SkippedModule:
    """A module of a kind that can be patched, and that was left as it is.

    Attributes:
        name: as in ``model.named_modules()``; empty for the model itself.
        op: the ops that would compute it, joined by " + ".
        reasons: for each backend that was considered, why it cannot take the module.
    """

    name: str
    op: str
    reasons: dict[str, list[str]]

    def why(self) -> str:
        """The reasons in one line."""
        merged: dict[str, list[str]] = {}
        for backend, reasons in self.reasons.items():
            merged.setdefault("; ".join(reasons), []).append(backend)
        return " | ".join(f"{', '.join(names)}: {why}" for why, names in merged.items())


@dataclass(frozen=True)
class PatchReport:
    """The outcome of ``patch``. ``print(report)`` shows it as a table, ``rich.print`` in colour.

    Modules that no adapter knows are in neither list.

    Attributes:
        patched: what runs on ops.
        skipped: what could, and does not.
        others: classes of modules with parameters of their own in neither, and how many of each.
        share: of the model's parameters in patched modules, 0 to 1. (A skipped module in a patched
            one counts as patched.)
    """

    patched: tuple[PatchedModule, ...]
    skipped: tuple[SkippedModule, ...]
    others: tuple[tuple[str, int], ...] = ()
    share: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, for JSON."""
        return {
            "patched": [
                {"name": p.name, "op": p.op, "backend": p.backend, "note": p.note}
                for p in self.patched
            ],
            "skipped": [
                {"name": s.name, "op": s.op, "reasons": {k: list(v) for k, v in s.reasons.items()}}
                for s in self.skipped
            ],
            "others": dict(self.others),
            "share": self.share,
        }

    def __str__(self) -> str:
        if not self.patched and not self.skipped:
            return NOTHING
        rows, reasons = self._rows()
        rows.insert(0, ("module", "op", "backend"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{name:<{widths[0]}}  {op:<{widths[1]}}  {backend}" for name, op, backend in rows]
        lines.insert(1, "-" * (sum(widths) + 4))
        return "\n".join([*lines, *reasons, self._summary(), *self._left()])

    def __repr__(self) -> str:
        return f"<PatchReport: {self._summary()}>"

    def __rich__(self) -> Table | Text:
        from rich.table import Table
        from rich.text import Text

        if not self.patched and not self.skipped:
            return Text(NOTHING)
        rows, reasons = self._rows()
        table = Table("module", "op", "backend", title="vitkern.patch")
        for name, op, backend in rows:
            style = "yellow" if backend.startswith("skipped") else ""
            table.add_row(Text(name), Text(op), Text(backend), style=style)
        table.caption = Text("\n".join([*reasons, self._summary(), *self._left()]))
        table.caption_justify = "left"
        return table

    def _summary(self) -> str:
        return (
            f"{len(self.patched)} modules patched, with {100 * self.share:.3g} % of the parameters;"
            f" {len(self.skipped)} skipped"
        )

    def _left(self) -> list[str]:
        """A line about the modules that no adapter knows, if there are any."""
        if not self.others:
            return []
        most = [f"{name} ×{count}" for name, count in self.others[:8]]
        more = len(self.others) - len(most)
        return ["left as they are: " + ", ".join([*most, *[f"{more} other kinds"] * (more > 0)])]

    def _rows(self) -> tuple[list[tuple[str, str, str]], list[str]]:
        """One row for modules that differ in the numbers of their names only; numbered reasons."""
        entries = [
            (p.name, p.op, f"{p.backend} ({p.note})" if p.note else p.backend) for p in self.patched
        ]
        numbers: dict[str, int] = {}
        for s in self.skipped:
            number = numbers.setdefault(s.why(), len(numbers) + 1)
            entries.append((s.name, s.op, f"skipped [{number}]"))
        groups: dict[tuple[str, str, str], list[str]] = {}
        for name, op, backend in entries:
            pattern = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
            groups.setdefault((pattern, op, backend), []).append(name)
        rows = [
            (_group_name(pattern, names), op, backend)
            for (pattern, op, backend), names in groups.items()
        ]
        return rows, [f"[{number}] {why}" for why, number in numbers.items()]


def _group_name(pattern: str, names: list[str]) -> str:
    if len(names) == 1:
        return names[0] or "(the model)"
    return f"{pattern} (×{len(names)})"
