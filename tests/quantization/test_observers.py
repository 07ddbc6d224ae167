"""Ranges from histograms, against what they are by definition."""

from __future__ import annotations

import pytest
import torch

from vitkern.ops.weights import Int8Weight
from vitkern.quantization.observers import (
    BINS,
    Extremes,
    Histogram,
    mse_range,
    percentile_range,
)


def filled(x: torch.Tensor) -> Histogram:
    """Of values in three parts."""
    extremes = Extremes()
    for part in x.chunk(3):
        extremes(part)
    histogram = Histogram(extremes.low, extremes.high)
    for part in x.chunk(3):
        histogram(part)
    assert int(histogram.counts.sum()) == x.numel()
    return histogram


SAMPLES = {
    "normal": lambda: torch.randn(60000),
    "one outlier": lambda: torch.cat([torch.randn(60000), torch.tensor([80.0])]),
    "outliers below": lambda: torch.cat([torch.randn(60000), torch.full((20,), -50.0)]),
    "GELU": lambda: torch.nn.functional.gelu(2 * torch.randn(60000)),
    "positive": lambda: torch.rand(60000) + 1.0,
}


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentiles(sample: str, percentile: float) -> None:
    x = SAMPLES[sample]()
    low, high = percentile_range(filled(x), percentile)
    bin_width = (max(x.max().item(), 0.0) - min(x.min().item(), 0.0)) / BINS
    wanted_low, wanted_high = (
        torch.quantile(x.double(), q).item() for q in (1 - percentile / 100, percentile / 100)
    )
    if x.min() > 0:  # as of all ranges, 0 is in the histogram's
        low = min(low, 0.0)
    # Within bins; where values are rare, within the gap between two of them.
    assert ((x < low).double().mean() * 100).item() <= 100 - percentile + 1e-9
    assert ((x > high).double().mean() * 100).item() <= 100 - percentile + 1e-9
    assert min(wanted_low, 0.0) - low < 0.5 and low - min(wanted_low, 0.0) <= bin_width + 1e-6
    assert high - wanted_high < 0.5 and wanted_high - high <= bin_width + 1e-6


def test_all_of_it_is_the_extremes() -> None:
    x = torch.randn(1000)
    assert percentile_range(filled(x), 100.0) == pytest.approx((x.min().item(), x.max().item()))


def squared_error(x: torch.Tensor, low: float, high: float) -> float:
    weight = Int8Weight(torch.zeros(1, 1), low, high)
    return (weight.round(x) - x).double().square().sum().item()


@pytest.mark.parametrize("sample", SAMPLES)
def test_mse_is_the_least_of_all_tried(sample: str) -> None:
    x = SAMPLES[sample]()
    low, high = mse_range(filled(x))
    got = squared_error(x, low, high)
    ends = min(x.min().item(), 0.0), max(x.max().item(), 0.0)
    assert got <= 1.01 * squared_error(x, *ends)
    for a in (0.25, 0.5, 0.75, 1.0):
        for b in (0.25, 0.5, 0.75, 1.0):
            assert got <= 1.02 * squared_error(x, a * ends[0], b * ends[1])


def test_mse_cuts_a_rare_outlier_off() -> None:
    x = torch.cat([torch.randn(600000), torch.tensor([40.0])])
    low, high = mse_range(filled(x))
    assert high < 30
    assert low < -3


def test_constant_inputs() -> None:
    zeros, ones = filled_constant(0.0), filled_constant(1.0)
    assert percentile_range(zeros, 99.0) == (0.0, 0.0)
    assert mse_range(zeros) == (0.0, 0.0)
    assert percentile_range(ones, 99.0)[1] == pytest.approx(1.0, rel=1e-3)
    assert mse_range(ones)[1] == pytest.approx(1.0, rel=1e-3)


def filled_constant(value: float) -> Histogram:
    histogram = Histogram(value, value)
    histogram(torch.full((100,), value))
    return histogram


def test_nothing_seen() -> None:
    extremes = Extremes()
    extremes(torch.empty(0, 3))
    assert not extremes.seen
