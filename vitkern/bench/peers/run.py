"""Measures a row: all systems that can run, in turns in one process of their own.

A peer that is missing, fails or takes its process with it is an entry with the reason; the others
are measured without it. Ours have to be right, or are not timed.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from vitkern.bench import allocator, child
from vitkern.bench.contention import Contention, Meter
from vitkern.bench.flops import model_flops
from vitkern.bench.machine import package_version
from vitkern.bench.measure import first_line
from vitkern.bench.models import Row, build
from vitkern.bench.parity import compare
from vitkern.bench.passes import forward
from vitkern.bench.peak import Peak, recorded, share
from vitkern.bench.peers import systems
from vitkern.bench.peers.result import Entry, PeersResult, against_best
from vitkern.bench.peers.system import EAGER, Run, System, Unavailable, require
from vitkern.bench.timing import QUICK, Comparison, Plan, interleave

__all__ = ["PLAN", "QUICK_PLAN", "measure", "time_here", "versions"]

SETTLE = 0.015
"""Seconds of sleep before each sample. The threads of OpenMP, which PyTorch and vitkern use, spin
after their work, on the processors of whoever is next; and as the order rotates, that is nearly
always the same one. Measured: eager leaves threads that use 8 to 11 ms of processor time after a
pass, OpenVINO 1.2 ms, ONNX Runtime 0.03 ms (its spinning is off). A pass of ONNX Runtime that
follows torch.compile took 23.9 ms without sleep, 22.0 ms after 5 ms, 21.4 ms after 20 ms, and
20.7 ms alone."""

SAMPLE = 0.1
"""Seconds that a sample takes at least: short passes are repeated in it. After the sleep each one's
threads sleep too and its weights are in no cache, which no one meets who calls it again and again:
vitkern took 20.0 ms in single passes then, and 18.9 ms alone."""

SLOW = 3.0
"""How many times eager's time a pass of a peer may take: a slower one would only stretch the turns.
(Where there is no bfloat16, a pass of PyTorch in it takes 20 times as long.)"""

PLAN, QUICK_PLAN = (replace(plan, sample_seconds=SAMPLE) for plan in (Plan(), QUICK))
"""How long to measure."""

clock = time.perf_counter
"""Seconds; tests put one of their own here."""

ENVIRONMENT = {
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of processes that live on while others run
    "CI": "true",  # OpenVINO and NNCF send no usage data then, from processes of their own
}
"""Of the process that measures."""


def versions() -> dict[str, str | None]:
    """Of all that the systems import; None is what is missing."""
    names = dict.fromkeys(name for system in systems.SYSTEMS for name in system.packages)
    return {name: package_version(name) for name in ("torch", "timm", *names)}


def measure(
    row: Row,
    plan: Plan = PLAN,
    *,
    progress: Callable[[str], object] = lambda step: None,
) -> PeersResult:
    """Measure all systems on a row, on the threads that PyTorch uses now.

    Args:
        row: what to measure: a forward in float32.
        plan: how long to time.
        progress: told what is being done, and an empty string at the end.

    Raises:
        UnknownModel, TimmMissing: see :func:`vitkern.bench.models.create`.
        ChildFailed: eager PyTorch itself fails.
    """
    progress("model")
    try:
        model, images = build(row)
        flops = model_flops(model, images)
        with tempfile.TemporaryDirectory() as folder:
            progress("float64")
            references = _references(model, images)
            if not references["float64"].any():
                note = "not timed: the reference output is all zeros, so nothing can be compared"
                return PeersResult(row, notes=[note])
            torch.save(references, Path(folder) / "references.pt")
            del model, images
            progress("peers: convert and time")
            argument = {"row": row.to_dict(), "plan": vars(plan), "folder": folder}
            found = _in_a_process(argument)
    finally:
        progress("")
    return _result(row, flops, found)


def _references(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The logits in float64, and eager's in the precisions that ours are judged by."""
    wanted = {"float64": torch.float64, "fp32": torch.float32}
    if any(one.ours and one.precision == "bf16" for one in systems.SYSTEMS):
        wanted["bf16"] = torch.bfloat16
    return {
        name: forward(copy.deepcopy(model).to(dtype), images.to(dtype))()
        for name, dtype in wanted.items()
    }


def _in_a_process(
    argument: Mapping[str, Any], excluded: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """``time_here`` in a new process; again, without the system that it died of, where it did.

    ``excluded`` are systems to leave out from the beginning, with the reasons.
    """
    excluded = dict(excluded or {})
    while True:
        current = _current(argument)
        current.unlink(missing_ok=True)
        try:
            found: dict[str, Any] = child.call(
                "peers.run", "time_here", {**argument, "excluded": excluded}, ENVIRONMENT
            )
            return found
        except child.ChildFailed as error:
            name = current.read_text(encoding="utf-8") if current.exists() else EAGER
            if name == EAGER or name in excluded:
                raise
            excluded[name] = f"its process ended: {first_line(error)}"


def _current(argument: Mapping[str, Any]) -> Path:
    """The file that says which system runs."""
    return Path(argument["folder"]) / "current"


def time_here(argument: dict[str, Any]) -> dict[str, Any]:
    """What the new process does: build, compare, and time what is left in turns."""
    row, excluded = Row.from_dict(argument["row"]), argument["excluded"]
    model, images = build(row)
    references = torch.load(Path(argument["folder"]) / "references.pt")
    peaks, meter = {"float32": Peak()}, Meter()

    def enter(name: str) -> None:
        _current(argument).write_text(name, encoding="utf-8")

    def before(name: str) -> None:
        enter(name)
        time.sleep(SETTLE)

    def between() -> None:
        for peak in peaks.values():
            peak.sample()
        meter.sample()

    entries: dict[str, dict[str, Any]] = {}
    runs: dict[str, Run] = {}
    for system in systems.SYSTEMS:
        enter(system.name)
        reason = excluded.get(system.name)
        if reason is not None:
            entries[system.name] = {"reason": reason, "wrong": system.ours}
            continue
        entry, run = _prepare(system, model, images, references)
        entries[system.name] = entry
        if run is not None and system.peer:
            times_eager = _pass(run) / _pass(runs[EAGER])
            if times_eager > SLOW:
                entry["reason"] = f"not timed: {times_eager:.0f} times as slow as eager in one pass"
        if run is not None and entry["reason"] is None:
            runs[system.name] = run
            peaks.setdefault(system.form, Peak(form=system.form))
    times = interleave(runs, Plan(**argument["plan"]), between=between, before=before, clock=clock)
    contention = meter.result()
    for name, run in runs.items():
        enter(name)
        entries[name]["faults"] = allocator.page_faults(run)
    return {
        "entries": entries,
        "seconds": times.seconds,
        "peaks": {form: peak.samples for form, peak in peaks.items()},
        "peak_reason": peaks["float32"].reason,
        "contention": contention and contention.to_dict(),
    }


def _pass(run: Run) -> float:
    """Seconds of one pass."""
    start = clock()
    run()
    return clock() - start


def _prepare(
    system: System,
    model: nn.Module,
    images: torch.Tensor,
    references: Mapping[str, torch.Tensor],
) -> tuple[dict[str, Any], Run | None]:
    """What is known of a system before it is timed, and its pass."""
    try:
        require(system.packages)
        run = system.build(model, images)
        # A copy: some give memory that their next pass writes to.
        logits = run().clone()
        judged = _judge(system, logits, references)
    except Unavailable as error:
        return {"reason": str(error), "wrong": False}, None
    except Exception as error:  # whatever a peer throws: the others go on
        if system.name == EAGER:
            raise
        return {"reason": f"fails: {first_line(error)}", "wrong": system.ours}, None
    return judged, run


def _judge(
    system: System, logits: torch.Tensor, references: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """Error and cosine; the reason not to time it, where it is one of ours that is not right."""
    truth = references["float64"]
    eager = references.get(system.precision, references["fp32"])
    check = compare("logits", {"": truth}, {"": eager}, {"": logits})
    cosine = float(F.cosine_similarity(logits.double(), truth, dim=-1).min())
    judged: dict[str, Any] = {"reason": None, "wrong": False, "cosine": cosine}
    judged["error"] = check.error
    if not system.ours:
        return judged
    if system.min_cosine is None:
        judged["allowed"] = check.allowed
        right, why = check.passed, str(check)
    else:
        right = cosine >= system.min_cosine
        why = f"cosine {cosine:.5f}, at least {system.min_cosine} is wanted"
    if not right:
        judged |= {"reason": f"not timed, parity failed: {why}", "wrong": True}
    return judged


def _result(row: Row, flops: int, found: Mapping[str, Any]) -> PeersResult:
    times = Comparison({name: tuple(values) for name, values in found["seconds"].items()})
    peaks = recorded(found["peaks"], found["peak_reason"])
    peak = peaks["float32"]
    entries = []
    for system in systems.SYSTEMS:
        entry = Entry(
            system.name,
            system.vendor,
            system.precision,
            system.ours,
            system.peer,
            **found["entries"][system.name],
            form=system.form,
        )
        if system.name in times.seconds:
            entry.seconds = times.summary(system.name)
            entry.speedup = times.ratio(EAGER, system.name)
            entry.share = share(flops, times.seconds[system.name], peaks[system.form])
        entries.append(entry)
    result = PeersResult(row, entries, against_best(entries, times), flops, peak.summary())
    summaries = {form: one.summary() for form, one in peaks.items()}
    result.peaks = {form: one for form, one in summaries.items() if one is not None}
    highest = max(peak.samples, default=0.0)
    result.floor = flops / (highest * 1e9) if highest > 0.0 else None
    contention = found["contention"]
    result.contention = None if contention is None else Contention.from_dict(contention)
    if peak.reason is not None:
        result.notes.append(f"share of the peak: {peak.reason}")
    return result
