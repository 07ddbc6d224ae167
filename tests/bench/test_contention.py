"""How much of the machine others used, from readings that are given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from vitkern.bench.contention import Contention, Meter, Reading, read

STAT = """\
cpu  300 30 60 4000 5 6 7 8 0 0
cpu0 100 10 20 2000 2 3 3 4 50 0
cpu1 200 20 40 2000 3 3 4 4 0 0
intr 12345 0 1
"""


def meter(
    *readings: Reading | None, threads: int = 2, cpus: tuple[int, ...] = (0, 1), machine: int = 2
) -> Meter:
    given = iter(readings)
    made = Meter(lambda: next(given), cpus=set(cpus), threads=threads, machine=machine)
    for _ in readings:
        made.sample()
    return made


def at(wall: float, own: float, busy: Mapping[int, float]) -> Reading:
    return Reading(wall, own, busy)


def test_what_is_not_ours_is_others() -> None:
    # 10 s on two processors: 17 s busy, of which 12 s are ours. The middle reading is not used.
    found = meter(
        at(5.0, 1.0, {0: 100.0, 1: 200.0}),
        at(6.0, 9.0, {0: 100.0, 1: 200.0}),
        at(15.0, 13.0, {0: 110.0, 1: 207.0}),
    ).result()
    assert found == Contention(pytest.approx(0.5), 2, 2)
    assert found.busy
    assert str(found) == "other processes used 0.5 of the machine's 2 cores"


@pytest.mark.parametrize(
    "others, cores, threads, busy",
    [
        (0.0, 2, 2, False),
        (0.19, 2, 2, False),
        (0.21, 2, 2, True),
        (1.05, 2, 1, False),  # one core is left to them
        (1.15, 2, 1, True),
        (0.0, 2, 8, False),  # we ask for more than there is: that is no one else's doing
        (0.25, 2, 8, True),
        (50.0, 64, 8, False),
        (57.0, 64, 8, True),
    ],
)
def test_busy_is_more_than_we_left(others: float, cores: int, threads: int, busy: bool) -> None:
    assert Contention(others, cores, threads).busy is busy


def test_processors_that_we_may_not_use_do_not_count() -> None:
    busy = {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0}
    found = meter(
        at(0.0, 0.0, busy),
        at(10.0, 10.0, {0: 10.0, 1: 2.0, 2: 10.0, 3: 10.0}),
        machine=4,
    ).result()
    assert found == Contention(pytest.approx(0.2), 2, 2, whole=False)
    assert str(found).endswith("0.2 of the 2 cores that this one may use")


def test_no_claim_without_figures() -> None:
    start = at(0.0, 0.0, {0: 0.0, 1: 0.0})
    assert meter().result() is None
    assert meter(start).result() is None
    assert meter(None, None).result() is None
    assert meter(start, None).result() is None
    assert meter(start, at(0.05, 0.0, {0: 0.05, 1: 0.05})).result() is None  # too short
    assert meter(start, at(9.0, 9.0, {0: 0.0, 1: 0.0})).result() is None  # it stands still
    assert meter(start, at(9.0, 9.0, {0: 9.0, 1: 9.0}), cpus=(7,)).result() is None


def test_noise_never_makes_others_negative() -> None:
    found = meter(at(0.0, 0.0, {0: 0.0, 1: 0.0}), at(1.0, 1.9, {0: 0.9, 1: 0.9})).result()
    assert found == Contention(0.0, 2, 2)


def test_a_claim_survives_json() -> None:
    one = Contention(1.5, 2, 2, whole=False)
    plain = json.loads(json.dumps(one.to_dict()))
    assert plain["busy"] is True
    assert Contention.from_dict(plain) == one


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "stat"
    path.write_text(STAT)
    found = read(path)
    assert found is not None
    ticks = os.sysconf("SC_CLK_TCK")
    # user, nice, system, irq, softirq, steal; not idle, nor iowait, nor guest (it is in user)
    assert found.busy == {0: pytest.approx(140 / ticks), 1: pytest.approx(271 / ticks)}


@pytest.mark.parametrize("text", [None, "cpu0 1 2\n", "cpu0 a b c d e f g h\n"])
def test_no_such_file_is_no_reading(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "stat"
    if text is not None:
        path.write_text(text)
    assert read(path) is None


@pytest.mark.skipif(read() is None, reason="no /proc/stat")
def test_processes_that_spin_are_seen() -> None:
    """As many as there are processors, while this process rests."""
    cpus = os.sched_getaffinity(0)
    spin = "print(flush=True)\nwhile True: pass"
    others = [
        subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE)
        for _ in range(min(len(cpus), 4))
    ]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        made = Meter(threads=len(cpus))
        made.sample()
        time.sleep(1.0)
        made.sample()
    finally:
        for other in others:
            other.kill()
            other.communicate()
    found = made.result()
    if found is None:
        pytest.skip("the counters stand still here")
    assert found.others > 0.5 * len(others)
