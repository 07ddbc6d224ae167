"""The newest line of each measurement, the earlier ones beside it, and whether it became slower.

Times of different days do not compare: the machine's clock rate, its neighbours and PyTorch change.
So two figures are judged, each of which leaves something out of account, and both have to agree:

* the **ratio to eager PyTorch**, measured in turns: the machine is the same for both sides, but
  eager may have become faster;
* the time **in units of the machine's peak** at that moment (where the peak was measured; else the
  time itself): eager does not count, but a neighbour that takes memory bandwidth does.

A line is ``slower`` (or ``faster``) where both figures moved by more than :data:`CHANGE`, and so
far that the quartiles of the two runs do not touch. Where they disagree, or other processes were
busy in one of the runs, it is not judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from vitkern.bench.page.lines import Line
from vitkern.bench.timing import Summary

__all__ = ["CHANGE", "Change", "Entry", "change", "entries"]

CHANGE = 0.05
"""Two runs of one model within an hour differ by this much in their ratio to eager, on a machine
whose quartiles within each run are far closer together."""

SLOWER, FASTER, SAME, UNKNOWN = "slower", "faster", "same", "not judged"


@dataclass(frozen=True)
class Change:
    """What became of a measurement.

    Attributes:
        verdict: one of ``slower``, ``faster``, ``same`` and ``not judged``.
        amount: of the ratio to eager: 0.1 is 10 % faster than before; None where there is none.
        why: of a verdict that needs it.
    """

    verdict: str
    amount: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Entry:
    """The newest line of a measurement, the others from the newest to the oldest, and the change
    from the one before; None where there is none.
    """

    line: Line
    earlier: tuple[Line, ...] = ()
    change: Change | None = None


def entries(lines: Iterable[Line]) -> list[Entry]:
    """An entry for each measurement, in the order in which they first appear."""
    groups: dict[object, list[Line]] = defaultdict(list)
    for line in lines:
        groups[line.key].append(line)
    found = []
    for group in groups.values():
        newest, *earlier = sorted(group, key=lambda line: line.source.when, reverse=True)
        before = next((line for line in earlier if line.figures.seconds is not None), None)
        judged = change(newest, before) if before is not None and newest.ours else None
        found.append(Entry(_filled(newest, earlier), tuple(earlier), judged))
    return found


def _filled(newest: Line, earlier: Iterable[Line]) -> Line:
    """With memory and error of the newest run that had them: they are no times, and stay."""
    for line in earlier:
        figures, eager = newest.figures, newest.eager
        if figures.memory is None:
            figures = replace(figures, memory=line.figures.memory)
            eager = replace(eager, memory=line.eager.memory)
        if figures.error is None:
            figures = replace(figures, error=line.figures.error)
            eager = replace(eager, error=line.eager.error)
        newest = replace(newest, figures=figures, eager=eager)
    return newest


def change(now: Line, before: Line) -> Change:
    """Compare a line with an earlier one of the same measurement."""
    if now.speedup is None or before.speedup is None:
        return Change(UNKNOWN, None, "one of the runs was not timed")
    amount = now.speedup.median / before.speedup.median - 1.0
    if now.busy or before.busy:
        when = "now" if now.busy else "then"
        return Change(UNKNOWN, amount, f"other processes were busy {when}")
    figures = [
        _direction(_inverse(now.speedup), _inverse(before.speedup)),
        _direction(*_times(now, before)),
    ]
    if figures == [SLOWER, SLOWER]:
        return Change(SLOWER, amount)
    if figures == [FASTER, FASTER]:
        return Change(FASTER, amount)
    if figures == [SAME, SAME]:
        return Change(SAME, amount)
    beside_eager, by_machine = figures
    return Change(
        UNKNOWN, amount, f"beside eager {beside_eager}, by the machine's own measure {by_machine}"
    )


def _inverse(ratio: Summary) -> Summary:
    """Time relative to eager's."""
    return Summary(1.0 / ratio.median, 1.0 / ratio.high, 1.0 / ratio.low, ratio.count)


def _times(now: Line, before: Line) -> tuple[Summary, Summary]:
    """Of both lines in the same unit: the peak of the moment, or seconds."""
    one, other = now.figures, before.figures
    assert one.seconds is not None and other.seconds is not None
    if not (one.share and other.share and now.form == before.form):
        return one.seconds, other.seconds
    return (
        one.seconds.scaled(1.0 / (one.share * one.seconds.median)),
        other.seconds.scaled(1.0 / (other.share * other.seconds.median)),
    )


def _direction(now: Summary, before: Summary) -> str:
    """Of times: whether they moved beyond noise."""
    if now.median > before.median * (1.0 + CHANGE) and now.low > before.high:
        return SLOWER
    if before.median > now.median * (1.0 + CHANGE) and before.low > now.high:
        return FASTER
    return SAME
