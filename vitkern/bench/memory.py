"""Peak memory of a pass above rest, for the eager and the patched model.

Method: a process of its own, in which glibc gives freed memory back at once
(:data:`~vitkern.bench.allocator.RETURN`), so that the resident size is what is in use, whoever
allocated it: PyTorch, MKL, oneDNN, our kernels' scratch. For each model: one pass to warm up; then,
a few times: give back what is free, read the resident size (*rest*), have Linux forget its
high-water mark (``/proc/self/clear_refs``), run a pass, read the mark (``VmHWM``). The median of
the differences counts. Linux counts per processor, and both figures can be off by some 100 KB.

Above rest are all intermediates and the output; with ``train`` also the gradients. Not above rest,
but reported beside it:

* prepacked weights (``packed``), which are kept from pass to pass: exact bytes;
* all else that the patched model's first pass leaves behind (``kept``): scratch of the kernels'
  threads, code that is loaded on first use. It includes noise of some 100 KB.
"""

from __future__ import annotations

import gc
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitkern.bench import allocator, child
from vitkern.bench.forms import prepare
from vitkern.bench.models import Row, build
from vitkern.bench.passes import make_pass
from vitkern.ops import _cpu

__all__ = ["Memory", "measure", "unavailable"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Memory:
    """Bytes. ``eager`` and ``patched`` are peaks above rest."""

    eager: int
    patched: int
    packed: int
    kept: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def unavailable() -> str | None:
    """Why memory cannot be measured here, or None."""
    if not allocator.is_glibc():
        return "peak memory needs Linux with glibc"
    try:
        _CLEAR.write_text("5")
    except OSError as error:
        return f"peak memory needs to write {_CLEAR}: {error.strerror}"
    return None if "VmHWM" in _STATUS.read_text() else f"no high-water mark in {_STATUS}"


def measure(rows: Sequence[Row], *, repeats: int = 3) -> list[Memory]:
    """Measure the rows, all in one new process.

    Raises:
        RuntimeError: not on this machine (:func:`unavailable` says so beforehand).
        ChildFailed: the process ended without a result.
    """
    reason = unavailable()
    if reason is not None:
        raise RuntimeError(reason)
    request = {"rows": [row.to_dict() for row in rows], "repeats": repeats}
    found = child.call("memory", "measure_here", request, allocator.RETURN)
    return [Memory(**values) for values in found]


def measure_here(request: dict[str, Any]) -> list[dict[str, Any]]:
    """What the new process does."""
    rows = map(Row.from_dict, request["rows"])
    return [_measure(row, request["repeats"]).to_dict() for row in rows]


def measure_blocks(counts: Sequence[int]) -> list[tuple[int, int]]:
    """The method on what is known: passes that hold so many blocks of 1 MiB, three times."""

    class Blocks(nn.Module):
        def __init__(self, held: int) -> None:
            super().__init__()
            self.held = held

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(3):
                blocks = [torch.ones(1 << 18) for _ in range(self.held)]
                del blocks
            return x + 1

    return [_peak(Row("blocks", 1), Blocks(held), torch.zeros(4), 3) for held in counts]


def _measure(row: Row, repeats: int) -> Memory:
    model, images = build(row)
    eager, _ = _peak(row, model, images, repeats)
    before = _cpu.packed_bytes()
    prepare(model, images, row.form)
    patched, left = _peak(row, model, images, repeats)
    packed = _cpu.packed_bytes() - before
    return Memory(eager, patched, packed, left - packed)


def _peak(row: Row, model: nn.Module, images: torch.Tensor, repeats: int) -> tuple[int, int]:
    """The peak above rest, and by how much the first pass raised the rest."""
    run = make_pass(row, model, images)

    def rest() -> int:
        model.zero_grad(set_to_none=True)
        gc.collect()
        allocator.trim()
        return _status("VmRSS")

    before = rest()
    run()
    left = rest() - before
    peaks = []
    for _ in range(repeats):
        resting = rest()
        _CLEAR.write_text("5")
        run()
        peaks.append(_status("VmHWM") - resting)
    return int(statistics.median(peaks)), left


def _status(field: str) -> int:
    """A line of Linux's /proc/self/status, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024
