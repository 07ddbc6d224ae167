"""Is the patched model slower than eager, beyond noise? What the ratios of a row's rounds say.

The ratio of a round is eager's time over the patched model's, taken one right after the other.
Rounds are many draws of one ratio whose median is asked for. Order statistics bound a median
without any assumption about how the noise is distributed: that k or fewer of n draws lie below it
has the chance of k or fewer heads in n throws of a coin.

* ``slower``: the upper bound is below ``1 - SAME``. Two copies of one model, timed like this,
  differ by up to ``SAME``, so that less is no finding. The bound is wrong once in 20 runs of *all*
  rows, not once in 20 rows: among 40 rows some are unlucky.
* ``harmless``: the lower bound is above ``1 - ENOUGH``. So a row does not pass because it was
  measured badly.
* ``undecided``: neither, or other processes were busy. More rounds or a quieter machine may tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SAME = 0.01
ENOUGH = 0.03
CHANCE = 0.05
"""Of a wrong bound."""
DECIDED = 0.75
"""The share of rows that has to be decided for a run to count."""


@dataclass(frozen=True)
class Verdict:
    """``outcome``, and the bounds of the median speed-up that it follows from."""

    outcome: str
    lower: float
    upper: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON, in which there is no infinity."""
        return {k: None if v in (0.0, math.inf) else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.outcome}: speed-up between {self.lower:.3f} and {self.upper:.3f}"


def verdict(speedups: Sequence[float], *, rows: int, busy: bool = False) -> Verdict:
    """What the rounds' ratios say about a row.

    Args:
        speedups: eager's time over the patched model's, one a round.
        rows: how many rows are judged; all of their findings together may be wrong by CHANCE.
        busy: whether other processes took the processors meanwhile.
    """
    found = sorted(speedups)
    lower = found[place - 1] if (place := _place(len(found), CHANCE)) else 0.0
    upper = found[-place] if (place := _place(len(found), CHANCE / rows)) else math.inf
    outcome = "undecided"
    if not busy and upper < 1.0 - SAME:
        outcome = "slower"
    elif not busy and lower > 1.0 - ENOUGH:
        outcome = "harmless"
    return Verdict(outcome, lower, upper)


def too_few_decided(outcomes: Sequence[str], rows: int) -> str | None:
    """What is wrong with a run of ``rows`` that tells of too few of them; None where nothing is."""
    decided = sum(outcome != "undecided" for outcome in outcomes)
    if decided >= DECIDED * rows:
        return None
    return (
        f"do no harm: only {decided} of {rows} rows were decided, and at least"
        f" {DECIDED:.0%} must be: measure again on a quieter machine"
    )


def _place(count: int, chance: float) -> int:
    """The largest k such that the median is below the k-th smallest of ``count`` with that chance.

    0 where there is none, since there are too few.
    """
    total, place = 0.0, 0
    while place < count:
        total += math.comb(count, place) * 0.5**count
        if total > chance:
            break
        place += 1
    return place
