"""What counts as slower: beyond noise, beside eager and by the machine's own measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench.page import made
from vitkern.bench.page.history import Change, Entry, entries
from vitkern.bench.page.lines import load


def one(folder: Path) -> Entry:
    (found,) = entries(load(folder).lines)
    return found


def changed(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> Change:
    made.write(folder, "models", [before], "2026-11-20")
    made.write(folder, "models", [now], "2026-11-21")
    found = one(folder)
    assert found.line.source.date == "2026-11-21"
    assert [line.source.date for line in found.earlier] == ["2026-11-20"]
    assert found.change is not None
    return found.change


@pytest.mark.parametrize(
    "now, verdict",
    [
        (made.model(), "same"),
        (made.model(patched=0.12, share=0.8 / 1.2), "slower"),
        (made.model(patched=0.08, share=0.8 / 0.8 * 0.99), "faster"),
        # Within 5 %, though the quartiles are apart.
        (made.model(patched=0.104, share=0.8 / 1.04, spread=0.001), "same"),
        # Far apart, but so are the quartiles: noise.
        (made.model(patched=0.12, share=0.8 / 1.2, spread=0.3), "same"),
        # The machine was half as fast: all times are twice as long.
        (made.model(eager=0.4, patched=0.2), "same"),
        # Eager became faster, and we did not change.
        (made.model(eager=0.15), "not judged"),
        # Beside eager as before, but eager is slower too, and the machine is not.
        (made.model(eager=0.3, patched=0.15, share=0.8 / 1.5), "not judged"),
        (made.model(patched=0.12, share=0.8 / 1.2, others=1.5), "not judged"),
    ],
)
def test_verdicts(tmp_path: Path, now: dict[str, Any], verdict: str) -> None:
    assert changed(tmp_path, made.model(), now).verdict == verdict


def test_a_busy_run_before_is_not_judged_either(tmp_path: Path) -> None:
    found = changed(tmp_path, made.model(others=1.5), made.model(patched=0.2, share=0.4))
    assert (found.verdict, found.why) == ("not judged", "other processes were busy then")
    assert found.amount == pytest.approx(-0.5)


def test_without_a_share_the_time_itself_is_judged(tmp_path: Path) -> None:
    now = made.model(patched=0.12, patched_share=None)
    assert changed(tmp_path, made.model(), now).verdict == "slower"


def test_runs_of_one_day_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    made.write(tmp_path, "models", [made.model(patched=0.2)], name="z", time="09:00:00")
    made.write(tmp_path, "models", [made.model(patched=0.1)], name="a", time="10:00:00")
    newest = one(tmp_path).line.figures.seconds
    assert newest is not None
    assert newest.median == 0.1


@pytest.mark.parametrize(
    "machine, changes",
    [({"threads": 1}, {}), ({"slug": "acme-two"}, {}), ({}, {"quick": True})],
)
def test_what_is_not_compared(
    tmp_path: Path, machine: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Other threads, another machine, a rough run; and peers, which are timed in another way."""
    made.write(tmp_path, "models", [made.model()])
    made.write(tmp_path, "models", [made.model()], "2026-11-21", machine=machine, **changes)
    made.write(tmp_path, "peers", [made.peers()], "2026-11-22")
    assert all(entry.change is None for entry in entries(load(tmp_path).lines))


def test_other_software_is_compared(tmp_path: Path) -> None:
    made.write(tmp_path, "models", [made.model()], machine={"vitkern": "0.0.9"})
    made.write(tmp_path, "models", [made.model()], "2026-11-21")
    assert one(tmp_path).change == Change("same", 0.0)


def test_memory_and_error_stay_where_the_newest_run_has_none(tmp_path: Path) -> None:
    found = changed(tmp_path, made.model(), made.model(memory=None, parity=None))
    assert found.verdict == "same"
    line = one(tmp_path).line
    assert (line.figures.memory, line.eager.memory, line.figures.error) == (2e7, 3e7, 4e-7)
