"""A profile as a table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vitkern.bench.machine import Machine
from vitkern.bench.profile import Cost, Profile, total
from vitkern.bench.report import replacing

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["draw", "table"]

OTHER_BELOW = 0.005
"""Operators with less than this share of the time are one line together."""


def _lines(profile: Profile, *, calls: bool) -> list[tuple[str, Cost]]:
    """Labels and costs: the calls in order, or the operators that count and then the others."""
    if calls:
        return [(f"{cost.module or '-'}: {_short(cost.op)}", cost) for cost in profile.calls]
    costs = profile.by_op()
    all_of_them = sum(cost.seconds for cost in costs)
    large = [cost for cost in costs if cost.seconds >= OTHER_BELOW * all_of_them]
    small = costs[len(large) :]
    lines = [(_short(cost.op), cost) for cost in large]
    if small:
        lines.append((f"{len(small)} others", total("", small)))
    return lines


def _short(op: str) -> str:
    return op.replace("vitkern_cpu::", "vitkern.").replace("aten::", "aten.")


def table(profile: Profile, machine: Machine, title: str, *, calls: bool = False) -> Table:
    """A line an operator, or (``calls``) a line a call."""
    from rich.table import Table

    of = "" if profile.form == "float32" else f" in {profile.form}"
    peak = f", peak {profile.peak / 1e9:.0f} GFLOP/s{of}" if profile.peak else ""
    out = Table(title=_heading(profile, machine, title) + peak)
    out.add_column("call" if calls else "operator", no_wrap=True)
    for column in ("calls", "ms", "time", "GFLOP", "FMA peak", "MB", "GB/s"):
        out.add_column(column, justify="right")
    whole = max(profile.seconds, sum(cost.seconds for cost in profile.calls))
    for label, cost in _lines(profile, calls=calls):
        share = cost.share(profile.peak)
        out.add_row(
            label,
            str(cost.calls),
            f"{1e3 * cost.seconds:.2f}",
            f"{cost.seconds / whole:.1%}",
            f"{cost.flops / 1e9:.2f}" if cost.flops else "-",
            "-" if share is None else f"{share:.0%}",
            f"{cost.bytes / 1e6:.1f}",
            f"{cost.bytes / cost.seconds / 1e9:.1f}" if cost.seconds else "-",
        )
    outside = profile.outside()
    out.add_row(
        "outside operators", "", f"{1e3 * outside:.2f}", f"{outside / whole:.1%}", "", "", "", ""
    )
    return out


def _heading(profile: Profile, machine: Machine, title: str) -> str:
    """Two lines; the time is marked where others took the processors meanwhile."""
    mark = " (busy)" if profile.contention is not None and profile.contention.busy else ""
    return f"{title}: {1e3 * profile.seconds:.1f} ms{mark}\n{machine.title}"


def draw(profile: Profile, machine: Machine, title: str, path: Path) -> None:
    """A bar an operator; its dark part is what its products would take at the machine's peak.

    Raises:
        OSError: the file cannot be written.
        ValueError: matplotlib knows no format of that name's ending.
    """
    from matplotlib.figure import Figure

    lines = _lines(profile, calls=False)
    lines.append(("outside operators", Cost("", "", 0, profile.outside(), 0, 0)))
    labels = [label for label, _ in lines]
    times = [1e3 * cost.seconds for _, cost in lines]
    floors = [1e3 * cost.flops / profile.peak if profile.peak else 0.0 for _, cost in lines]

    figure = Figure(figsize=(9, 1.6 + 0.34 * len(lines)), layout="constrained")
    axes = figure.subplots()
    axes.barh(labels, times, color="#9ecae1", label="measured")
    if profile.peak:
        axes.barh(labels, floors, color="#08519c", height=0.45, label="its products at the peak")
    whole = max(profile.seconds, sum(cost.seconds for cost in profile.calls))
    for index, (_, cost) in enumerate(lines):
        share = cost.share(profile.peak)
        note = f" {cost.seconds / whole:.0%} of the time"
        note += "" if share is None else f", {share:.0%} of the peak"
        axes.text(1e3 * cost.seconds, index, note, va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(times))
    axes.set_xlabel("ms a pass")
    axes.set_title(_heading(profile, machine, title), fontsize=10)
    axes.legend(loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix.lstrip(".") or "png")
