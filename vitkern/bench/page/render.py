"""The page: one file of HTML, with its style, its script and all its data in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from vitkern.bench.page.chart import Panel, digits, panels, place_of, svg
from vitkern.bench.page.history import CHANGE, FASTER, SAME, SLOWER, UNKNOWN, Change, Entry, entries
from vitkern.bench.page.lines import Source, Stored
from vitkern.bench.report import replacing
from vitkern.bench.timing import Summary

__all__ = ["Nothing", "Section", "draw", "page", "sections", "write"]

MARKS = {SLOWER: "▲ slower", FASTER: "▼ faster", UNKNOWN: "? not judged"}
"""What stands in the table; a change within noise is ``= as before``."""

FIELDS = {
    "cpu": "processor",
    "cpu_id": "generation",
    "cores": "cores",
    "threads": "threads",
    "isa": "instruction set",
    "system": "system",
    "python": "Python",
    "torch": "PyTorch",
    "vitkern": "vitkern",
    "compiler": "compiler",
}
"""What is said of a machine, and how it is called."""


NUMBER = "number"
COLUMNS = (
    ("model", "", ""),
    ("mode", "", ""),
    ("precision", "", "of the matrix products"),
    ("system", "", ""),
    ("ms", NUMBER, "the median of the rounds; (eager's)"),
    ("× eager", NUMBER, "the median of the ratios of the rounds"),
    ("of peak", NUMBER, "of the multiply-adds the machine could do; (eager's)"),
    ("error", NUMBER, "the largest, relative to the largest value; (eager's)"),
    ("since then", "", "against the run before on this machine"),
    ("measured", "", ""),
)
BATCH = ("batch", NUMBER, "images")
MEMORY = ("peak MB", NUMBER, "of a pass above rest; (eager's)")
"""Heads of the tables: the name, the class, and what it means."""


class Nothing(ValueError):
    """There are no results to show."""


@dataclass(frozen=True)
class Section:
    """A machine with a number of threads, and what was measured there.

    Attributes:
        slug: of the machine; ``key`` has the number of threads as well.
        machine: what is said of it, by name.
        sources: the files, the newest first.
    """

    slug: str
    key: str
    title: str
    machine: dict[str, str]
    sources: tuple[Source, ...]
    entries: tuple[Entry, ...]

    @property
    def models(self) -> list[Entry]:
        """Entries of whole models."""
        return [entry for entry in self.entries if entry.line.what == "model"]

    @property
    def ops(self) -> list[Entry]:
        """Entries of single ops."""
        return [entry for entry in self.entries if entry.line.what == "op"]

    @property
    def panels(self) -> list[Panel]:
        """Models beside peers."""
        return panels(self.entries)

    @property
    def absent(self) -> list[str]:
        """Systems that were not timed, with the reason, each once."""
        reasons: dict[str, list[str]] = {}
        rows = set()
        for line in (entry.line for entry in self.entries if entry.line.method == "peers"):
            row = f"{line.subject}, batch {line.batch}"
            rows.add(row)
            if line.figures.seconds is None:
                text = f"{line.system}, {line.precision}: {line.reason or 'not timed'}"
                reasons.setdefault(text, []).append(row)
        return [
            text if len(where) == len(rows) else f"{text} ({'; '.join(where)})"
            for text, where in reasons.items()
        ]

    def changed(self, verdict: str) -> list[Entry]:
        """Entries with that verdict."""
        return [
            entry
            for entry in self.entries
            if entry.change is not None and entry.change.verdict == verdict
        ]

    @property
    def slower(self) -> list[Entry]:
        """Regressions."""
        return self.changed(SLOWER)

    @property
    def compared(self) -> int:
        """How many entries have an earlier one beside them."""
        return sum(entry.change is not None for entry in self.entries)


def sections(stored: Stored, first: str | None = None) -> list[Section]:
    """A section a machine; the newest results come first, or the machine named ``first``.

    Args:
        stored: what :func:`vitkern.bench.page.lines.load` gave.
        first: a machine's slug.
    """
    found = []
    for place in dict.fromkeys(source.place for source in stored.sources):
        slug, threads = place
        sources = sorted(
            (one for one in stored.sources if one.place == place),
            key=lambda source: source.when,
            reverse=True,
        )
        lines = [line for line in stored.lines if line.source.place == place]
        if not lines:
            continue
        machine = {
            name: str(value)
            for field, name in FIELDS.items()
            if (value := sources[0].machine.get(field)) is not None
        }
        cores = f"{threads} thread{'s' * (threads != 1)}"
        title = f"{sources[0].machine['cpu']}, {cores}, {sources[0].machine.get('isa') or '-'}"
        found.append(
            Section(
                slug, f"{slug}-{threads}", title, machine, tuple(sources), _ordered(entries(lines))
            )
        )
    found.sort(key=lambda section: (section.sources[0].when[:2], len(section.entries)))
    found.reverse()
    if first is not None:
        found.sort(key=lambda section: section.slug != first)
    return _named_apart(found)


def _ordered(found: Sequence[Entry]) -> tuple[Entry, ...]:
    """Subjects together, in the order in which they first appear."""
    subjects = list(dict.fromkeys((one.line.subject, one.line.case) for one in found))
    places = {subject: place for place, subject in enumerate(subjects)}

    def rank(entry: Entry) -> tuple[int, int, int]:
        line = entry.line
        return places[line.subject, line.case], line.batch or 0, place_of(line.precision)

    return tuple(sorted(found, key=rank))


def _named_apart(found: Sequence[Section]) -> list[Section]:
    """Processors of one name are told apart by their generation."""
    titles = [section.title for section in found]
    return [
        replace(section, title=f"{section.title} ({section.machine.get('generation', '?')})")
        if titles.count(section.title) > 1
        else section
        for section in found
    ]


def page(stored: Stored, first: str | None = None) -> str:
    """The page of all results.

    Raises:
        Nothing: there are none.
    """
    from jinja2 import Environment, StrictUndefined

    shown = sections(stored, first)
    if not shown:
        raise Nothing("there are no results to show")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    for function in (milliseconds, interval, megabytes, percent, error, change, plain):
        environment.filters[function.__name__] = function
    lines = [entry.line for section in shown for entry in section.entries]
    environment.globals["columns"] = {
        "model": [*COLUMNS[:2], BATCH, *COLUMNS[2:7], MEMORY, *COLUMNS[7:]],
        "op": [("op", "", ""), ("case", "", ""), *COLUMNS[2:]],
    }
    return environment.from_string(_part("page.html")).render(
        sections=shown,
        left_out=stored.left_out,
        limit=f"{CHANGE:.0%}",
        verdicts=(SLOWER, FASTER, SAME, UNKNOWN),
        precisions=sorted({line.precision for line in lines}, key=place_of),
        batches=sorted({line.batch for line in lines if line.batch is not None}),
        systems=list(dict.fromkeys(line.system for line in lines)),
        css=_part("page.css"),
        js=_part("page.js"),
    )


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def draw(stored: Stored, first: str | None = None) -> str:
    """A picture of the first machine's models beside peers, as SVG.

    Raises:
        Nothing: there are no results beside peers of that machine.
    """
    for section in sections(stored, first):
        if first not in (None, section.slug):
            break
        if any(bar.milliseconds for panel in section.panels for bar in panel.bars):
            dates = sorted({s.date for s in section.sources if s.kind == "peers"})
            machine = section.machine
            footer = (
                f"{machine.get('generation', '')}; PyTorch {machine['PyTorch']},"
                f" vitkern {machine['vitkern']};"
                f" {' to '.join(dict.fromkeys((dates[0], dates[-1])))}",
                "medians, all systems in turns; of each precision the fastest other system",
            )
            return svg(f"Milliseconds a pass, × eager: {section.title}", section.panels, footer)
    raise Nothing("no model was measured beside peers there")


def _part(name: str) -> str:
    return resources.files("vitkern.bench.page").joinpath(name).read_text(encoding="utf-8")


def milliseconds(seconds: Summary | None) -> str:
    """The median in three digits; calls of ops take microseconds."""
    return "–" if seconds is None else digits(1e3 * seconds.median)


def megabytes(count: int | None) -> str:
    """Of bytes."""
    return "–" if count is None else f"{count / 1e6:.0f}"


def percent(share: float | None) -> str:
    """Of a share."""
    return "–" if share is None else f"{share:.0%}"


def error(value: float | None) -> str:
    """In two digits."""
    return "–" if value is None else f"{value:.1e}"


def change(found: Change | None) -> str:
    """In words, with a mark."""
    if found is None:
        return "–"
    amount = "" if found.amount is None else f" {found.amount:+.0%}"
    return MARKS.get(found.verdict, "= as before") + amount


def interval(seconds: Summary) -> str:
    """Quartiles, as a tooltip has them."""
    return f"{digits(1e3 * seconds.low)} to {digits(1e3 * seconds.high)} ms"


def plain(value: Any) -> str:
    """For an attribute by which a column is sorted; empty sorts last."""
    return "" if value is None else f"{value:.9g}"
