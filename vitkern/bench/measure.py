"""All measurements of a row: parity first, then times in turns, peak, memory.

Times are taken in a new process. What ran before in a process decides whether glibc has memory at
hand, and so how many page faults a pass has: after a check in float64, the eager model finds so
much that it has none. In a process that does nothing else it has those that users have.
"""

from __future__ import annotations

import copy
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vitkern.bench import allocator, child, memory
from vitkern.bench.contention import Contention, Meter
from vitkern.bench.flops import model_flops
from vitkern.bench.forms import FormUnavailable, prepare
from vitkern.bench.memory import Memory
from vitkern.bench.models import Row, build
from vitkern.bench.parity import Parity, ParityError, check
from vitkern.bench.passes import make_pass
from vitkern.bench.peak import Peak, Share, recorded, share
from vitkern.bench.timing import Comparison, Plan, Summary, interleave
from vitkern.patching import PatchReport
from vitkern.quantization import CannotQuantize

__all__ = ["Faults", "Result", "first_line", "measure", "nothing_patched", "time_here"]

EAGER, PATCHED = "eager", "patched"


@dataclass(frozen=True)
class Faults:
    """Page faults of one pass, after the timing; None where the system does not count them."""

    eager: int | None
    patched: int | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))


@dataclass
class Result:
    """What was measured of a row; None is what was not, ``notes`` say why.

    Times are in seconds, per pass of the whole batch. ``ok`` is False where the patched model is
    wrong or fails; it was not timed then. Nor was it where nothing was patched, which is no
    failure. ``peak`` is that of the patched model's products, ``eager_share`` of eager's own.
    """

    row: Row
    parity: Parity | None
    backends: dict[str, int]
    skipped: int
    eager: Summary | None = None
    patched: Summary | None = None
    speedup: Summary | None = None
    flops: int | None = None
    peak: Summary | None = None
    contention: Contention | None = None
    eager_share: Share | None = None
    patched_share: Share | None = None
    memory: Memory | None = None
    faults: Faults | None = None
    speedup_without_faults: Summary | None = None
    faults_left: Faults | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the patched model runs and is right."""
        return self.parity is not None and self.parity.passed

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain: dict[str, Any] = {"ok": self.ok, "peak_form": self.row.forms[1]}
        for name, value in vars(self).items():
            plain[name] = value.to_dict() if hasattr(value, "to_dict") else value
        return plain


def measure(
    row: Row,
    plan: Plan | None = None,
    *,
    with_memory: bool = True,
    with_faults: bool = False,
    progress: Callable[[str], object] = lambda step: None,
) -> Result:
    """Measure the eager and the patched model of a row, on the threads that PyTorch uses now.

    Where the patched model fails, or its parity does, or nothing was patched, nothing is timed, and
    a note says so.

    Args:
        row: what to measure.
        plan: how long to time; None is ``Plan()``.
        with_memory: also the peak memory, in a process of its own.
        with_faults: also the speed-up where freed memory is kept on both sides, so that there are
            no page faults.
        progress: told what is being done, and an empty string at the end.

    Raises:
        UnknownModel, TimmMissing: see :func:`vitkern.bench.models.create`.
    """
    progress("model")
    try:
        return _measure(row, plan, with_memory, with_faults, progress)
    finally:
        progress("")


def _measure(
    row: Row,
    plan: Plan | None,
    with_memory: bool,
    with_faults: bool,
    progress: Callable[[str], object],
) -> Result:
    eager, images = build(row)
    patched = copy.deepcopy(eager)
    try:
        report = prepare(patched, images, row.form)
    except (FormUnavailable, CannotQuantize) as error:
        return Result(row, None, {}, 0, notes=[f"not timed: {error}"])
    progress("parity")
    result = Result(row, None, *_counts(report))
    same = nothing_patched(report)
    if same is not None:
        result.notes.append(f"not timed, nothing was patched: {same}")
    try:
        result.parity = check(row, eager, patched, images)
    except RuntimeError as error:
        result.notes.append(f"not timed, it fails: {first_line(error)}")
        return result
    except ParityError as error:
        result.notes.append(f"not timed, parity failed: {error}")
        return result
    if not result.parity.passed:
        result.notes.append(f"not timed, parity failed: {result.parity.worst}")
        return result
    if same is not None:  # the same code twice: their ratio would be noise
        return result
    result.flops = model_flops(eager, images, backward=row.trains)
    del eager, patched, images
    progress("time")
    _fill(result, _time(row, plan or Plan(), {}))
    if with_faults and allocator.is_glibc():
        progress("page faults")
        _fill_without_faults(result, _time(row, _halved(plan or Plan()), allocator.KEEP))
    elif with_faults:
        result.notes.append("page faults: their removal needs Linux with glibc")
    if with_memory and row.mode == "step":
        result.notes.append("memory: of --train; a step keeps what the optimizer has")
    elif with_memory:
        progress("memory")
        why = memory.unavailable()
        if why is None:
            result.memory = memory.measure([row])[0]
        else:
            result.notes.append(why)
    return result


def nothing_patched(report: PatchReport) -> str | None:
    """Why the patched model runs the same code as the eager one, or None where it does not."""
    if any(module.backend != "eager" for module in report.patched):
        return None
    if report.patched:
        return "all its modules run on the eager backend, which is plain PyTorch"
    return next((module.why() for module in report.skipped), "no known modules")


def first_line(error: Exception) -> str:
    """The first sentence, or as much of it as fits a line."""
    line = str(error).partition("\n")[0].partition(". ")[0]
    return textwrap.shorten(line, 200, placeholder=" ...") or type(error).__name__


def _counts(report: PatchReport) -> tuple[dict[str, int], int]:
    return dict(Counter(module.backend for module in report.patched)), len(report.skipped)


def _halved(plan: Plan) -> Plan:
    rounds, seconds = max(plan.min_rounds // 2, 2), plan.min_seconds / 2
    return replace(plan, min_rounds=rounds, min_seconds=seconds)


@dataclass(frozen=True)
class _Times:
    """What the process that times gives back."""

    comparison: Comparison
    peaks: dict[str, Peak]
    faults: Faults
    contention: Contention | None


def _time(row: Row, plan: Plan, environment: Mapping[str, str]) -> _Times:
    """Time the row in a new process with these settings of its allocator."""
    argument = {"row": row.to_dict(), "plan": vars(plan)}
    found = child.call("measure", "time_here", argument, environment)
    seconds = {name: tuple(values) for name, values in found["seconds"].items()}
    contention = found["contention"]
    return _Times(
        Comparison(seconds),
        recorded(found["peaks"], found["peak_reason"]),
        Faults(**found["faults"]),
        None if contention is None else Contention.from_dict(contention),
    )


def time_here(argument: dict[str, Any]) -> dict[str, Any]:
    """What the new process does: times and peaks of each round, and page faults of a pass.

    It also looks how busy others were meanwhile.
    """
    row = Row.from_dict(argument["row"])
    eager, images = build(row)
    patched = copy.deepcopy(eager)
    prepare(patched, images, row.form)
    peaks, meter = {form: Peak(form=form) for form in row.forms}, Meter()

    def between() -> None:
        for peak in peaks.values():
            peak.sample()
        meter.sample()

    runs = {EAGER: make_pass(row, eager, images), PATCHED: make_pass(row, patched, images)}
    times = interleave(runs, Plan(**argument["plan"]), between=between)
    contention = meter.result()
    return {
        "seconds": times.seconds,
        "peaks": {form: peak.samples for form, peak in peaks.items()},
        "peak_reason": next(iter(peaks.values())).reason,
        "faults": {name: allocator.page_faults(run) for name, run in runs.items()},
        "contention": contention and contention.to_dict(),
    }


def _fill(result: Result, times: _Times) -> None:
    both = times.comparison
    eager_peak, peak = (times.peaks[form] for form in result.row.forms)
    result.eager, result.patched = both.summary(EAGER), both.summary(PATCHED)
    result.speedup = both.ratio(EAGER, PATCHED)
    result.faults = times.faults
    result.peak = peak.summary()
    result.contention = times.contention
    result.eager_share = share(result.flops, both.seconds[EAGER], eager_peak)
    result.patched_share = share(result.flops, both.seconds[PATCHED], peak)
    if peak.reason is not None:
        result.notes.append(f"share of the peak: {peak.reason}")


def _fill_without_faults(result: Result, times: _Times) -> None:
    result.speedup_without_faults = times.comparison.ratio(EAGER, PATCHED)
    result.faults_left = times.faults
    if times.contention is not None and times.contention.busy:
        result.notes.append(f"no faults: not to be trusted: {times.contention}")
