"""The patched model is not slower than eager beyond noise: 40 pairs of model and batch.

``pytest benchmarks/test_do_no_harm.py --benchmark-only --wide [--tuned] [--store]``: all pairs take
about half an hour, on an otherwise idle machine. Without ``--wide`` two small ones are measured.

Parity comes first. Times are ratios of one process, in turns; no time of a clock is asserted. A
pair about which the times do not tell is skipped, with what was found, and not passed; with
``--wide`` it is an error where they tell of fewer than three quarters of the pairs.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.conftest import Record
from benchmarks.harm import verdict
from vitkern.bench import child
from vitkern.bench.contention import Contention
from vitkern.bench.measure import nothing_patched
from vitkern.bench.models import WIDE, Row, build
from vitkern.bench.parity import check
from vitkern.bench.passes import make_pass
from vitkern.bench.timing import Comparison, Plan
from vitkern.dispatch.measured import STORE
from vitkern.patching import patch
from vitkern.tuning import tune

# Fewer rounds than 15 tell too little, however long they take.
PLAN = Plan(min_rounds=15, min_seconds=8.0, max_rounds=100, max_seconds=600.0)
QUICK = (Row("vit_tiny_patch16_224", 1), Row("swin_tiny_patch4_window7_224", 1))

pytest.importorskip("timm")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rows = WIDE if metafunc.config.getoption("--wide") else QUICK
    metafunc.parametrize("row", rows, ids=[row.slug for row in rows])


def test_not_slower(
    benchmark: Any,
    record: Record,
    row: Row,
    pytestconfig: pytest.Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Only what is measured here: not what was measured on this machine at another time.
    monkeypatch.setenv("VITKERN_CACHE_DIR", str(tmp_path))
    STORE.forget()
    tuned = bool(pytestconfig.getoption("--tuned"))
    eager, images = build(row)
    patched = copy.deepcopy(eager)
    same = nothing_patched(patch(patched))
    if same is not None:
        pytest.skip(f"nothing was patched: {same}")
    if tuned:
        tune(patched, images)
    check(row, eager, patched, images).require()

    argument = {"row": row.to_dict(), "plan": vars(PLAN)}
    found = child.call("measure", "time_here", argument, {})
    times = Comparison({name: tuple(values) for name, values in found["seconds"].items()})
    contention = found["contention"] and Contention.from_dict(found["contention"])
    pairs = zip(times.seconds["eager"], times.seconds["patched"], strict=True)
    judged = verdict(
        [one / other for one, other in pairs],
        rows=len(WIDE),
        busy=contention is not None and contention.busy,
    )
    record(
        "harm",
        {
            "name": row.slug + "-tuned" * tuned,
            "row": row.to_dict(),
            "tuned": tuned,
            **judged.to_dict(),
            "speedup": times.ratio("eager", "patched").to_dict(),
            "eager": times.summary("eager").to_dict(),
            "patched": times.summary("patched").to_dict(),
            "contention": contention and contention.to_dict(),
        },
    )
    with torch.inference_mode():
        benchmark.pedantic(make_pass(row, patched, images), rounds=1, iterations=1)
    if judged.outcome == "undecided":
        pytest.skip(f"{judged}; {contention or 'it is not known how busy others were'}")
    assert judged.outcome == "harmless", str(judged)
