"""Times of launches on GPUs that are not here: what bounds them."""

from __future__ import annotations

import pytest

from vitkern.bench.gpu.roofline import GAP, estimate, resident
from vitkern.ops._triton.kernel import Resources
from vitkern.ops._triton.recorder import Work
from vitkern.ops._triton.targets import TARGETS

H100 = TARGETS["h100"]


@pytest.mark.parametrize(
    "work, bound, seconds",
    [
        (Work(flops=0.76 * 989e12), "products", 1.0),
        (Work(unique=3.35e12), "memory", 1.0),
        (Work(written=3.35e12), "memory", 1.0),
        (Work(read=15e12, unique=1e12), "L2", 2.0),
        (Work(exponentials=16 * 132 * 1.98e9), "exponentials", 1.0),
        (Work(scalar=67e12), "arithmetic", 2.0),
        (Work(), "launch", 0.0),
    ],
)
def test_bounds(work: Work, bound: str, seconds: float) -> None:
    found = estimate(work, H100, half=True)
    assert found.bound == bound
    assert found.seconds == pytest.approx(seconds + GAP)


def test_float32_products_take_no_tensor_core() -> None:
    assert estimate(Work(flops=67e12), H100, half=False).seconds == pytest.approx(1.0 + GAP)


def test_the_last_wave_costs_a_whole_one() -> None:
    work = Work(flops=0.76 * 989e12)
    whole = estimate(work, H100, half=True, programs=132).seconds
    more = estimate(work, H100, half=True, programs=133).seconds
    assert more == pytest.approx(whole * 2 * 132 / 133, rel=1e-3)


def test_one_program_at_a_time_overlaps_nothing() -> None:
    work = Work(flops=0.76 * 989e12, exponentials=16 * 132 * 1.98e9)
    assert estimate(work, H100, half=True, resident=1).seconds == pytest.approx(2.0 + GAP)
    assert estimate(work, H100, half=True, resident=2).seconds == pytest.approx(1.0 + GAP)


def test_resident_programs() -> None:
    assert resident(Resources(100_000, 128 * 128), 8, H100) == 2  # by shared memory
    assert resident(Resources(0, 128 * 200), 4, H100) == 2  # by registers
    assert resident(Resources(232448, 16), 4, H100) == 1
