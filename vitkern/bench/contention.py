"""Did other processes take the processors while times were taken?

Two sides that are timed in turns do not suffer alike from a busy machine: threads that meet at
barriers wait for the one that lost its processor, so the side with more barriers is slowed more,
and the ratio is wrong, not only the times. Linux counts the busy time of every processor; what is
not ours is others' (time that a hypervisor took is too).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Contention", "Meter", "Reading", "read"]

_STAT = Path("/proc/stat")
_SHORTEST = 0.1
"""Seconds. /proc/stat counts in ticks of 10 ms, which say nothing about less than this."""


@dataclass(frozen=True)
class Contention:
    """How much of the machine others used.

    Attributes:
        others: cores that other processes kept busy, on average.
        cores: on which this process may run; ``others`` counts only these.
        threads: with which PyTorch ran.
        whole: whether these are all the machine has.
    """

    others: float
    cores: int
    threads: int
    whole: bool = True

    @property
    def busy(self) -> bool:
        """Whether others used more than what we left them, and a tenth of what we need."""
        ours = min(self.threads, self.cores)
        return self.others > (self.cores - ours) + 0.1 * ours

    def __str__(self) -> str:
        which = "the machine's {} cores" if self.whole else "the {} cores that this one may use"
        return f"other processes used {self.others:.1f} of {which.format(self.cores)}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "busy": self.busy}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Contention:
        """What ``to_dict`` gave."""
        return Contention(**{name: value for name, value in values.items() if name != "busy"})


@dataclass(frozen=True)
class Reading:
    """Seconds, each from a start of its own.

    Attributes:
        wall: the clock.
        own: processor time of this process, all its threads.
        busy: by processor, the time in which it was not idle.
    """

    wall: float
    own: float
    busy: Mapping[int, float]


def read(stat: Path = _STAT) -> Reading | None:
    """The counters as they are now, or None where the system has none."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    try:
        busy = _busy(stat.read_text(encoding="ascii"), os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None
    return Reading(time.perf_counter(), time.process_time(), busy)


def _busy(text: str, ticks: int) -> dict[int, float]:
    """The lines ``cpuN user nice system idle iowait irq softirq steal ...``."""
    found = {}
    for line in text.splitlines():
        name, *values = line.split()
        if not name.startswith("cpu") or name == "cpu":
            continue
        user, nice, system, _, _, irq, softirq, steal = map(int, values[:8])
        found[int(name[3:])] = (user + nice + system + irq + softirq + steal) / ticks
    return found


class Meter:
    """Compares the first reading with the last one.

    Args:
        reader: gives readings; tests give their own.
        cpus: on which this process may run; None asks the system.
        threads: of PyTorch; None asks it.
        machine: how many processors there are; None asks the system.
    """

    def __init__(
        self,
        reader: Callable[[], Reading | None] = read,
        *,
        cpus: set[int] | None = None,
        threads: int | None = None,
        machine: int | None = None,
    ) -> None:
        if cpus is None:
            cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._reader, self._cpus = reader, cpus
        self._threads = threads or torch.get_num_threads()
        self._machine = machine or os.cpu_count()
        self._first: Reading | None = None
        self._last: Reading | None = None

    def sample(self) -> None:
        """Read the counters."""
        reading = self._reader()
        if self._first is None:
            self._first = reading
        else:
            self._last = reading

    def result(self) -> Contention | None:
        """What others used between the first and the last sample; None where it is not known."""
        first, last = self._first, self._last
        if first is None or last is None or last.wall - first.wall < _SHORTEST:
            return None
        if not self._cpus or not self._cpus <= first.busy.keys() & last.busy.keys():
            return None  # a container that numbers its processors anew
        busy = sum(last.busy[cpu] - first.busy[cpu] for cpu in self._cpus)
        own = last.own - first.own
        if busy < 0.5 * own:
            return None  # counters that stand still: a sandbox that only imitates the file
        others = max(0.0, busy - own) / (last.wall - first.wall)
        whole = len(self._cpus) == self._machine
        return Contention(others, len(self._cpus), self._threads, whole)
