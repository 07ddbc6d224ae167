"""A pytest plugin: one of several processes that share the tests, until time is up.

The most telling tests come first. What is not begun before the deadline is skipped and counted; the
outcome is written as JSON, so that nobody has to read pytest's output.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from vitkern.bench.gpu.device_tests import RANKS, rank


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("share")
    group.addoption("--share", metavar="K/N", help="every Nth test, from the Kth on")
    group.addoption("--deadline", type=float, help="begin no test after this time of the clock")
    group.addoption("--outcome", type=Path, help="write JSON there")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("outcome") is not None:
        config.pluginmanager.register(_Share(config), "vitkern-share")


class _Share:
    def __init__(self, config: pytest.Config) -> None:
        self._first, self._step = map(int, config.getoption("share").split("/"))
        self._deadline: float = config.getoption("deadline")
        self._outcome: Path = config.getoption("outcome")
        self._found: dict[str, Any] = {
            "passed": 0, "skipped": 0, "failures": [], "not_run": dict.fromkeys(RANKS, 0),
            "slowest": [],
        }  # fmt: skip

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: RANKS.index(rank(item.nodeid)))
        items[:] = items[self._first :: self._step]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if time.time() > self._deadline:
            self._found["not_run"][rank(item.nodeid)] += 1
            pytest.skip("no time left")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = getattr(crash, "message", None) or str(report.longrepr)
            self._found["failures"].append([report.nodeid, message.strip()[:500]])
        elif report.when == "call" and report.passed:
            self._found["passed"] += 1
        elif report.skipped:
            self._found["skipped"] += 1
        if report.when == "call":
            slowest = [*self._found["slowest"], [round(report.duration, 1), report.nodeid]]
            self._found["slowest"] = sorted(slowest, reverse=True)[:3]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._found["failures"].append([report.nodeid, str(report.longrepr).strip()[-500:]])

    def pytest_sessionfinish(self) -> None:
        self._found["skipped"] -= sum(self._found["not_run"].values())
        self._outcome.write_text(json.dumps(self._found), encoding="utf-8")
