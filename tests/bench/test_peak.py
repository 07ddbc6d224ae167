"""Shares of the peak, with a peak that is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import needs
from vitkern._library import LibraryStatus
from vitkern.bench import peak
from vitkern.bench.peak import FORMS, Peak, Share, recorded, share, unsteady
from vitkern.ops import _cpu


def of(*gflops: float) -> Peak:
    values = iter(gflops)
    found = Peak(probe=lambda seconds: next(values))
    for _ in gflops:
        found.sample()
    return found


def test_share_is_against_the_higher_peak_around_each_run() -> None:
    # 50 GFLOP/s, then 25 GFLOP/s on a machine that halved its rate; one sample was interrupted.
    got = share(1e9, (0.02, 0.02, 0.04), of(100.0, 10.0, 100.0, 50.0))
    assert got == Share(of_moment=pytest.approx(0.5), of_best=pytest.approx(0.5))
    got = share(1e9, (0.02, 0.04, 0.04), of(100.0, 50.0, 50.0, 50.0))
    assert got == Share(of_moment=pytest.approx(0.5), of_best=pytest.approx(0.25))


def test_samples_that_were_interrupted_throughout_do_not_count() -> None:
    got = share(1e9, (0.02, 0.02, 0.04), of(100.0, 0.0, 0.0, 50.0))
    assert got == Share(of_moment=pytest.approx(0.5), of_best=pytest.approx(0.5))
    assert share(1e9, (0.02,), of(0.0, 0.0)) is None


def test_unsteady_peaks_are_told() -> None:
    assert unsteady(None) is None
    assert unsteady(of(100.0, 99.0, 98.0).summary()) is None
    assert "quartiles of its peak are 75 and 100" in str(unsteady(of(50.0, 100.0, 100.0).summary()))


def test_unknown_shares() -> None:
    assert share(None, (1.0,), of(1.0, 1.0)) is None
    assert share(0, (1.0,), of(1.0, 1.0)) is None
    assert share(1e9, (1.0,), of()) is None


def test_samples_have_to_surround_the_rounds() -> None:
    with pytest.raises(ValueError, match="2 samples of the peak for 2 rounds"):
        share(1e9, (1.0, 1.0), of(1.0, 1.0))


def test_without_library_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "load", lambda: LibraryStatus(False, Path("x"), "none was built"))
    found = Peak()
    found.sample()
    assert (found.samples, found.reason, found.summary()) == ([], "none was built", None)


@needs.library
@pytest.mark.parametrize("isa", _cpu.isas())
def test_the_library_measures_it(isa: str) -> None:
    highest = {}
    with _cpu.use_isa(isa):
        for form in FORMS:
            found = Peak(seconds=0.002, form=form)
            for _ in range(5):
                found.sample()
            assert found.reason is None
            highest[form] = max(found.samples)
    assert min(highest.values()) > 0.0
    if isa == "amx":  # on tiles: 8 times as many a cycle, and 16 times
        assert highest["int8"] > highest["bfloat16"] > 2 * highest["float32"]


def test_other_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="form must be one of float32, bfloat16, int8"):
        Peak(form="float16")


def test_peaks_of_another_process() -> None:
    found = recorded({"float32": [100.0, 120.0], "int8": []}, None)
    summary = found["float32"].summary()
    assert summary is not None and summary.median == 110.0
    assert found["int8"].summary() is None
    assert recorded({"float32": []}, "no library")["float32"].reason == "no library"
