"""Measure ops and models beside eager PyTorch and other systems, and show all results as a page.

The page is one file of HTML, which needs no network and no server. A full run takes about an hour
on two cores, --quick some minutes. What is finished is kept: a run that was interrupted goes on
where it stopped. Earlier results of the same machine stand beside the new ones, and what became
slower beyond noise is marked. --from shows stored results and measures nothing.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from vitkern.cli._arguments import positive
from vitkern.cli._errors import Failure, Usage, user_errors

if TYPE_CHECKING:
    from vitkern.bench.page.lines import Stored

HELP = "measure ops, models and peers, and show all results as one page of HTML"

RESULTS = Path("benchmarks/results")
KINDS = ("ops", "models", "peers")
"""What is measured, in this order."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument(
        "--from", dest="source", metavar="FOLDER", help="only show the results that it has"
    )
    parser.add_argument(
        "--results", metavar="FOLDER", help=f"of stored results (default {RESULTS})"
    )
    parser.add_argument("--out", metavar="FILE", default="report.html", help="default report.html")
    parser.add_argument("--quick", action="store_true", help="few rows and rounds: rough figures")
    parser.add_argument(
        "--only", metavar="KIND", nargs="+", choices=KINDS, help=f"measure only {', '.join(KINDS)}"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="begin anew where a run was interrupted"
    )
    parser.add_argument("--threads", metavar="N", type=positive, help="threads of PyTorch's ops")
    parser.add_argument(
        "--machine", metavar="NAME", help="show this one first: a folder's name in the results"
    )
    parser.add_argument(
        "--picture", metavar="FILE", help="draw models beside peers, as .svg, of one machine"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, unless it is only to be shown, and write the page; 1 where one of ours is wrong."""
    from vitkern.bench.page import lines, render
    from vitkern.cli._output import target

    _check(arguments)
    with user_errors():
        out = target("--out", arguments.out)
        if out is None:
            raise Usage("--out: - is no file")
        picture = target("--picture", arguments.picture)
        folder = Path(arguments.source or arguments.results or RESULTS)
        right, first = True, arguments.machine
        if arguments.source is not None:
            stored = lines.load(folder)
            _show(stored, out, picture, first)
            return 0
        try:
            right, first = _measure(arguments, folder, first)
        finally:  # who interrupts sees what there is
            if folder.is_dir():
                stored = lines.load(folder)
                if render.sections(stored):
                    _show(stored, out, picture, first)
    return 0 if right else 1


def _check(arguments: argparse.Namespace) -> None:
    """Options that do not go together, before any work."""
    if arguments.source is not None:
        others = ("results", "quick", "only", "fresh", "threads")
        given = [f"--{name}" for name in others if getattr(arguments, name)]
        if given:
            raise Usage(f"--from measures nothing, and does not go with {', '.join(given)}")
    if arguments.picture is not None and Path(arguments.picture).suffix != ".svg":
        raise Usage(f"--picture: {Path(arguments.picture).name} does not end in .svg")


def _measure(arguments: argparse.Namespace, folder: Path, first: str | None) -> tuple[bool, str]:
    """Measure what is not there yet; whether all is right, and the machine's name."""
    import torch

    from vitkern.bench import machine, models
    from vitkern.bench.page import lines, measuring
    from vitkern.bench.peers import run as peers
    from vitkern.cli._output import begin, show_progress

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    models.require_timm()
    here, versions = machine.describe(), peers.versions()
    if first is not None:  # before an hour of work
        stored = lines.load(folder).sources if folder.is_dir() else []
        _known(first, {here.slug, *(str(one.machine["slug"]) for one in stored)})
    right = True
    for kind in arguments.only or KINDS:
        wanted = measuring.tasks(kind, quick=arguments.quick)
        store = measuring.Store(folder, kind, here, quick=arguments.quick, fresh=arguments.fresh)
        store.versions = versions
        for task, number, measured in measuring.run(store, wanted):
            begin(task.label, number, len(wanted))
            progress = functools.partial(show_progress, f"{task.label} ({number}/{len(wanted)})")
            progress("measured")
            right &= measured(progress)
            progress("")
        right &= all(row["ok"] for row in store.rows.values())
    return right, first or here.slug


def _known(first: str | None, known: set[str]) -> None:
    if first is not None and first not in known:
        raise Usage(f"--machine: {first!r} is none of {', '.join(sorted(known))}")


def _show(stored: Stored, out: Path, picture: Path | None, first: str | None) -> None:
    from vitkern.bench.page import render
    from vitkern.cli._output import writing

    known = {str(source.machine["slug"]) for source in stored.sources}
    _known(first, known)
    try:
        text = render.page(stored, first)
        drawn = None if picture is None else render.draw(stored, first)
    except render.Nothing as error:
        raise Failure(str(error)) from error
    with writing("--out", out):
        render.write(out, text)
    if picture is not None and drawn is not None:
        with writing("--picture", picture):
            render.write(picture, drawn)
    slower = [entry for section in render.sections(stored, first) for entry in section.slower]
    print(f"{out}: {len(stored.lines)} results of {len(known)} machines, {len(slower)} slower")
    for text in stored.left_out:
        print(f"not shown: {text}")
