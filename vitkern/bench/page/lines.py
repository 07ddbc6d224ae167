"""Stored results as lines: what was measured, by which system, in which precision, how fast.

A file's kind says what its rows are. :data:`READERS` has a function a kind; another kind is another
entry. Files of no known kind, and damaged ones, are named on the page and not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitkern.bench.contention import Contention
from vitkern.bench.models import MODES
from vitkern.bench.ops import OpRow
from vitkern.bench.peers.system import EAGER, OURS
from vitkern.bench.report import read_json
from vitkern.bench.timing import Summary

__all__ = ["READERS", "Figures", "Line", "Source", "Stored", "load"]

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
"""Names in files of peers, and what the page calls them; others stay as they are."""


@dataclass(frozen=True)
class Source:
    """A file of results.

    Attributes:
        name: of the file, below the folder.
        kind: of its rows.
        date: on which it was written; ``time`` is "" in older files.
        machine: as :class:`vitkern.bench.machine.Machine` writes it.
        versions: of other software.
        quick: whether its rows are of few rounds.
        complete: whether all rows that were asked for are there.
    """

    name: str
    kind: str
    date: str
    time: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str | None]
    quick: bool = False
    complete: bool = True

    @property
    def place(self) -> tuple[str, int]:
        """The machine and the number of threads: only lines of the same place are compared."""
        return str(self.machine["slug"]), int(self.machine["threads"])

    @property
    def when(self) -> tuple[str, str, str]:
        """For sorting: the newest is the largest."""
        return self.date, self.time, self.name


@dataclass(frozen=True)
class Figures:
    """What is measured of either side; None is what was not.

    Attributes:
        seconds: of a pass or a call.
        share: of the machine's peak at the moment, in instructions of the line's ``form``.
        memory: bytes of a pass above rest.
        error: the largest, against float64, relative to the largest value.
    """

    seconds: Summary | None = None
    share: float | None = None
    memory: int | None = None
    error: float | None = None


@dataclass(frozen=True)
class Line:
    """One system on one subject; None is what was not measured.

    Attributes:
        what: ``"op"`` or ``"model"``.
        subject: the op or the model.
        case: the op's case, or the mode of the model where it is not a forward.
        batch: images; None for ops, whose cases have it.
        precision: of the products.
        system: who computed it.
        ours: whether that is vitkern.
        method: lines of other methods are not compared: peers are timed in the same process after
            conversions that leave memory at hand.
        figures: its own.
        eager: those of eager PyTorch in the same turns.
        speedup: how many times faster than eager, over the rounds.
        form: of the instructions whose peak ``share`` is of.
        allowed: how large the error may be, where there is a bound.
        compared: what the error is of.
        reason: why it was not timed.
    """

    source: Source
    what: str
    subject: str
    case: str
    batch: int | None
    precision: str
    system: str
    ours: bool
    method: str
    figures: Figures = Figures()
    eager: Figures = Figures()
    speedup: Summary | None = None
    form: str = "float32"
    allowed: float | None = None
    compared: str = "output"
    contention: Contention | None = None
    reason: str | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What two lines share that are the same measurement at different times."""
        return (
            self.source.place,
            self.source.quick,
            self.method,
            self.what,
            self.subject,
            self.case,
            self.batch,
            self.precision,
            self.system,
        )

    @property
    def busy(self) -> bool:
        """Whether other processes took the processors meanwhile."""
        return self.contention is not None and self.contention.busy


@dataclass
class Stored:
    """What a folder has.

    Attributes:
        lines: of all files.
        sources: the files that were read.
        left_out: other files, and rows that make no sense, with the reason.
    """

    lines: list[Line] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def load(folder: Path) -> Stored:
    """All lines of the JSON files below a folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    stored = Stored()
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        try:
            _add(stored, name, read_json(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = str(error) if isinstance(error, (OSError, ValueError)) else f"damaged: {error!r}"
            stored.left_out.append(f"{name}: {why}")
    return stored


def _add(stored: Stored, name: str, document: Mapping[str, Any]) -> None:
    kind = str(document["kind"])
    if kind not in READERS:
        stored.left_out.append(f"{name}: results of the kind {kind!r} are not shown here")
        return
    source = Source(
        name,
        kind,
        str(document["date"]),
        str(document.get("time", "")),
        dict(document["machine"]),
        dict(document.get("versions") or {}),
        bool(document.get("quick", False)),
        bool(document.get("complete", True)),
    )
    if not all(source.place):  # without it nothing can be told apart
        raise ValueError("the machine has no name, or no threads")
    stored.sources.append(source)
    for number, row in enumerate(document["rows"], 1):
        _read(stored, source, row, number)


def _read(stored: Stored, source: Source, row: Any, number: int) -> None:
    try:
        stored.lines += list(READERS[source.kind](source, row))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        stored.left_out.append(f"{source.name}: row {number} is damaged: {error!r}")


def _summary(values: Any) -> Summary | None:
    return None if values is None else Summary.from_dict(values)


def _contention(row: Mapping[str, Any]) -> Contention | None:
    values = row.get("contention")
    return None if values is None else Contention.from_dict(values)


def _share(values: Any) -> float | None:
    return None if values is None else float(values["of_moment"])


def _ops(source: Source, row: Mapping[str, Any]) -> Iterator[Line]:
    named = OpRow.from_name(row["name"])
    check = row.get("check") or {}
    reason = row.get("reason")
    if reason is None and not row.get("ok", True):
        reason = "not timed, the output is wrong"
    seconds = None if reason is not None else _summary(row.get("seconds"))
    yield Line(
        source,
        "op",
        named.op,
        named.case,
        None,
        named.dtype,
        f"{OURS} {named.backend}",
        True,
        "ops",
        Figures(seconds, _share(row.get("share_of_peak")), error=check.get("error")),
        Figures(_summary(row.get("eager_seconds")), error=check.get("eager_error")),
        _summary(row.get("ratio_to_eager")),
        row.get("form", "float32"),
        check.get("allowed"),
        contention=_contention(row),
        reason=reason,
    )


def _of_model(source: Source, row: Mapping[str, Any], method: str) -> Line:
    """What all systems share. A model that is itself in bfloat16 is a case of its own."""
    values = row["row"]
    extras = [MODES[values["mode"]]]
    extras += [f"model in {values['dtype']}"] * (values["dtype"] != "float32")
    return Line(
        source, "model", str(values["model"]), ", ".join(extras), int(values["batch"]),
        str(values["dtype"]), EAGER, False, method, contention=_contention(row),
    )  # fmt: skip


def _models(source: Source, row: Mapping[str, Any]) -> Iterator[Line]:
    base = _of_model(source, row, "pairs")
    memory = row.get("memory") or {}
    checks = (row.get("parity") or {}).get("checks") or [{}]
    worst = max(checks, key=lambda one: (one.get("error") or 0.0) / (one.get("allowed") or 1.0))
    reason = None
    if row.get("patched") is None:
        reason = "; ".join(row.get("notes") or ()) or "not timed"
    yield replace(
        base,
        precision=row["row"].get("form") or base.precision,
        system=OURS + ", tuned" * bool(row.get("tuned")),
        ours=True,
        figures=Figures(
            _summary(row.get("patched")),
            _share(row.get("patched_share")),
            memory.get("patched"),
            worst.get("error"),
        ),
        eager=Figures(
            _summary(row.get("eager")),
            _share(row.get("eager_share")),
            memory.get("eager"),
            worst.get("eager_error"),
        ),
        speedup=_summary(row.get("speedup")),
        form=row.get("peak_form") or "float32",
        allowed=worst.get("allowed"),
        compared=worst.get("name") or "output",
        reason=reason,
    )


def _peers(source: Source, row: Mapping[str, Any]) -> Iterator[Line]:
    base = _of_model(source, row, "peers")
    if not row["entries"]:
        reason = "; ".join(row.get("notes") or ()) or "not timed"
        yield replace(base, system="all systems", reason=reason)
    figures = {
        entry["name"]: Figures(
            _summary(entry["seconds"]), _share(entry["share"]), error=entry["error"]
        )
        for entry in row["entries"]
    }
    for entry in row["entries"]:
        short = str(entry["precision"])
        # The precision has a column of its own.
        name = str(entry["name"]).removesuffix(f" {short}")
        yield replace(
            base,
            precision=PRECISIONS.get(short, short),
            system=name,
            ours=bool(entry["ours"]),
            figures=figures[entry["name"]],
            eager=figures.get(EAGER, Figures()),
            speedup=None if name == EAGER else _summary(entry["speedup"]),
            form=entry.get("form") or "float32",
            allowed=entry["allowed"],
            reason=entry["reason"],
        )


Reader = Callable[[Source, Mapping[str, Any]], Iterator[Line]]

READERS: dict[str, Reader] = {"ops": _ops, "models": _models, "harm": _models, "peers": _peers}
"""How the rows of each kind of file become lines."""
