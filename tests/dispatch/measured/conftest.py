from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vitkern.dispatch.measured import STORE, timing


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache folder of one test, as a process finds it that has just begun."""
    monkeypatch.setenv("VITKERN_CACHE_DIR", str(tmp_path))
    STORE.forget()
    yield tmp_path
    STORE.forget()


class Timer:
    """In the place of ``timing.in_turns``: runs everything once, and says what it is told to."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.timed: list[list[str]] = []

    def __call__(self, runs: timing.Runs, static: str, **_: object) -> timing.Seconds:
        self.timed.append(list(runs))
        for run in runs.values():
            run()
        return {name: [self.seconds[name]] * 9 for name in runs if name in self.seconds}


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Timer:
    """Times that the test chooses, for the toy op: ``eager`` is the faster one."""
    timer = Timer()
    timer.seconds = {"double": 2.0, "eager": 1.0}
    monkeypatch.setattr(timing, "in_turns", timer)
    return timer
