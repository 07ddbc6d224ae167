"""Where a training stands, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Standing", "TrainResult"]


@dataclass
class TrainResult:
    """What a training came to.

    Attributes:
        folder: has best.safetensors, the last checkpoints, history.jsonl, curves.png and
            confusion.png.
        steps: optimizer steps.
        epochs: that were done; fewer than asked for where it stopped early.
        best: the validation of the best epoch; empty where there was none.
        best_epoch: counted from 0; None where nothing was validated.
        history: all lines of history.jsonl.
    """

    folder: Path
    steps: int
    epochs: int
    best: dict[str, Any]
    best_epoch: int | None
    history: list[dict[str, Any]]


@dataclass
class Standing:
    """Where a training stands. All of it is in each checkpoint."""

    step: int = 0
    loss_sum: float = 0.0  # of the steps of this epoch
    loss_steps: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    best_epoch: int | None = None
    since_best: int = 0
    stopped: bool = False
