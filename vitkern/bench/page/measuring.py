"""Runs what the page shows, a row after the other, and keeps each as it comes.

Every kind of results is a file of the machine's folder, as ``pytest benchmarks/ --store`` writes
them. A run that was interrupted goes on where it stopped, if machine and software are the same; a
finished file, or one of other software, is kept beside the new one under the name of its date, so
that the page can compare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkern.bench import measure, ops
from vitkern.bench.child import ChildFailed
from vitkern.bench.machine import Machine
from vitkern.bench.measure import first_line
from vitkern.bench.models import TARGETS, Row
from vitkern.bench.peers import ROWS
from vitkern.bench.peers import run as peers
from vitkern.bench.report import document, read_json, write_json
from vitkern.bench.timing import QUICK, Plan
from vitkern.dispatch import UnsupportedInput

__all__ = ["Store", "Task", "run", "tasks"]

DTYPES = ("float32", "bfloat16")

QUICK_MODELS = (Row("vit_tiny_patch16_224", 1), Row("swin_tiny_patch4_window7_224", 1))
QUICK_PEERS = QUICK_MODELS[:1]

Progress = Callable[[str], object]


@dataclass(frozen=True)
class Task:
    """A row to measure.

    Attributes:
        name: of the row in its file.
        label: for people.
        run: gives the row; told how to show progress.
        failed: the row where ``run`` raises, with the reason.
    """

    name: str
    label: str
    run: Callable[[Progress], dict[str, Any]]
    failed: Callable[[str], dict[str, Any]]


def tasks(kind: str, *, quick: bool = False) -> list[Task]:
    """All rows of a kind; of ``quick`` only a few, for a few rounds.

    Raises:
        ValueError: there is no such kind.
    """
    if kind == "ops":
        return [_op(row, quick) for row in _op_rows(quick)]
    if kind == "models":
        return [_model(row, quick) for row in (QUICK_MODELS if quick else TARGETS)]
    if kind == "peers":
        return [_peers(row, quick) for row in (QUICK_PEERS if quick else ROWS)]
    raise ValueError(f"kind must be ops, models or peers, got {kind!r}")


def _op_rows(quick: bool) -> list[ops.OpRow]:
    rows = [row for dtype in DTYPES for row in ops.rows(dtype)]
    if not quick:
        return rows
    first: dict[tuple[str, str, str], ops.OpRow] = {}
    for row in rows:
        first.setdefault((row.op, row.backend, row.dtype), row)
    return list(first.values())


def _op(row: ops.OpRow, quick: bool) -> Task:
    plan = ops.QUICK_PLAN if quick else ops.PLAN
    return Task(
        row.name,
        f"{row.op} on {row.backend}, {row.case}, {row.dtype}",
        lambda progress: ops.measure(row, plan).to_dict(),
        lambda reason: {"name": row.name, "ok": False, "reason": reason},
    )


def _model(row: Row, quick: bool) -> Task:
    def run(progress: Progress) -> dict[str, Any]:
        plan = QUICK if quick else Plan()
        result = measure.measure(row, plan, with_memory=not quick, progress=progress)
        return {"name": row.slug, **result.to_dict()}

    def failed(reason: str) -> dict[str, Any]:
        return {"name": row.slug, "ok": False, "row": row.to_dict(), "notes": [reason]}

    return Task(row.slug, row.label, run, failed)


def _peers(row: Row, quick: bool) -> Task:
    def run(progress: Progress) -> dict[str, Any]:
        plan = peers.QUICK_PLAN if quick else peers.PLAN
        return peers.measure(row, plan, progress=progress).to_dict()

    def failed(reason: str) -> dict[str, Any]:
        return {"name": row.label, "ok": False, "row": row.to_dict(), "entries": [],
                "notes": [reason]}  # fmt: skip

    return Task(row.label, f"{row.label}, beside peers", run, failed)


class Store:
    """The rows of one kind: those of an earlier run that was interrupted, and the new ones.

    Args:
        folder: of all results.
        kind: of the rows.
        machine: that measures.
        quick: whether it does so in few rounds; such rows have a file of their own.
        fresh: begin anew where a run was interrupted.

    Raises:
        OSError: the folder cannot be made, or what is in the way cannot be renamed.
    """

    def __init__(
        self, folder: Path, kind: str, machine: Machine, *, quick: bool = False, fresh: bool = False
    ) -> None:
        self.kind, self.machine, self.quick = kind, machine, quick
        self.path = folder / machine.slug / f"{kind}{'-quick' * quick}.json"
        self.rows: dict[str, dict[str, Any]] = {}
        self.versions: Mapping[str, str | None] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        date = "unreadable"
        try:
            old = read_json(self.path)
            date = str(old["date"])
            unfinished = old.get("complete") is False and old["machine"] == machine.to_dict()
            rows = {row["name"]: row for row in old["rows"]}
        except (ValueError, KeyError, TypeError, AttributeError):
            unfinished, rows = False, {}
        if unfinished and not fresh:
            self.rows = rows
        else:
            self.path.rename(self._free(date))

    def _free(self, date: str) -> Path:
        """A name beside the file that nothing has yet."""
        stem, number = f"{self.path.stem}-{date}", 1
        while (path := self.path.with_name(f"{stem}.json")).exists():
            number += 1
            stem = f"{self.path.stem}-{date}-{number}"
        return path

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Keep a row, in the file at once."""
        self.rows[name] = row
        self.write(complete=False)

    def write(self, *, complete: bool) -> None:
        """Write the file; ``complete`` says that no row is missing."""
        found = document(self.kind, self.machine, list(self.rows.values()))
        found |= {"complete": complete, "quick": self.quick, "versions": dict(self.versions)}
        write_json(self.path, found)


def run(store: Store, wanted: Sequence[Task]) -> Iterator[tuple[Task, int, Callable[..., bool]]]:
    """Each task that the store has no row of, with its number, and a function that measures it.

    The function takes a way to show progress, stores the row and says whether it is right. The
    file is complete once all have been measured.
    """
    for number, task in enumerate(wanted, 1):
        if task.name in store.rows:
            continue

        def measured(progress: Progress, task: Task = task) -> bool:
            try:
                row = task.run(progress)
            except (ChildFailed, UnsupportedInput, RuntimeError) as error:
                row = task.failed(f"fails: {first_line(error)}")
            store.add(task.name, row)
            return bool(row["ok"])

        yield task, number, measured
    store.write(complete=True)
