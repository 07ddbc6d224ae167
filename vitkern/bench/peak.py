"""Shares of the machine's own peak.

The peak is what the machine does, at the moment, when it does nothing but float32 fused
multiply-adds in the instruction set in use, on as many threads as PyTorch uses: registers only, no
memory. On shared or clocked machines it changes by the second, so it is sampled before, between
and after the runs, and the share of a run is taken against the higher one of the samples before
and after it (a sample that was interrupted is too low, and none is too high).

A neighbour that slows both samples makes the share too high, one that slows only the run too low;
medians over rounds drop single ones. The share of the *highest* peak of the whole measurement is
given beside it: it is never too high, and the two agree on a quiet machine. Where they do not,
believe neither.

Products in bfloat16 and int8 have instructions with a higher peak, and may exceed that of float32:
``Peak(form="bfloat16")`` measures theirs, on tile registers where the instruction set has them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vitkern._library import load
from vitkern.bench.timing import Summary, summarize

__all__ = ["FORMS", "Peak", "Share", "recorded", "share", "unsteady"]

FORMS = ("float32", "bfloat16", "int8")
"""What products are of; the index is the ``form`` of csrc/registration.cpp."""


class Peak:
    """Samples the peak; ``reason`` says why it cannot, and is None where it can.

    Args:
        seconds: how long a sample takes.
        probe: GFLOP/s measured for that many seconds; None asks the compiled library.
        form: one of FORMS, for the library. A form without instructions of its own has float32's
            (bfloat16), or what its products need (int8).
    """

    def __init__(
        self,
        seconds: float = 0.02,
        probe: Callable[[float], float] | None = None,
        form: str = "float32",
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
        self.seconds = seconds
        self.samples: list[float] = []
        self.reason: str | None = None
        self._probe = probe
        if probe is None:
            status = load()
            if status.available:
                self._probe = functools.partial(_library_probe, FORMS.index(form))
            else:
                self.reason = status.reason

    def sample(self) -> None:
        """Measure once; does nothing where there is nothing to measure with."""
        if self._probe is not None:
            self.samples.append(self._probe(self.seconds))

    def summary(self) -> Summary | None:
        """GFLOP/s, over all samples."""
        return summarize(self.samples) if self.samples else None


def recorded(samples: Mapping[str, Sequence[float]], reason: str | None) -> dict[str, Peak]:
    """Peaks by form that another process sampled; ``reason`` says why it could not."""
    peaks = {}
    for form, values in samples.items():
        peaks[form] = Peak(probe=lambda seconds: 0.0, form=form)
        peaks[form].samples, peaks[form].reason = list(values), reason
    return peaks


def unsteady(peak: Summary | None) -> str | None:
    """What to say where the peak varied so much that times mean little, or None."""
    if peak is None or peak.low >= 0.85 * peak.high:
        return None
    return (
        f"the machine was busy: the quartiles of its peak are {peak.low:.0f} and"
        f" {peak.high:.0f} GFLOP/s"
    )


def _library_probe(form: int, seconds: float) -> float:
    several = torch.get_num_threads() > 1
    return float(torch.ops.vitkern_cpu.peak_gflops(seconds, several, form))


@dataclass(frozen=True)
class Share:
    """Shares of the peak, 1.0 = all of it.

    Attributes:
        of_moment: median over the rounds, against the peak around each.
        of_best: the median run against the highest peak that was seen.
    """

    of_moment: float
    of_best: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"of_moment": self.of_moment, "of_best": self.of_best}


def share(flops: float | None, seconds: Sequence[float], peak: Peak) -> Share | None:
    """What share of the peak runs of ``flops`` reached, or None where it is not known.

    Args:
        flops: floating-point operations of one run.
        seconds: of the run in each round.
        peak: sampled before the first round and after every round.

    Raises:
        ValueError: there is not one sample more than there are rounds.
    """
    if not flops or not peak.samples:
        return None
    if len(peak.samples) != len(seconds) + 1:
        raise ValueError(f"{len(peak.samples)} samples of the peak for {len(seconds)} rounds")
    around = zip(peak.samples, peak.samples[1:], strict=False)
    # A sample that was interrupted for all of its time is zero.
    shares = [
        flops / taken / (max(before, after) * 1e9)
        for taken, (before, after) in zip(seconds, around, strict=True)
        if max(before, after) > 0.0
    ]
    if not shares:
        return None
    best = flops / summarize(seconds).median / (max(peak.samples) * 1e9)
    return Share(summarize(shares).median, best)
