"""A bar on the error stream, where that is a terminal, or a line an epoch."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

__all__ = ["Progress", "show_epoch"]


def show_epoch(entry: dict[str, Any], epochs: int, monitor: str) -> None:
    """A line about an epoch, of which ``entry`` is the history's; on a terminal the bar stays."""
    if sys.stderr.isatty():
        return
    text = f"epoch {entry['epoch'] + 1} of {epochs}: loss {entry['loss']:.4f}"
    if entry["valid"] is not None:
        text += f", validation {monitor} {entry['valid'][monitor]:.4f}"
        text += " (best)" * entry["best"]
    print(f"{text}, {entry['seconds']:.1f} s", file=sys.stderr, flush=True)


class Progress:
    """A context with a bar of ``total`` steps, of which ``done`` are behind us."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self._label, self._total, self._done = label, total, done
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(
                self._label, total=self._total, completed=self._done, loss="-"
            )
        return self

    def advance(self, loss: float) -> None:
        """One step, with this loss."""
        if self._bar is not None:
            self._bar.update(self._task, advance=1, loss=f"{loss:.4f}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
