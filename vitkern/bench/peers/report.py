"""Systems as tables, in lines, and as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitkern.bench.machine import Machine
from vitkern.bench.peak import unsteady
from vitkern.bench.peers.result import Against, Entry, PeersResult
from vitkern.bench.peers.system import EAGER, OURS, PRECISIONS
from vitkern.bench.report import milliseconds, ratio_cell, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

__all__ = ["draw", "notes", "summary_table", "table"]

REASON_WIDTH = 40
"""What of a reason stands in the table; all of it is in the notes."""

OURS_COLOR = "#d95f02"
PEER_COLORS = ("#7570b3", "#1b9e77", "#66a61e", "#a6761d", "#e7298a", "#1f78b4")
EAGER_COLOR = "#999999"


def ordered(entries: Sequence[Entry]) -> list[Entry]:
    """By precision, and in the order of the systems within one."""
    return sorted(entries, key=lambda entry: PRECISIONS.index(entry.precision))


def table(result: PeersResult, machine: Machine) -> Table:
    """A line a system."""
    from rich.table import Table
    from rich.text import Text

    peak = f", peak {result.peak.median:.0f} GFLOP/s" if result.peak else ""
    out = Table(title=f"{result.row.label}\n{machine.title}{peak}")
    out.add_column("system", no_wrap=True)
    for column in ("precision", "ms", "against eager", "FMA peak", "cosine", "error"):
        out.add_column(column, justify="right")
    out.add_column("note")
    before = None
    for entry in ordered(result.entries):
        if before not in (None, entry.precision):
            out.add_section()
        before = entry.precision
        out.add_row(
            entry.name,
            entry.precision,
            _time_cell(entry),
            "-" if entry.speedup is None else f"{entry.speedup.median:.2f}×",
            "-" if entry.share is None else f"{entry.share.of_moment:.0%}",
            "-" if entry.cosine is None else f"{entry.cosine:.5f}",
            "-" if entry.error is None else f"{entry.error:.1e}",
            Text(_short(entry.reason or "")),  # not markup, which brackets would be
        )
    return out


def _time_cell(entry: Entry) -> str:
    s = entry.seconds
    return "-" if s is None else f"{milliseconds(s)} [{1e3 * s.low:.1f}, {1e3 * s.high:.1f}]"


def _short(reason: str) -> str:
    return textwrap.shorten(reason, REASON_WIDTH, placeholder=" ...")


def summary_table(results: Sequence[PeersResult]) -> Table:
    """Ours beside the best peers: of the same precision, and of finer ones that are faster."""
    from rich.table import Table

    out = Table(title="ours beside the fastest peer of the same precision, or a finer one")
    out.add_column("model", no_wrap=True)
    for column in ("precision", "ours", "best peer", "peer's time / ours"):
        out.add_column(column, justify="right")
    for result in results:
        for one in result.against:
            out.add_row(
                result.row.label,
                one.precision,
                one.ours,
                one.peer or f"no {one.precision} ran",
                ratio_cell(one.ratio, result.contention),
            )
    return out


def notes(results: Sequence[PeersResult]) -> list[str]:
    """What the tables cannot say: reasons in full, busy machines, what the columns are."""
    lines = []
    reasons: dict[str, list[str]] = {}
    for result in results:
        for entry in result.entries:
            if entry.reason is not None:
                line = f"{entry.name}: {entry.reason}"
                reasons.setdefault(line, []).append(result.row.label)
        for note in result.notes:
            reasons.setdefault(note, []).append(result.row.label)
    for line, labels in reasons.items():
        lines.append(line if len(labels) == len(results) else f"{'; '.join(labels)}: {line}")
    for result in results:
        if result.contention is not None and result.contention.busy:
            lines.append(
                f"{result.row.label}: {result.contention}, so do not believe its times: measure"
                " again when they are idle, or on fewer threads"
            )
        busy = unsteady(result.peak)
        if busy is not None:
            lines.append(f"{result.row.label}: {busy}")
    if any(entry.seconds for result in results for entry in result.entries):
        lines += [
            "ms: median of a pass of the batch, [quartiles]; all systems in turns in one process",
            "FMA peak: the products' share of the multiply-adds that the machine could do at the"
            " time, in instructions of the same precision",
            "cosine, error: of the logits with float64's, the worst image; error relative to the"
            " largest value",
        ]
    eager = [e.faults for result in results for e in result.entries if e.name == EAGER]
    faults = [one for one in eager if one is not None]
    if faults:
        lines.append(
            "against eager: the conversions left memory at hand, so that eager had only up to"
            f" {max(faults)} page faults a pass; in the process of vitkern bench it can have more"
        )
    if any(result.against for result in results):
        lines.append(
            "peer's time / ours: median of the ratios of the rounds; above 1 ours is faster"
        )
    return lines


def draw(results: Sequence[PeersResult], machine: Machine, path: Path) -> None:
    """A panel a row of the benchmark: bars of time by system, and the least that float32 takes.

    Raises:
        OSError: the file cannot be written.
        ValueError: matplotlib knows no format of that name's ending.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colors = vendor_colors(results)
    lines = [max(len(result.entries) + 1, 3) for result in results]
    figure = Figure(figsize=(9.5, 1.4 + 0.34 * sum(lines)), layout="constrained")
    panels = figure.subplots(len(results), squeeze=False, height_ratios=lines)[:, 0]
    for axes, result in zip(panels, results, strict=True):
        _panel(axes, result, colors)
    panels[-1].set_xlabel("ms a pass, median and quartiles")
    handles: list[Patch | Line2D] = [Patch(color=color, label=v) for v, color in colors.items()]
    if any(result.floor for result in results):
        label = "multiply-adds at the machine's float32 peak"
        handles.append(Line2D([], [], color="black", linestyle="--", label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(machine.title, fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix.lstrip(".") or "png")


def vendor_colors(results: Sequence[PeersResult]) -> dict[str, str]:
    """A colour for each vendor: ours stands out, eager stands back."""
    found: dict[str, str] = {}
    peers = iter(PEER_COLORS * len(PEER_COLORS))
    for entry in (entry for result in results for entry in result.entries):
        if entry.vendor not in found:
            own = OURS_COLOR if entry.ours else next(peers) if entry.peer else EAGER_COLOR
            found[entry.vendor] = own
    return found


def _panel(axes: Axes, result: PeersResult, colors: Mapping[str, str]) -> None:
    place, places, labels = 0.0, [], []
    # The same precision stands first, where there is one.
    against = {one.ours: one for one in result.against[::-1] if one.ratio is not None}
    before = None
    longest = max((1e3 * e.seconds.high for e in result.entries if e.seconds), default=1.0)
    for entry in ordered(result.entries):
        if before not in (None, entry.precision):
            place += 0.5  # a gap between precisions
        before = entry.precision
        places.append(place)
        named = entry.name.endswith(entry.precision)
        labels.append(entry.name if named else f"{entry.name} {entry.precision}")
        weight = "bold" if entry.ours else "normal"
        if entry.seconds is None:
            reason = f" {_short(entry.reason or '')}"
            over = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # the line of the floor
            axes.text(0.0, place, reason, va="center", fontsize=8, bbox=over, zorder=3)
        else:
            s = entry.seconds.scaled(1e3)
            error = [[s.median - s.low], [s.high - s.median]]
            color = colors[entry.vendor]
            axes.barh(place, s.median, xerr=error, color=color, error_kw={"elinewidth": 1})
            text = f" {milliseconds(entry.seconds)} ms{_beside(against.get(entry.name))}"
            axes.text(s.high, place, text, va="center", fontsize=8, weight=weight)
        place += 1.0
    if result.floor is not None:
        axes.axvline(1e3 * result.floor, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(places, labels, fontsize=8)
    for label in axes.get_yticklabels():
        if label.get_text().startswith(OURS):
            label.set_fontweight("bold")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.5 * max(longest, 1e3 * (result.floor or 0.0)))
    busy = result.contention is not None and result.contention.busy
    axes.set_title(result.row.label + " (busy)" * busy, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _beside(one: Against | None) -> str:
    if one is None or one.ratio is None:
        return ""
    return f", {one.ratio.median:.2f}× as fast as {one.peer}"
