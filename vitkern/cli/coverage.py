"""Patch a small model of every family that vitkern knows of: what is right, and what is ours.

Each has random weights; nothing is downloaded. Parity of output and gradients against float64, the
share of FLOPs and of modules on vitkern's kernels and, with --time, eager's time over the patched
one's. With --json the results are written after each model, and --resume goes on where a run
stopped. Results of other models in the file stay, where they were made on this machine with the
same versions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitkern.bench.coverage import Subject

HELP = "parity and share of FLOPs on vitkern's kernels, for every model family"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help="names or patterns, as 'timm/*', 'hf/detr' or 'swin*' (default: all)",
    )
    parser.add_argument("--list", action="store_true", help="print the names, and stop")
    parser.add_argument(
        "--graph",
        metavar="REST",
        choices=("inductor", "aot_eager", "eager"),
        help="look at torch.compile(model, backend='vitkern') instead of patch, with the rest"
        " compiled by inductor, aot_eager or eager",
    )
    parser.add_argument("--time", action="store_true", help="time eager and patched as well")
    parser.add_argument("--json", metavar="FILE", help="write JSON there; - is the output")
    parser.add_argument("--table", metavar="FILE", help="write the table there, as Markdown")
    parser.add_argument(
        "--resume", action="store_true", help="leave out the models that --json FILE has already"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 where a patched model is wrong or a model failed."""
    from datetime import datetime, timezone

    from vitkern.bench import coverage, coverage_models, coverage_report, machine, report
    from vitkern.cli._errors import Usage, user_errors
    from vitkern.cli._output import console, print_json, target, writing

    try:
        chosen = coverage_models.choose(arguments.models)
    except ValueError as error:
        raise Usage(str(error)) from error
    if arguments.list:
        print("\n".join(one.name for one in chosen))
        return 0
    if arguments.resume and arguments.json in (None, "-"):
        raise Usage("--resume: needs --json FILE, which has what was measured before")
    if arguments.time and arguments.graph:
        raise Usage("--time: not beside --graph, which measures no times")
    with user_errors():
        path, page = target("--json", arguments.json), target("--table", arguments.table)
    here = machine.describe().to_dict()
    graph = arguments.graph
    before = [] if path is None else coverage_report.load(path, here, graph)
    known = {one.name: one for one in before}
    names = [one.name for one in chosen]
    todo = [one for one in chosen if not (arguments.resume and one.name in known)]
    order = [one.name for one in coverage_models.subjects()]

    def document() -> dict[str, object]:
        date = datetime.now(timezone.utc).date().isoformat()
        rows = [known[name] for name in order if name in known]
        return coverage_report.document(here, rows, date, graph)

    for subject in _progress(todo):
        known[subject.name] = coverage.measure(
            subject, timing=coverage.TIMING if arguments.time else None, graph=graph
        )
        if path is not None:  # after each: who interrupts keeps what there is
            with writing("--json", path):
                report.write_json(path, document())
    if page is not None:
        with writing("--table", page):
            coverage_report.write_markdown(page, document())
    results = [known[name] for name in names if name in known]
    if arguments.json == "-":
        print_json(document())
    else:
        out = console()
        out.print(coverage_report.table(results, graph))
        for line in coverage_report.goals(results):
            out.print(line, markup=False, soft_wrap=True)
        for one in results:
            if one.error is not None:
                out.print(f"{one.name}: {one.error}", markup=False, soft_wrap=True)
    return 0 if all(one.outcome == "right" for one in results) else 1


def _progress(subjects: list[Subject]) -> Iterator[Subject]:
    """A progress bar on a terminal, a line for each model elsewhere."""
    import sys

    from rich.console import Console
    from rich.progress import Progress

    from vitkern.cli._output import begin

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("coverage", total=len(subjects))
        for number, subject in enumerate(subjects, 1):
            begin(subject.name, number, len(subjects))
            bar.update(task, description=subject.name)
            yield subject
            bar.advance(task)
