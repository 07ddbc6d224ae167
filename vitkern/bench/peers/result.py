"""What was measured of one row: an entry for each system, and ours beside the best peers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vitkern.bench.contention import Contention
from vitkern.bench.models import Row
from vitkern.bench.peak import Share
from vitkern.bench.peers.system import PRECISIONS
from vitkern.bench.timing import Comparison, Summary

__all__ = ["Against", "Entry", "PeersResult", "against_best"]


def _plain(value: Any) -> Any:
    """For JSON, in which there is neither infinity nor NaN."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass
class Entry:
    """One system on one row; None is what was not measured.

    Attributes:
        reason: why it was not timed, or None where it was.
        wrong: it is one of ours, and failed or is not right.
        seconds: of a pass of the whole batch.
        speedup: how many times faster than eager.
        share: of the peak of multiply-adds in ``form``.
        cosine: of the logits with those in float64, of the worst image.
        error: of the logits, the largest, relative to the largest value in float64.
        allowed: how large it may be, where it is one of ours that has such a bound.
        faults: page faults of a pass.
    """

    name: str
    vendor: str
    precision: str
    ours: bool
    peer: bool
    reason: str | None = None
    wrong: bool = False
    seconds: Summary | None = None
    speedup: Summary | None = None
    share: Share | None = None
    cosine: float | None = None
    error: float | None = None
    allowed: float | None = None
    faults: int | None = None
    form: str = "float32"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: _plain(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Against:
    """One of ours and the fastest peer of the same precision, or a faster one of a finer.

    Attributes:
        peer: its name; None where there is none.
        ratio: the peer's time over ours, over the rounds: above 1 ours is faster.
    """

    ours: str
    precision: str
    peer: str | None
    ratio: Summary | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: _plain(value) for name, value in vars(self).items()}


def against_best(entries: Sequence[Entry], times: Comparison) -> list[Against]:
    """Each of ours that was timed, beside the peer that has the least median.

    That is the one of the same precision, and then, where one of a finer precision is faster, or
    none of the same ran, that one too.
    """
    found = []
    for ours in entries:
        if not ours.ours or ours.seconds is None:
            continue
        rank = PRECISIONS.index(ours.precision)
        same = _fastest(entries, PRECISIONS[rank : rank + 1])
        any_as_exact = _fastest(entries, PRECISIONS[: rank + 1])
        for best in dict.fromkeys((same, any_as_exact)):
            ratio = None if best is None else times.ratio(best, ours.name)
            found.append(Against(ours.name, ours.precision, best, ratio))
    return found


def _fastest(entries: Sequence[Entry], precisions: Sequence[str]) -> str | None:
    peers = [
        (one.seconds.median, one.name)
        for one in entries
        if one.peer and one.precision in precisions and one.seconds is not None
    ]
    return min(peers)[1] if peers else None


@dataclass
class PeersResult:
    """All systems on one row.

    Attributes:
        flops: of one pass; multiply-adds count two.
        peak: GFLOP/s of float32 multiply-adds, over the samples.
        peaks: the same of each form that was timed.
        floor: seconds that the pass would take at the highest of them.
    """

    row: Row
    entries: list[Entry] = field(default_factory=list)
    against: list[Against] = field(default_factory=list)
    flops: int | None = None
    peak: Summary | None = None
    peaks: dict[str, Summary] = field(default_factory=dict)
    floor: float | None = None
    contention: Contention | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether ours run and are right, where they can run at all."""
        return bool(self.entries) and not any(entry.wrong for entry in self.entries)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = {name: _plain(value) for name, value in vars(self).items()}
        return {"name": self.row.label, "ok": self.ok, **values}
