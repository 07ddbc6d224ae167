"""The check of a GPU: its parity tests, then, only if they pass, benchmarks of models.

``python -m vitkern.bench.gpu.check`` (or ``make gpu-check``) needs one CUDA GPU and writes
``benchmarks/results/<card>/gpu.json``, row by row, so that an interrupted run loses nothing and
``--resume`` goes on from there. With ``--dry-run`` the same code runs on the CPU, with a tiny
model; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitkern.bench import machine, report
from vitkern.bench.gpu import card, device_tests, prepare, rows
from vitkern.bench.gpu.cuda_timing import CudaTimer, captured
from vitkern.bench.gpu.device_tests import NoTests, Outcome
from vitkern.bench.gpu.rows import Entry
from vitkern.bench.gpu.systems import EAGER, Bench, Place
from vitkern.bench.measure import first_line
from vitkern.bench.timing import Plan, interleave
from vitkern.ops._triton.targets import TARGETS

TEST_SHARE = 0.5
"""Of the time, at most, for the tests."""
COMPILE_SHARE = 0.65
"""Of the time, until the end of compiling ahead."""
_PLAN = Plan(warmup=3, min_rounds=15, min_seconds=0.8, max_rounds=60, max_seconds=3.0,
             sample_seconds=0.0)  # fmt: skip
_DRY_PLAN = Plan(min_rounds=2, max_rounds=2, min_seconds=0.0, sample_seconds=0.0)


@dataclass(frozen=True)
class Settings:
    """What a run does.

    Attributes:
        place: where rows are measured.
        entries: the rows, the most telling first.
        files: of tests.
        processes: for tests and compilation.
        folder: of the result file.
        minutes: for everything.
        dry: nothing is to be believed.
        resume: go on from the file.
        logs: for pytest's output.
    """

    place: Place
    entries: Sequence[Entry]
    files: Sequence[str]
    processes: int
    folder: Path
    minutes: float
    dry: bool = False
    resume: bool = False
    logs: Path | None = None


class Check:
    """One run, and the document that it writes."""

    def __init__(self, settings: Settings, say: Callable[[str], object]) -> None:
        self.settings, self.say = settings, say
        self.path = settings.folder / "gpu.json"
        self.start = time.time()
        self.document = {
            **report.document("gpu", machine.describe(), []),
            "dry_run": settings.dry,
            "card": card.describe(settings.place.device).to_dict(),
            "software": card.software(),
            "models": rows.source(),
            "minutes": settings.minutes,
            "tests": None,
            "compiled": None,
            "dropped": [],
        }
        if settings.resume:
            self._resume()

    def _resume(self) -> None:
        """Take over tests and rows of the file, where card and software are these."""
        try:
            old = report.read_json(self.path)
        except (OSError, ValueError) as error:
            self.say(f"nothing to resume: {error}")
            return
        for name in ("kind", "dry_run", "card", "software", "models"):
            if old.get(name) != self.document[name]:
                self.say(f"nothing to resume: the file's {name} is another")
                return
        self.document |= {name: old[name] for name in ("tests", "compiled", "rows")}
        self.say(f"resumed: {len(old['rows'])} rows are in {self.path}")

    def left(self, share: float = 1.0) -> float:
        """Seconds left of a share of the time."""
        return self.start + share * 60.0 * self.settings.minutes - time.time()

    def run(self) -> int:
        """Tests, then rows; the exit status."""
        tests = self.document["tests"]
        if tests is None or not tests["ok"]:
            outcome = self._tests()
            self.say(f"tests: {outcome}")
            if not outcome.ok:
                self._complain(outcome)
                return 1
            self.document["tests"] = outcome.to_dict()
            self._write()
        done = {row["name"] for row in self.document["rows"]}
        left = [entry for entry in self.settings.entries if entry.row.slug not in done]
        if self.settings.place.device.type == "cuda" and left:
            self.document["compiled"] = prepare.prepare(
                left, self.settings.place.device, deadline=time.time() + self.left(COMPILE_SHARE),
                processes=self.settings.processes, progress=self.say,
            )  # fmt: skip
        self._rows(left)
        self._write()
        return 0 if all(row["ok"] for row in self.document["rows"]) else 1

    def _tests(self) -> Outcome:
        settings = self.settings
        return device_tests.run(
            settings.place.device.type, deadline=time.time() + self.left(TEST_SHARE),
            processes=settings.processes, files=settings.files, logs=settings.logs,
            progress=self.say,
        )  # fmt: skip

    def _complain(self, outcome: Outcome) -> None:
        for name, message in outcome.failures[:20]:
            self.say(f"FAILED {name}\n    " + message.replace("\n", "\n    "))
        if outcome.failures:
            self.say("parity failed, so nothing was timed")
        else:
            kinds = ", ".join(outcome.too_few) or "any"
            self.say(f"not all tests of these kinds have run: {kinds}; so nothing was timed."
                     " Give more --minutes")  # fmt: skip

    def _rows(self, left: Sequence[Entry]) -> None:
        pace = 1.0
        for number, entry in enumerate(left):
            # The first that does not fit ends it: those after it matter less.
            if self.left() < pace * entry.seconds and not (number == 0 and self.left() > 0):
                self.document["dropped"] = [one.row.slug for one in left[number:]]
                self.say(f"no time for {len(left) - number} rows: "
                         + ", ".join(self.document["dropped"]))  # fmt: skip
                return
            begun, label = time.time(), f"{number + 1}/{len(left)} {entry.row.label}"
            self.document["rows"].append(self._row(entry, label))
            self._write()
            pace = max(pace, (time.time() - begun) / entry.seconds)
            self.say(f"{label}: {line(self.document['rows'][-1])}")

    def _row(self, entry: Entry, label: str) -> dict[str, Any]:
        try:
            bench = Bench(entry, self.settings.place, lambda step: self.say(f"{label}: {step}"))
            return bench.measure()
        except Exception as error:  # such as no memory for this batch: others may fit
            return {"name": entry.row.slug, "row": entry.row.to_dict(), "ok": False, "systems": {},
                    "speedups": {}, "notes": [f"fails: {first_line(error)}"]}  # fmt: skip
        finally:
            if self.settings.place.device.type == "cuda":
                torch.cuda.empty_cache()

    def _write(self) -> None:
        report.write_json(self.path, self.document)


def line(row: dict[str, Any]) -> str:
    """A row's medians and speed-ups, and what went wrong."""
    systems = row["systems"]
    eager = systems.get(EAGER, {}).get("seconds")
    parts = []
    for name, one in systems.items():
        if one["seconds"] is not None:
            ratio = f" ({eager['median'] / one['seconds']['median']:.2f}×)" if eager else ""
            share = f", {one['share_of_peak']:.0%} of peak" if one["share_of_peak"] else ""
            parts.append(f"{name} {1e3 * one['seconds']['median']:.3f} ms{ratio}{share}")
    if row.get("measured_over_predicted"):
        parts.append(f"{row['measured_over_predicted']:.2f} of the predicted time")
    return "; ".join([*parts, *row["notes"]])


def gpu_settings(arguments: argparse.Namespace) -> Settings:
    """On the first GPU."""
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    here = card.describe(device)
    place = Place(device, here.target, _PLAN, CudaTimer(device), captured,
                  backends=("cuda", "triton"))  # fmt: skip
    folder = arguments.output or card.root() / "benchmarks" / "results" / here.slug
    entries = [one for one in rows.ROWS if arguments.rows in one.row.slug]
    # Each process of the tests has a context of its own on the GPU.
    processes = max(1, min(len(os.sched_getaffinity(0)), 16))
    return Settings(place, entries, device_tests.FILES, processes, folder, arguments.minutes,
                    resume=arguments.resume, logs=arguments.logs)  # fmt: skip


def dry_settings(arguments: argparse.Namespace) -> Settings:
    """On the CPU: a tiny model, few tests, and the H100's figures to fill in the document."""
    place = Place(torch.device("cpu"), TARGETS["h100"], _DRY_PLAN, interleave, lambda run: run,
                  "aot_eager", ("cpu",))  # fmt: skip
    entries = [one for one in rows.DRY_ROWS if arguments.rows in one.row.slug]
    return Settings(place, entries, device_tests.DRY, 1, arguments.output, arguments.minutes,
                    dry=True, resume=arguments.resume, logs=arguments.logs)  # fmt: skip


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vitkern.bench.gpu.check",
        description="Parity tests and benchmarks on the GPU of this machine.",
    )
    parser.add_argument("--minutes", type=float, default=8.0, metavar="M",
                        help="for all: tests and rows that do not fit are left out")  # fmt: skip
    parser.add_argument("--rows", default="", metavar="TEXT", help="only with this in their names")
    parser.add_argument("--resume", action="store_true", help="skip what the result file has")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="of the result file")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep pytest's output there")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU; needs --output")
    arguments = parser.parse_args(given)
    if arguments.dry_run and arguments.output is None:
        parser.error("--dry-run measures nothing that is worth keeping, and needs --output FOLDER")
    if arguments.minutes <= 0:
        parser.error(f"--minutes must be positive, got {arguments.minutes:g}")
    return arguments


def main(given: Sequence[str] | None = None) -> int:
    """0: well. 1: parity failed, in tests or in a row. 2: it cannot run here. 130: interrupted."""
    arguments = _arguments(given)

    def say(text: str) -> None:
        if text != said[-1]:
            said[:] = [text]
            print(f"{time.time() - start:6.1f} s  {text}", file=sys.stderr, flush=True)

    start, said = time.time(), [""]
    reason = None if arguments.dry_run else card.missing()
    if reason is not None:
        print(f"gpu-check: {reason}", file=sys.stderr)
        return 2
    check = Check((dry_settings if arguments.dry_run else gpu_settings)(arguments), say)
    try:
        status = check.run()
    except NoTests as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say(f"interrupted; {len(check.document['rows'])} rows are in {check.path}, and --resume"
            " goes on from there")  # fmt: skip
        return 130
    for row in check.document["rows"]:
        print(f"{row['name']}: {line(row)}")
    if check.document["rows"]:
        print(f"written to {check.path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
