"""Results as tables and as JSON files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkern.bench.contention import Contention
from vitkern.bench.machine import Machine
from vitkern.bench.measure import Result
from vitkern.bench.peak import Share, unsteady
from vitkern.bench.timing import Summary

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

__all__ = [
    "document",
    "fitted",
    "merged",
    "milliseconds",
    "notes",
    "ratio_cell",
    "read_json",
    "replacing",
    "share_cell",
    "table",
    "write_json",
]

SCHEMA = 1
"""Raised when a field of the JSON documents changes its meaning."""


def document(kind: str, machine: Machine, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is written to a file: the rows, and what they were measured on."""
    now = datetime.now(timezone.utc)
    return {
        "schema": SCHEMA,
        "kind": kind,
        "date": now.date().isoformat(),
        "time": now.time().isoformat("seconds"),
        "machine": machine.to_dict(),
        "rows": list(rows),
    }


def merged(path: Path, new: dict[str, Any]) -> dict[str, Any]:
    """``new`` with the rows of an existing file that it has no row of that ``name`` for.

    Only where both were measured on the same machine with the same software; otherwise, and where
    there is no such file, just ``new``.
    """
    try:
        old = read_json(path)
    except (OSError, ValueError):
        return new
    if old.get("kind") != new["kind"] or old.get("machine") != new["machine"]:
        return new
    rows = {row["name"]: row for row in old["rows"]} | {row["name"]: row for row in new["rows"]}
    return {**new, "rows": list(rows.values())}


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all: under another name first, then renamed.

    Raises:
        OSError: the folder cannot be made or written.
        ValueError: a number that JSON does not have (NaN, infinity).
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside ``path``, which takes its place when the block ends well; else it goes.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp lets nobody else read
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """What ``write_json`` wrote.

    Raises:
        ValueError: the file is of another schema, or no JSON.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a result file of schema {SCHEMA}")
    return value


def table(results: Sequence[Result], machine: Machine) -> Table:
    """One line a row."""
    from rich.table import Table

    out = Table(title=machine.title)
    out.add_column("model", no_wrap=True)
    faults = any(result.speedup_without_faults is not None for result in results)
    columns = ["batch", "eager ms", "patched ms", "speed-up"] + ["no faults"] * faults
    columns += ["FMA peak", "error", "peak MB", "packed MB"]
    for column in columns:
        out.add_column(column, justify="right")
    for result in results:
        row = result.row
        options = [row.mode] * (row.mode != "eval") + [row.dtype] * (row.dtype != "float32")
        cells = [" ".join([row.model, *options]), str(row.batch)]
        cells += [milliseconds(result.eager), milliseconds(result.patched)]
        cells.append(ratio_cell(result.speedup, result.contention))
        if faults:
            without = result.speedup_without_faults
            cells.append(f"{without.median:.2f}×" if without else "-")
        cells += [
            share_cell(result.patched_share, result.eager_share),
            _error(result),
            *_memory(result),
        ]
        out.add_row(*cells)
    return out


def fitted(table: Table, console: Console) -> RenderableType:
    """The table where the console is as wide as it needs; else ``name: value`` in lines for each
    row. rich would cut the cells short, so that no figure could be read.
    """
    from rich.measure import Measurement
    from rich.text import Text

    unbounded = console.options.update(width=10_000)
    if Measurement.get(console, unbounded, table).maximum <= console.width:
        return table
    names = [str(column.header).replace("\n", " ") for column in table.columns]
    lines = [str(table.title)] if table.title else []
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        lines += ["", str(first)]
        line = ""
        for name, cell in zip(names[1:], others, strict=True):
            pair = f"  {name}: {cell}"
            if line and len(line) + len(pair) > console.width:
                lines.append(line)
                line = ""
            line += pair
        lines.append(line)
    return Text("\n".join([*lines, ""]))


def notes(results: Sequence[Result]) -> list[str]:
    """What the table cannot say, each once: what went wrong in which row, then explanations."""
    return [*_warnings(results), *_explanations(results)]


def _explanations(results: Sequence[Result]) -> list[str]:
    lines = []
    timed = [result for result in results if result.speedup is not None]
    if timed:
        lines.append(
            "speed-up: median of the ratios of rounds that time both in turns; [quartiles]"
        )
    if any(result.patched_share for result in timed):
        lines.append(
            "FMA peak: the products' share of the multiply-adds that the machine could do at the"
            " time, in instructions for their form (float32 in tile registers, on AMX, exceeds it);"
            " (eager's)"
        )
    if any(result.speedup_without_faults for result in timed):
        lines.append("no faults: the speed-up where freed memory is kept on both sides")
    if any(result.memory for result in timed):
        lines.append(
            "peak MB: of a pass, above rest; (eager's); packed: weights kept in packed form"
        )
    if any(result.parity for result in results):
        lines.append("error: largest, against float64, relative to the largest value; (eager's)")
    return lines


def _warnings(results: Sequence[Result]) -> list[str]:
    lines = []
    rows: dict[str, list[str]] = {}
    for result in results:
        for note in result.notes:
            rows.setdefault(note, []).append(result.row.label)
    for note, labels in rows.items():
        where = "" if len(labels) == len(results) else f"{'; '.join(labels)}: "
        lines.append(where + note)
    for result in (result for result in results if result.speedup is not None):
        if result.contention is not None and result.contention.busy:
            lines.append(
                f"{result.row.label}: {result.contention}, so do not believe its times and its"
                " speed-up: measure again when they are idle, or on fewer threads"
            )
        busy = unsteady(result.peak)
        if busy is not None:
            lines.append(f"{result.row.label}: {busy}")
        if result.faults_left is not None and result.faults is not None:
            lines.append(
                f"{result.row.label}: page faults a pass: eager {result.faults.eager}, patched"
                f" {result.faults.patched}; where memory is kept: {result.faults_left.eager},"
                f" {result.faults_left.patched}"
            )
    return lines


def milliseconds(seconds: Summary | None) -> str:
    """The median, with as many digits as mean something."""
    if seconds is None:
        return "-"
    s = seconds.scaled(1e3)
    digits = 0 if s.median >= 100 else 1 if s.median >= 10 else 2
    return f"{s.median:.{digits}f}"


def ratio_cell(ratio: Summary | None, contention: Contention | None) -> str:
    """Median and quartiles; marked where others took the processors meanwhile."""
    if ratio is None:
        return "-"
    mark = " (busy)" if contention is not None and contention.busy else ""
    return f"{ratio.median:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}]{mark}"


def share_cell(patched: Share | None, eager: Share | None) -> str:
    """The patched model's share of the peak, and eager's in parentheses."""
    if patched is None or eager is None:
        return "-"
    return f"{patched.of_moment:.0%} ({eager.of_moment:.0%})"


def _error(result: Result) -> str:
    if result.parity is None:
        return "-"
    worst = result.parity.worst
    return f"{worst.error:.1e} ({worst.eager_error:.1e})"


def _memory(result: Result) -> tuple[str, str]:
    m = result.memory
    if m is None:
        return "-", "-"
    return f"{m.patched / 1e6:.0f} ({m.eager / 1e6:.0f})", f"{m.packed / 1e6:.0f}"
