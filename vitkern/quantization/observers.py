"""The ranges of activations: what is seen of each layer's input, and what is made of it.

Bounded memory: the extremes, and a histogram between them, which is filled in a second run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vitkern.ops.weights import LEVELS

OBSERVERS = ("minmax", "percentile", "mse")
BINS = 4096
"""Of a histogram: 16 for each of the steps that int8 takes."""
_CLIPS = 32
"""Candidates for each end of a range that mse tries."""

Range = tuple[float, float]
Watch = Callable[[torch.Tensor], None]


class Extremes:
    """The smallest and the largest value seen."""

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")

    def __call__(self, x: torch.Tensor) -> None:
        """Looks at an input of any shape."""
        if x.numel():
            low, high = x.aminmax()
            self.low, self.high = min(self.low, low.item()), max(self.high, high.item())

    @property
    def seen(self) -> bool:
        """Whether there was any value."""
        return self.low <= self.high


class Histogram:
    """How many values fall into each of ``BINS`` equal parts of a range that includes 0."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = min(low, 0.0), max(high, 0.0)
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def __call__(self, x: torch.Tensor) -> None:
        """Counts the values of an input of any shape."""
        if self.low < self.high:
            counts = torch.histc(x.float(), BINS, self.low, self.high)
            self.counts += counts.to(self.counts)

    @property
    def edges(self) -> torch.Tensor:
        """(BINS + 1,) float64."""
        return torch.linspace(self.low, self.high, BINS + 1, dtype=torch.float64)


def percentile_range(histogram: Histogram, percentile: float) -> Range:
    """The range that ``100 - percentile`` percent of the values exceed, on either side."""
    total = histogram.counts.sum().item()
    if not total:
        return histogram.low, histogram.high
    outside = total * (1.0 - percentile / 100.0)
    edges = histogram.edges
    below = torch.cat([torch.zeros(1, dtype=torch.float64), histogram.counts.cumsum(0)])
    # The last edge with at most so many values outside of it.
    first = int((below <= outside).sum()) - 1
    last = int((total - below <= outside).sum())
    return edges[first].item(), edges[len(edges) - last].item()


def mse_range(histogram: Histogram) -> Range:
    """The range of those tried in which rounding to int8 costs least squared error.

    What is cut off costs, and so do coarser steps for all that is not. Each end is tried at equal
    parts of the way to 0. Banner et al., "Post training 4-bit quantization of convolutional
    networks for rapid-deployment", 2018 (arXiv 1810.05723), of clipping in general.
    """
    edges = histogram.edges
    keep = histogram.counts > 0
    if not bool(keep.any()):
        return histogram.low, histogram.high
    values, counts = ((edges[1:] + edges[:-1]) / 2)[keep], histogram.counts[keep]
    parts = torch.arange(1, _CLIPS + 1, dtype=torch.float64) / _CLIPS
    best, chosen = float("inf"), (histogram.low, histogram.high)
    for low in (parts * histogram.low).unique().tolist():
        highs = (parts * histogram.high).unique()[:, None]
        step = ((highs - low) / LEVELS).clamp_min(1e-30)
        zero = (-low / step).round()
        rounded = (((values / step).round() + zero).clamp(0, LEVELS) - zero) * step
        errors = ((rounded - values).square() * counts).sum(1)
        index = int(errors.argmin())
        if errors[index].item() < best:
            best, chosen = errors[index].item(), (low, highs[index].item())
    return chosen


@contextmanager
def watching(watches: dict[str, Watch], layers: dict[str, nn.Linear]) -> Iterator[None]:
    """Shows each layer's inputs to its watch while the block runs.

    By hooks: a patched parent calls its layers while these have any.
    """

    def hook(watch: Watch) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: watch(inputs[0].detach())

    handles = []
    try:
        for name, watch in watches.items():
            handles.append(layers[name].register_forward_pre_hook(hook(watch)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def observe(
    run: Callable[[], object],
    layers: dict[str, nn.Linear],
    observer: str,
    percentile: float,
) -> dict[str, Range]:
    """The range of each layer's input while ``run`` runs the model: once, or twice.

    Layers that were not reached are not in the result. Infinities and NaN are, as they are.
    """
    extremes = {name: Extremes() for name in layers}
    with watching(dict(extremes), layers):
        run()
    ranges = {name: (e.low, e.high) for name, e in extremes.items() if e.seen}
    if observer == "minmax" or not all(map(_finite, ranges.values())):
        return ranges
    histograms = {name: Histogram(*ends) for name, ends in ranges.items()}
    with watching(dict(histograms), layers):
        run()
    if observer == "percentile":
        return {name: percentile_range(h, percentile) for name, h in histograms.items()}
    return {name: mse_range(h) for name, h in histograms.items()}


def _finite(ends: Range) -> bool:
    return all(abs(end) < float("inf") for end in ends)
