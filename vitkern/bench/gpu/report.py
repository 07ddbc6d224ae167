"""Predictions as tables for people and as a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vitkern.bench.gpu.predict import Prediction

if TYPE_CHECKING:
    from rich.table import Table

MARK = "prediction, not measured: from data sheets and from what each launch reads and computes"


def summary(predictions: Sequence[Prediction], images: int, title: str) -> Table:
    """A line for each system."""
    from rich.table import Table

    first = predictions[0]
    table = Table(title=f"{title}\non {first.target.title}: {MARK}", caption=_caption(first))
    table.caption_justify = "left"
    table.add_column("system")
    for name in ("ms", "images/s", "share of peak", "GB moved", "launches"):
        table.add_column(name, justify="right")
    for one in predictions:
        table.add_row(
            one.system, f"{1e3 * one.seconds:.3f}", f"{images / one.seconds:.0f}",
            f"{one.share:.2f}", f"{one.bytes / 1e9:.2f}", str(len(one.kernels)),
        )  # fmt: skip
    return table


def kernels(prediction: Prediction) -> Table:
    """A line for each kernel of one system, the longest first."""
    from rich.table import Table

    table = Table(title=f"{prediction.system}, by kernel")
    table.add_column("kernel")
    for name in ("launches", "ms", "of the time"):
        table.add_column(name, justify="right")
    table.add_column("bound by")
    for name, (count, seconds, bound) in prediction.by_name().items():
        share = seconds / prediction.seconds
        table.add_row(name, str(count), f"{1e3 * seconds:.3f}", f"{share:.0%}", bound)
    return table


def document(predictions: Sequence[Prediction], model: str, batch: int) -> dict[str, Any]:
    """For JSON."""
    return {
        "schema": 1,
        "kind": "prediction",
        "note": MARK,
        "model": model,
        "batch": batch,
        "systems": [one.to_dict() for one in predictions],
    }


def _caption(prediction: Prediction) -> str:
    target = prediction.target
    return (
        f"share of peak: the model's {prediction.flops / 1e12:.3f} TFLOP over"
        f" {target.half / 1e12:.0f} TFLOP/s; products are assumed to sustain at most"
        f" {target.sustained:.0%} of that,\nmemory {target.bandwidth / 1e12:.2f} TB/s, CUDA graphs"
    )
