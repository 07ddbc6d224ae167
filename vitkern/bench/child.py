"""Runs a function of this package in a process of its own, with an environment of its own.

``python -m vitkern.bench.child MODULE FUNCTION`` reads the argument as JSON from its input and
writes the result as JSON to its output; whatever else is printed goes to the error stream.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["ChildFailed", "call"]


class ChildFailed(RuntimeError):
    """The process ended without a result; the message is its last line of errors."""


def call(module: str, function: str, argument: Any, environment: Mapping[str, str]) -> Any:
    """``vitkern.bench.<module>.<function>(argument)`` in a new process, with as many threads.

    Args:
        module: a module of this package.
        function: a function in it that takes and gives what JSON can hold.
        argument: what it is called with.
        environment: variables beside those of this process.

    Raises:
        ChildFailed: no result.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    request = json.dumps({"threads": torch.get_num_threads(), "argument": argument})
    done = subprocess.run(
        [sys.executable, "-m", "vitkern.bench.child", module, function],
        input=request,
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "PYTHONPATH": path},
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ChildFailed(lines[-1])
    return json.loads(done.stdout)


def _main() -> None:
    module, function = sys.argv[1:]
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)  # prints of libraries do not mix with the result
        request = json.load(sys.stdin)
        torch.set_num_threads(request["threads"])
        task = getattr(importlib.import_module(f"vitkern.bench.{module}"), function)
        json.dump(task(request["argument"]), output)


if __name__ == "__main__":
    _main()
