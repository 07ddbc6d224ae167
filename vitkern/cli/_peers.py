"""``vitkern bench --peers``."""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING

from vitkern.cli._errors import Usage, user_errors

if TYPE_CHECKING:
    from vitkern.bench.models import Row
    from vitkern.bench.peers.result import PeersResult

REFUSED = {
    "train": "--train",
    "step": "--step",
    "wide": "--wide",
    "products": "--products: it has all forms that there are",
    "no_page_faults": "--no-page-faults",
    "no_memory": "--no-memory",
}
"""Options of bench that the comparison does not have."""


def rows(arguments: argparse.Namespace) -> list[Row]:
    """What was asked for.

    Raises:
        Usage: options that do not go together.
    """
    from vitkern.bench.models import Row
    from vitkern.bench.peers import ROWS

    for name, option in REFUSED.items():
        if getattr(arguments, name):
            raise Usage(f"--peers does not go with {option}")
    if arguments.dtype != "float32":
        raise Usage("--peers does not go with --dtype: it has all precisions that there are")
    if not arguments.models and not arguments.batch:
        return list(ROWS)
    names = arguments.models or dict.fromkeys(row.model for row in ROWS)
    return [Row(name, batch) for name in names for batch in arguments.batch or (1,)]


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 where one of ours is wrong or fails."""
    import torch

    from vitkern.bench import machine, models, report
    from vitkern.bench.peers import report as peers_report
    from vitkern.bench.peers import run as peers
    from vitkern.cli._output import (
        begin,
        check_picture,
        console,
        print_json,
        show_progress,
        target,
        writing,
    )

    wanted = rows(arguments)
    check_picture(arguments.picture)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    results: list[PeersResult] = []
    with user_errors():
        for row in wanted:
            models.check_name(row.model)
        path = target("--json", arguments.json)
        picture = target("--picture", arguments.picture)
        here, versions = machine.describe(), peers.versions()
        for number, row in enumerate(wanted, 1):
            begin(row.label, number, len(wanted))
            result = peers.measure(
                row,
                peers.QUICK_PLAN if arguments.quick else peers.PLAN,
                progress=functools.partial(show_progress, row.label),
            )
            results.append(result)
            document = report.document("peers", here, [one.to_dict() for one in results])
            document["versions"] = versions
            if path is not None:  # after each row: who interrupts keeps what there is
                with writing("--json", path):
                    report.write_json(path, document)
            if picture is not None:
                with writing("--picture", picture):
                    peers_report.draw(results, here, picture)
    if arguments.json == "-":
        print_json(document)
    else:
        out = console()
        tables = [peers_report.table(result, here) for result in results]
        for table in [*tables, peers_report.summary_table(results)]:
            out.print(report.fitted(table, out))
        for line in peers_report.notes(results):
            out.print(line, markup=False, soft_wrap=True)
    return 0 if all(result.ok for result in results) else 1
