"""Results that are made up, as files and as lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MACHINE = {
    "slug": "acme-one-2-cores-avx2", "cpu": "Acme One", "cpu_id": "family 1 model 2 stepping 3",
    "architecture": "x86_64", "cores": 2, "threads": 2, "isa": "avx2", "system": "Linux 6.1",
    "python": "3.11.7", "torch": "2.14.1", "vitkern": "0.1.0", "compiler": "c++ 12", "choices": 0,
}  # fmt: skip

VIT = {"model": "vit_tiny_patch16_224", "batch": 8, "mode": "eval", "dtype": "float32"}


def summary(median: float, spread: float = 0.01, count: int = 9) -> dict[str, Any]:
    low, high = median * (1.0 - spread), median * (1.0 + spread)
    return {"median": median, "low": low, "high": high, "count": count}


def busy(others: float) -> dict[str, Any]:
    return {"others": others, "cores": 2, "threads": 2, "whole": True, "busy": others > 0.2}


def model(
    eager: float = 0.2, patched: float = 0.1, share: float = 0.8, spread: float = 0.01,
    others: float = 0.0, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    row = {
        "name": "vit_tiny-batch8", "ok": True, "row": VIT, "notes": [],
        "parity": {"passed": True, "checks": [
            {"name": "output", "error": 4e-7, "eager_error": 3e-7, "allowed": 7e-7}]},
        "eager": summary(eager, spread), "patched": summary(patched, spread),
        "speedup": summary(eager / patched, spread),
        "eager_share": {"of_moment": 0.4, "of_best": 0.4},
        "patched_share": {"of_moment": share, "of_best": share},
        "memory": {"eager": 30_000_000, "patched": 20_000_000, "packed": 1, "kept": 1},
        "contention": busy(others),
    }  # fmt: skip
    return row | changes


def op(name: str = "mlp-cpu-vit-ti-float32", **changes: Any) -> dict[str, Any]:
    row = {
        "name": name, "seconds": summary(1e-4), "eager_seconds": summary(2e-4),
        "ratio_to_eager": summary(2.0), "share_of_peak": {"of_moment": 0.7, "of_best": 0.7},
    }  # fmt: skip
    return row | changes


def entry(name: str, precision: str, seconds: float | None, **changes: Any) -> dict[str, Any]:
    row = {
        "name": name, "vendor": name.split()[0], "precision": precision,
        "ours": name.startswith("vitkern"),
        "peer": not name.startswith("vitkern") and name != "eager",
        "reason": None if seconds is not None else "not installed: pip install it", "wrong": False,
        "seconds": seconds and summary(seconds), "speedup": seconds and summary(0.2 / seconds),
        "share": seconds and {"of_moment": 0.5, "of_best": 0.5},
        "cosine": 1.0, "error": 1e-3, "allowed": None, "faults": 0,
    }  # fmt: skip
    return row | changes


def peers(**changes: Any) -> dict[str, Any]:
    row = {
        "name": "vit_tiny, batch 8", "ok": True, "row": VIT, "contention": busy(0.0),
        "entries": [
            entry("eager", "fp32", 0.2), entry("OpenVINO", "fp32", 0.12),
            entry("ONNX Runtime", "fp32", None), entry("vitkern", "fp32", 0.11),
            entry("OpenVINO bf16", "bf16", None), entry("vitkern bf16", "bf16", 0.06),
            entry("torch.compile, frozen bf16", "bf16", 0.09),
        ],
    }  # fmt: skip
    return row | changes


def write(
    folder: Path, kind: str, rows: list[Any], date: str = "2026-11-20", name: str = "",
    machine: dict[str, Any] | None = None, **changes: Any,
) -> Path:  # fmt: skip
    """A file of results."""
    machine = MACHINE | (machine or {})
    path = folder / machine["slug"] / f"{name or f'{kind}-{date}'}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"schema": 1, "kind": kind, "date": date, "machine": machine, "rows": rows}
    path.write_text(json.dumps(document | changes))
    return path
