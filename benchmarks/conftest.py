"""Options and the record of benchmarks: ``pytest benchmarks/ --benchmark-only [--store]``.

Nothing here asserts a time, but that none is longer than eager's. What is asserted, before anything
is timed, is that results are right.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harm import too_few_decided
from vitkern.bench import machine, report

RESULTS = Path(__file__).parent / "results"

HARM = "test_do_no_harm.py::test_not_slower"

ROWS = pytest.StashKey[dict[str, list[dict[str, Any]]]]()

Record = Callable[[str, dict[str, Any]], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vitkern")
    group.addoption(
        "--store",
        action="store_true",
        help="write the results to benchmarks/results/<machine>/<kind>.json",
    )
    group.addoption(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="dtype of the ops' cases and of the models",
    )
    group.addoption(
        "--wide", action="store_true", help="40 rows of models instead of the five of the table"
    )
    group.addoption(
        "--tuned",
        action="store_true",
        help="do-no-harm: tune each model first, so that its ops take what was measured",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}


@pytest.fixture
def record(request: pytest.FixtureRequest, benchmark: Any) -> Record:
    """Adds a row to pytest-benchmark's ``extra_info`` and to what ``--store`` writes.

    A row has a ``name`` that is unique among its kind (``ops``, ``models`` or ``harm``).
    """

    def add(kind: str, row: dict[str, Any]) -> None:
        benchmark.extra_info.update(row, machine=machine.describe().to_dict())
        request.config.stash[ROWS].setdefault(kind, []).append(row)

    return add


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--wide"):
        outcomes = [row["outcome"] for row in session.config.stash[ROWS].get("harm", ())]
        rows = sum(item.nodeid.partition("[")[0].endswith(HARM) for item in session.items)
        why = too_few_decided(outcomes, rows)
        if why is not None:  # rows that are skipped would leave the status at 0
            print(f"\n{why}", file=sys.stderr)
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    if not session.config.getoption("--store"):
        return
    here = machine.describe()
    for kind, rows in session.config.stash[ROWS].items():
        path = RESULTS / here.slug / f"{kind}.json"
        report.write_json(path, report.merged(path, report.document(kind, here, rows)))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in remarks(config):
        terminalreporter.write_line(line)


def remarks(config: pytest.Config) -> list[str]:
    """What the table of times does not say: whether to believe it, and where results are."""
    kinds = config.stash[ROWS]
    rows = [row for found in kinds.values() for row in found]
    lines = []
    busy = sum(bool((row.get("contention") or {}).get("busy")) for row in rows)
    if busy:
        lines.append(
            f"other processes used the machine in {busy} of {len(rows)} rows: do not believe the"
            " times of these, measure again when it is idle"
        )
    if kinds and config.getoption("--store"):
        folder = RESULTS.relative_to(RESULTS.parents[1]) / machine.describe().slug
        lines.append(f"stored: {folder}/ ({', '.join(f'{kind}.json' for kind in kinds)})")
    return lines
