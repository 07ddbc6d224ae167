"""Runs the tests of ops on a device, in several processes, until they are done or time is up."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitkern.bench.gpu.card import root

FILES = ("tests/gpu", *(
    f"tests/ops/test_{name}.py"
    for name in ("parity", "kernels", "operators", "compile", "autocast", "harness")
))  # fmt: skip
DRY = ("tests/ops/test_harness.py",)
GRACE = 60.0
"""Seconds after the deadline in which a test that has begun may end."""


RANKS = ("device", "models", "ops", "parity", "layouts")
"""Kinds of tests, in order."""
REQUIRED = ("device", "models", "ops")
"""Those of which all must have run."""


def rank(nodeid: str) -> str:
    """Which kind a test is of."""
    if "tests/gpu/" in nodeid:
        return "device"
    if "test_parity.py" not in nodeid:
        return "ops"
    if "::test_models" in nodeid:
        return "models"
    return "parity" if "natural" in nodeid else "layouts"


class NoTests(RuntimeError):
    """The tests cannot be run at all; the message says why."""


@dataclass
class Outcome:
    """What became of the tests.

    Attributes:
        passed: how many.
        skipped: how many do not apply.
        failures: names and messages.
        not_run: for lack of time, by kind.
        seconds: all of it took.
    """

    passed: int = 0
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    not_run: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RANKS, 0))
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing failed, and all that is required has run."""
        return not self.failures and self.passed > 0 and not self.too_few

    @property
    def too_few(self) -> list[str]:
        """Required kinds of tests that not all have run."""
        return [kind for kind in REQUIRED if self.not_run[kind]]

    def add(self, found: dict[str, Any]) -> None:
        """What one process wrote."""
        self.passed += found["passed"]
        self.skipped += found["skipped"]
        self.failures += [(name, message) for name, message in found["failures"]]
        for kind, count in found["not_run"].items():
            self.not_run[kind] += count

    def __str__(self) -> str:
        left = sum(self.not_run.values())
        text = f"{self.passed} passed, {len(self.failures)} failed, {self.skipped} skipped"
        if left:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.not_run.items() if count)
            text += f", {left} not run for lack of time ({kinds})"
        return f"{text}, in {self.seconds:.0f} s"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, **vars(self)}


def run(
    device: str,
    *,
    deadline: float,
    processes: int,
    files: Sequence[str] = FILES,
    logs: Path | None = None,
    progress: Callable[[str], object] = lambda step: None,
) -> Outcome:
    """Run the tests with ``VITKERN_TEST_DEVICE`` set to ``device``.

    Args:
        device: PyTorch's name of it.
        deadline: ``time.time()`` after which no test begins.
        processes: that share the tests.
        files: of tests, or folders.
        logs: pytest's output is kept there.
        progress: told what is being done.

    Raises:
        NoTests: pytest or the tests are missing.
    """
    for name in ("pytest", "setuptools"):
        if importlib.util.find_spec(name) is None:
            raise NoTests(f"{name} is not installed, which the tests need: pip install {name}")
    gone = [name for name in files if not (root() / name).exists()]
    if gone:
        raise NoTests(f"no {gone[0]} in {root().name}: run it in a checkout, which has the tests")
    start = time.time()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if logs is None else logs
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = [Path(temporary) / f"{i}.json" for i in range(processes)]
        environment = {
            **os.environ, "VITKERN_TEST_DEVICE": device, "OMP_NUM_THREADS": "1",
            # The processes have the cores already.
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "VITKERN_CACHE_DIR": str(Path(temporary) / "cache"),
        }  # fmt: skip
        started: list[subprocess.Popen[bytes]] = []
        try:
            for i, outcome in enumerate(outcomes):
                command = [
                    sys.executable, "-m", "pytest", *files, "-p", "vitkern.bench.gpu.pytest_share",
                    "-p", "no:cacheprovider", f"--share={i}/{processes}", f"--deadline={deadline}",
                    f"--outcome={outcome}", "--tb=short",
                ]  # fmt: skip
                with (folder / f"pytest-{i}.log").open("wb") as output:
                    started.append(
                        subprocess.Popen(
                            command, cwd=root(), env=environment, stdout=output,
                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                        )
                    )  # fmt: skip
            while any(one.poll() is None for one in started) and time.time() < deadline + GRACE:
                ended = sum(one.poll() is not None for one in started)
                progress(f"tests on {device}: {ended} of {processes} processes done")
                time.sleep(0.2)
        finally:
            for one in started:
                if one.poll() is None:
                    one.kill()
                one.wait()
        found = Outcome()
        for i, (one, outcome) in enumerate(zip(started, outcomes, strict=True)):
            if outcome.exists():
                found.add(json.loads(outcome.read_text(encoding="utf-8")))
            else:
                log = (folder / f"pytest-{i}.log").read_text(encoding="utf-8", errors="replace")
                found.failures.append((f"pytest, process {i}", _ending(one.returncode, log)))
    found.seconds = time.time() - start
    return found


def _ending(status: int, log: str) -> str:
    """Why a process left no outcome."""
    how = "took too long" if status == -9 else f"ended with status {status}"
    last = "; ".join(log.strip().splitlines()[-3:])
    return f"{how}: {last[-400:]}" if last else how
