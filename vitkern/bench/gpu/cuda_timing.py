"""Times on a CUDA device, by its own events.

A sample begins with a cold L2: the buffer that is written before it is twice as large. While it is
written the processor can already launch, as in a program that does not wait. A sample lasts until
the last kernel ends, so what a model loses by launching too slowly is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import torch

from vitkern.bench.timing import Comparison, Plan, interleave

WARM_SECONDS = 0.4
"""Of work before the first sample, so that the clocks are up."""


class CudaTimer:
    """Samples on one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._buffer = torch.empty(2 * max(cache, 1 << 25), dtype=torch.int8, device=device)

    def warm(self, runs: Iterable[Callable[[], object]]) -> None:
        """Keep the device busy for a while."""
        runs, start = list(runs), time.perf_counter()
        while time.perf_counter() - start < WARM_SECONDS:
            for run in runs:
                run()
            torch.cuda.synchronize(self._device)

    def flush(self, name: str = "") -> None:
        """Nothing of what was computed before is in L2."""
        self._buffer.zero_()

    def sample(self, run: Callable[[], object], calls: int) -> float:
        """Seconds per call."""
        stream = torch.cuda.current_stream(self._device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(stream)
        for _ in range(calls):
            run()
        end.record(stream)
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls

    def __call__(self, runs: Mapping[str, Callable[[], object]], plan: Plan) -> Comparison:
        """Time in turns."""
        self.warm(runs.values())
        return interleave(runs, plan, before=self.flush, sample=self.sample)


def captured(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """What a CUDA graph of ``run`` replays; the output is the same memory each time."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()

    def replay() -> torch.Tensor:
        graph.replay()
        return out

    return replay
