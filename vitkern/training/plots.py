"""Pictures of a run: curves, a confusion matrix, bars."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitkern.training import files

__all__ = ["plot_classes", "plot_confusion", "plot_history"]


def plot_history(
    entries: Sequence[dict[str, Any]],
    path: Path,
    metrics: Sequence[str] = ("accuracy", "f1", "auc"),
) -> None:
    """Loss, metrics and learning rate over optimizer steps, as a PNG.

    Args:
        entries: lines of a history.
        metrics: of the validation, which are drawn.
        path: the picture.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.figure import Figure

    steps = [one for one in entries if one["kind"] == "step"]
    epochs = [one for one in entries if one["kind"] == "epoch" and one.get("valid")]
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    loss, metric, rate = figure.subplots(1, 3)
    loss.plot([s["step"] for s in steps], [s["loss"] for s in steps], lw=0.8, label="training")
    if epochs:
        at = [one["step"] for one in epochs]
        loss.plot(at, [one["valid"]["loss"] for one in epochs], "o-", ms=3, label="validation")
        for name in metrics:
            metric.plot(at, [one["valid"][name] for one in epochs], "o-", ms=3, label=name)
        metric.legend()
    loss.legend()
    rate.plot([s["step"] for s in steps], [s["lr"] for s in steps])
    for axes, title in ((loss, "loss"), (metric, "validation"), (rate, "learning rate")):
        axes.set(title=title, xlabel="optimizer step")
        axes.grid(alpha=0.3)
    _write(figure, path)


def plot_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], path: Path) -> None:
    """A confusion matrix, rows true and columns predicted, as a PNG.

    Args:
        matrix: counts, square.
        classes: names, as many as rows.
        path: the picture.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.figure import Figure

    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(3 + 0.4 * len(counts), 14)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(counts) <= 30:
        for row in range(len(counts)):
            for column in range(len(counts)):
                colour = "white" if shares[row, column] > 0.5 else "black"
                text = str(counts[row, column])
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(counts)), classes, rotation=90)
        axes.set_yticks(range(len(counts)), classes)
    axes.set(xlabel="predicted", ylabel="true")
    _write(figure, path)


def plot_classes(
    values: Sequence[float | None], classes: Sequence[str], title: str, path: Path
) -> None:
    """A bar for each class, as a PNG.

    Args:
        values: from 0 to 1; no bar where None.
        classes: names, as many.
        title: what the values are.
        path: the picture.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(3 + 0.3 * len(classes), 5), 3.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(classes)), [value or 0.0 for value in values])
    axes.set_xticks(range(len(classes)), classes, rotation=0 if len(classes) <= 12 else 90)
    axes.set(title=title, ylim=(0, 1))
    _write(figure, path)


def _write(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    files.write_bytes(path, buffer.getvalue())
