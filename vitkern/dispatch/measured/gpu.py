"""What a GPU takes for calls, without what the processor takes to launch them.

Launches of a patched model's blocks are repeated as one, or are in a CUDA graph: an op that is
launched slowly is not a slow one. (``vitkern/bench/gpu`` times whole models, launches and all.)
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from vitkern.dispatch.measured.timing import Sample

MOST_CALLS = 64
"""In a row: more launches than a stream's queue takes would wait for the GPU."""
AHEAD = 1.5
"""By how much longer the GPU is kept busy than launching took."""
LONGEST = 0.05
"""Seconds for which it is kept busy at most."""
CLOCK = 2.0e9
"""About the cycles per second of a GPU of today."""


def sampler(device: torch.device) -> Sample | None:
    """How calls on the device are timed; None: by the clock, since they end when they return."""
    if device.type == "cuda":
        return GpuSample(device)
    return None if device.type == "cpu" else _waits(device)


class GpuSample:
    """Samples by a CUDA device's own events."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, run: Callable[[], object], calls: int) -> float:
        """Seconds per call: from the first launch's turn to the end of the last.

        The GPU waits while calls are launched, so that it never does between them.
        """
        calls = min(calls, MOST_CALLS)
        with torch.cuda.device(self._device):
            start = time.perf_counter()
            run()
            launching = min((time.perf_counter() - start) * calls * AHEAD, LONGEST)
            stream = torch.cuda.current_stream()
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(int(launching * CLOCK))
            first.record(stream)
            for _ in range(calls):
                run()
            last.record(stream)
            last.synchronize()
        return first.elapsed_time(last) / 1e3 / calls


def _waits(device: torch.device) -> Sample:
    """By the clock, until another accelerator has done its work."""

    def sample(run: Callable[[], object], calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        torch.accelerator.synchronize(device)
        return (time.perf_counter() - start) / calls

    return sample
