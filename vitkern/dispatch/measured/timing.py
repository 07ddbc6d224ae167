"""Which of several callables is the fastest, by more than noise.

The callables run in turns, since the clock rate, the caches and the neighbours change by the
second: what counts are the ratios of times of one round. (``vitkern.bench.timing`` does the same
for benchmarks, at length; dispatch is below it.)
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

MIN_ROUNDS = 9
MAX_ROUNDS = 31
"""As many where it is not clear after fewer."""
MAX_SECONDS = 3.0
"""After this long, and three rounds, there is no other one."""
SAMPLE_SECONDS = 0.002
"""What is faster is called several times in a row in each round."""
SHORTEST = 1e-9
"""What is nothing to a device's own clock, as no work at all, counts as that."""
MARGIN = 0.03
"""By which another must beat the first of the fixed order to take its place."""

Runs = Mapping[str, Callable[[], object]]
Seconds = dict[str, list[float]]
Clock = Callable[[], float]
Sample = Callable[[Callable[[], object], int], float]
"""Calls something so many times; gives seconds per call."""


def in_turns(
    runs: Runs, static: str, clock: Clock = time.perf_counter, sample: Sample | None = None
) -> Seconds:
    """Seconds per call of each, an entry a round. What raises has no entry.

    Each runs once before it is timed; ``sample`` times it, or ``clock`` does.
    """
    take = sample or functools.partial(_time, clock=clock)
    seconds: Seconds = {name: [] for name in runs}
    calls: dict[str, int] = {}
    start = clock()
    for number in range(-1, MAX_ROUNDS):
        if number >= MIN_ROUNDS and not _unclear(seconds, static):
            break
        if number >= 3 and clock() - start > MAX_SECONDS:
            break
        first = number % len(runs)
        for name in [*runs][first:] + [*runs][:first]:
            if name not in seconds:
                continue
            try:
                if number < 0:
                    calls[name] = _calls(runs[name], take)
                else:
                    seconds[name].append(max(take(runs[name], calls[name]), SHORTEST))
            except Exception:  # not to be chosen; a call that names it gets the error
                del seconds[name]
    return seconds


def winner(seconds: Mapping[str, Sequence[float]], static: str) -> str:
    """The fastest that beats ``static`` in three quarters of the rounds, and by MARGIN.

    By how much is the median of the rounds' ratios. ``static`` where there is none.
    """
    best, lowest = static, 1.0 - MARGIN
    for name in seconds:
        _, middle, high = _ratios(seconds, name, static)
        if name != static and middle <= lowest and high < 1.0:
            best, lowest = name, middle
    return best


def _unclear(seconds: Seconds, static: str) -> bool:
    """Whether some candidate wins clearly in some rounds and loses in others."""
    if static not in seconds:
        return False
    quartiles = (_ratios(seconds, name, static) for name in seconds)
    return any(low <= 1.0 - MARGIN and high >= 1.0 for low, _, high in quartiles)


def _ratios(
    seconds: Mapping[str, Sequence[float]], name: str, static: str
) -> tuple[float, float, float]:
    """Quartiles of the rounds' times, divided by those of ``static``."""
    pairs = zip(seconds[name], seconds[static], strict=True)
    low, middle, high = statistics.quantiles(
        [one / other for one, other in pairs], n=4, method="inclusive"
    )
    return low, middle, high


def _calls(run: Callable[[], object], sample: Sample) -> int:
    """How many calls make a sample long enough, after one that is slow because it is the first."""
    run()
    once = max(sample(run, 1), SHORTEST)
    return min(max(math.ceil(SAMPLE_SECONDS / once), 1), 1000)


def _time(run: Callable[[], object], calls: int, clock: Clock) -> float:
    """Seconds per call."""
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls
