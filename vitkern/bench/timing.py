"""Times two or more callables in turns.

On a shared machine the clock rate, the caches and the neighbours change by the second, so times
that were taken one after the other do not compare. Here each *round* runs every callable once,
and the order within a round rotates, so that no callable always profits from (or pays for) what ran
before it.

The ratio of two callables is the **median of the ratios of the rounds**: the two times of a round
were taken under the same conditions, and a round that was disturbed in the middle is an outlier
that the median drops. The ratio of the two medians, which mixes times of different moments, is not
reported.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["QUICK", "Comparison", "Plan", "Summary", "interleave", "summarize"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to measure.

    Attributes:
        warmup: calls of each callable before anything is timed, at least one.
        min_rounds: rounds go on until there are so many ...
        min_seconds: ... and they have taken so long,
        max_rounds: but are not more than this,
        max_seconds: and, once there are three, do not begin after this long.
        sample_seconds: a callable that is faster is called several times in a row in each round,
            so that the clock's resolution and the change from one to the other do not count.
    """

    warmup: int = 1
    min_rounds: int = 9
    min_seconds: float = 3.0
    max_rounds: int = 200
    max_seconds: float = 30.0
    sample_seconds: float = 0.005


QUICK = Plan(min_rounds=3, min_seconds=0.3)
"""To see whether it works; its figures are rough."""


@dataclass(frozen=True)
class Summary:
    """Median and quartiles of some values."""

    median: float
    low: float
    high: float
    count: int

    def scaled(self, factor: float) -> Summary:
        """The same values times ``factor``, which is positive."""
        return Summary(self.median * factor, self.low * factor, self.high * factor, self.count)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Summary:
        """What ``to_dict`` gave."""
        return Summary(**values)


def summarize(values: Iterable[float]) -> Summary:
    """Median and quartiles (linearly interpolated) of at least one value."""
    found = sorted(values)
    if not found:
        raise ValueError("there are no values to summarize")

    def at(share: float) -> float:
        place = share * (len(found) - 1)
        low = math.floor(place)
        high = min(low + 1, len(found) - 1)
        return found[low] + (place - low) * (found[high] - found[low])

    return Summary(statistics.median(found), at(0.25), at(0.75), len(found))


@dataclass(frozen=True)
class Comparison:
    """Seconds per call of each callable, one entry a round."""

    seconds: dict[str, tuple[float, ...]]

    @property
    def rounds(self) -> int:
        """How many rounds were made."""
        return len(next(iter(self.seconds.values())))

    def summary(self, name: str) -> Summary:
        """Seconds per call of one callable."""
        return summarize(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> Summary:
        """How many times faster ``fast`` is than ``slow``: over the ratios of the rounds."""
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        return summarize(one / other for one, other in pairs)


def interleave(
    callables: Mapping[str, Callable[[], object]],
    plan: Plan | None = None,
    *,
    between: Callable[[], object] | None = None,
    before: Callable[[str], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sample: Callable[[Callable[[], object], int], float] | None = None,
) -> Comparison:
    """Time ``callables`` in turns, as the module's docstring describes.

    Args:
        callables: what to time, by name; each is called without arguments.
        plan: how long to measure; None is ``Plan()``.
        between: called before the first round, after every round, and not timed: to measure the
            machine at the same moments.
        before: called with a callable's name before it is warmed up and before each of its
            samples, and not timed: to let the one before come to rest.
        clock: seconds; tests give one of their own.
        sample: ``sample(run, calls)`` calls so often and gives seconds per call; None is by the
            clock.

    Raises:
        ValueError: nothing to time.
    """
    if not callables:
        raise ValueError("there is nothing to time")
    plan = plan or Plan()
    before = before or _nothing
    take = sample or (lambda run, calls: _time(run, calls, clock))
    calls = {}
    for name, run in callables.items():
        before(name)
        calls[name] = _calls(run, plan, take)
    seconds: dict[str, list[float]] = {name: [] for name in callables}
    order = list(callables)
    with _no_garbage_collection():
        if between is not None:
            between()
        start = clock()
        for number in range(plan.max_rounds):
            elapsed = clock() - start
            if number >= plan.min_rounds and elapsed >= plan.min_seconds:
                break
            if number >= 3 and elapsed >= plan.max_seconds:
                break
            first = number % len(order)
            for name in order[first:] + order[:first]:
                before(name)
                seconds[name].append(take(callables[name], calls[name]))
            if between is not None:
                between()
    return Comparison({name: tuple(values) for name, values in seconds.items()})


def _nothing(name: str) -> None:
    """Before a sample, where nothing is wanted."""


def _calls(
    run: Callable[[], object], plan: Plan, take: Callable[[Callable[[], object], int], float]
) -> int:
    """Warm up, and say how many calls make a sample long enough."""
    for _ in range(max(plan.warmup, 1)):
        run()
    calls = 1
    while calls < 1_000_000:
        taken = take(run, calls) * calls
        if taken >= plan.sample_seconds:
            break
        # Towards the goal, with doubt about a time that was too short to be exact.
        factor = plan.sample_seconds / taken if taken > 0.0 else 10.0
        calls = math.ceil(calls * min(max(factor * 1.1, 1.5), 10.0))
    return calls


def _time(run: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    """Seconds per call."""
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
