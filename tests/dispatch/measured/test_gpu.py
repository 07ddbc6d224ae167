"""How a GPU's time is taken, on a device that is none. (On one: tests/gpu.)"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from vitkern.dispatch.measured import gpu


class Device:
    """A GPU that notes what is asked of it, and takes two milliseconds for a call."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.slept = 0

    def event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        device = self

        class Event:
            def record(self, stream: object) -> None:
                self.calls = device.asked.count("call")
                device.asked.append("event")

            def synchronize(self) -> None:
                device.asked.append("wait")

            def elapsed_time(self, last: Any) -> float:
                return 2.0 * (last.calls - self.calls)  # type: ignore[no-any-return]

        return Event()

    def sleep(self, cycles: int) -> None:
        self.slept = cycles
        self.asked.append("sleep")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    monkeypatch.setattr(torch.cuda, "Event", found.event)
    monkeypatch.setattr(torch.cuda, "_sleep", found.sleep)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "stream")
    return found


@pytest.mark.parametrize("calls, taken", [(1, 1), (3, 3), (1000, gpu.MOST_CALLS)])
def test_calls_are_launched_while_the_gpu_is_kept_busy(
    device: Device, calls: int, taken: int
) -> None:
    sample = gpu.sampler(torch.device("cuda", 0))
    assert sample is not None
    assert sample(lambda: device.asked.append("call"), calls) == pytest.approx(2e-3)
    between = ["sleep", "event", *["call"] * taken, "event", "wait"]
    assert device.asked == ["call", *between]  # the first tells how long launching takes
    assert 0 <= device.slept <= gpu.LONGEST * gpu.CLOCK


def test_a_processor_has_its_clock() -> None:
    assert gpu.sampler(torch.device("cpu")) is None
