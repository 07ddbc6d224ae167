"""Bars of time: what the page draws in HTML, and a picture draws in SVG.

Which bar is ours is said by its label, its weight and its colour. The SVG follows the reader's
light or dark scheme, and needs no font of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from xml.sax.saxutils import escape

from vitkern.bench.page.history import Entry
from vitkern.bench.page.lines import Line
from vitkern.bench.peers.system import EAGER

__all__ = ["Bar", "Panel", "digits", "panels", "place_of", "shortened", "svg"]

PRECISIONS = ("float32", "bfloat16", "int8")


def place_of(precision: str) -> int:
    """Where a precision comes among others; those that are not known come last."""
    return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)


@dataclass(frozen=True)
class Bar:
    """One system.

    Attributes:
        milliseconds: None where it was not timed.
        speedup: against eager; None for eager itself.
        role: ``ours``, ``peer`` or ``eager``.
        note: why it was not timed.
        first: of its precision, of which there was another before.
    """

    label: str
    milliseconds: float | None
    speedup: float | None
    role: str
    note: str = ""
    first: bool = False

    @property
    def text(self) -> str:
        """What stands beside the bar."""
        if self.milliseconds is None:
            return self.note
        beside = "" if self.speedup is None else f"  ({self.speedup:.2f}×)"
        return f"{digits(self.milliseconds)} ms{beside}"


CUT = 1.25
"""Bars that are longer than this many times eager's are cut off, and look like it."""


@dataclass(frozen=True)
class Panel:
    """All systems on one model and batch."""

    title: str
    bars: tuple[Bar, ...]
    busy: bool = False

    @property
    def scale(self) -> float:
        """Milliseconds of the longest bar that is drawn whole.

        One that takes far longer than eager would make the others too short to compare.
        """
        times = [bar.milliseconds for bar in self.bars if bar.milliseconds is not None]
        eager = [bar.milliseconds for bar in self.bars if bar.role == "eager" and bar.milliseconds]
        return min([max(times, default=1.0), *(CUT * one for one in eager)])


def panels(entries: Iterable[Entry]) -> list[Panel]:
    """A panel for each row that was measured beside peers."""
    groups: dict[tuple[str, int | None, str], list[Line]] = {}
    for entry in entries:
        line = entry.line
        if line.method == "peers":
            groups.setdefault((line.subject, line.batch, line.case), []).append(line)
    found = []
    for (subject, batch, case), lines in groups.items():
        ordered = sorted(lines, key=lambda line: place_of(line.precision))
        title = f"{subject}, batch {batch}, {case}"
        busy = any(line.busy for line in lines)
        before = [None, *(line.precision for line in ordered)]
        bars = tuple(
            _bar(line, one not in (None, line.precision))
            for line, one in zip(ordered, before, strict=False)
        )
        found.append(Panel(title, bars, busy))
    return found


def shortened(panel: Panel) -> Panel:
    """Eager, ours, and of each precision the fastest of the others, with all that was timed."""
    kept: list[Bar] = []
    for bars in _by_precision(panel.bars):
        timed = [bar for bar in bars if bar.milliseconds is not None]
        peers = [bar for bar in timed if bar.role == "peer"]
        best = min(peers, key=lambda bar: bar.milliseconds or 0.0, default=None)
        bars = [bar for bar in timed if bar.role != "peer" or bar is best]
        kept += [replace(bar, first=bool(kept) and bar is bars[0]) for bar in bars]
    return replace(panel, bars=tuple(kept))


def _by_precision(bars: Iterable[Bar]) -> list[list[Bar]]:
    groups: list[list[Bar]] = []
    for bar in bars:
        if bar.first or not groups:
            groups.append([])
        groups[-1].append(bar)
    return groups


def digits(value: float) -> str:
    """Three that count, and no fraction of what is in the hundreds."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _bar(line: Line, first: bool) -> Bar:
    seconds = line.figures.seconds
    return Bar(
        f"{line.system}, {line.precision}",
        None if seconds is None else 1e3 * seconds.median,
        None if line.speedup is None else line.speedup.median,
        "ours" if line.ours else "eager" if line.system == EAGER else "peer",
        line.reason or "",
        first,
    )


WIDTH, LABEL, RIGHT = 860, 230, 120
"""Of the picture, of the labels on the left of the bars, and of the text on their right."""

LINE, GAP, HEAD = 22, 16, 30
"""Heights: of a bar, between panels, of a heading."""

STYLE = """
svg { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
text { fill: #1c1f23; } .title { font-weight: 600; font-size: 15px; } .quiet { fill: #59616b; }
.ground { fill: #ffffff; } .ours { fill: #b4460f; } .peer { fill: #6f86a6; }
.eager { fill: #9a9fa6; } .bold { font-weight: 700; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e8eb; } .quiet { fill: #a3abb5; } .ground { fill: #15181c; }
  .ours { fill: #f08a4b; } .peer { fill: #7f9cc4; } .eager { fill: #7b8189; }
}
"""


def svg(title: str, shown: Sequence[Panel], footer: Sequence[str]) -> str:
    """A picture of some panels, each :func:`shortened`.

    Raises:
        ValueError: there is nothing to draw.
    """
    drawn = [one for panel in shown if (one := shortened(panel)).bars]
    if not drawn:
        raise ValueError("no model was measured beside peers, so there is nothing to draw")
    parts = []
    y = HEAD + 6

    def put(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    put(16, y, title, "title")
    for panel in drawn:
        y += HEAD + GAP
        put(16, y, panel.title + ", while other processes were busy" * panel.busy, "bold")
        room = WIDTH - LABEL - RIGHT - 32
        for bar in panel.bars:
            y += LINE + 8 * bar.first
            bold = "bold" if bar.role == "ours" else ""
            share = (bar.milliseconds or 0.0) / panel.scale
            length = room * min(share, 1.0)
            put(LABEL, y, bar.label, bold, "end")
            parts.append(
                f'<rect x="{LABEL + 10}" y="{y - 12}" width="{length:.1f}" height="15" rx="2"'
                f' class="{bar.role}"/>'
            )
            if share > 1.0:
                at = LABEL + length - 6
                parts.append(f'<path d="M{at:.1f} {y + 5}l6 -19h5l-6 19z" class="ground"/>')
            put(LABEL + 16 + length, y, bar.text, bold)
    y += HEAD - 14
    for line in footer:
        y += 18
        put(16, y, line, "quiet")
    height = y + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' height="{height}" role="img"><title>{escape(title)}</title><style>{STYLE}</style>'
        f'<rect width="{WIDTH}" height="{height}" class="ground"/>{"".join(parts)}</svg>\n'
    )
