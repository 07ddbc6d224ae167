"""Compiles what rows will launch, in many processes, before the first row is measured.

``vitkern.tune`` tries every configuration of every kernel, and compiles them one after the other.
Here the launches of the rows are recorded on meta tensors and compiled as Triton itself would for
them, into its cache on disk. What is missed is compiled later, only more slowly.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from vitkern.bench.gpu.compile import signature
from vitkern.bench.gpu.rows import Entry, on_meta
from vitkern.ops._triton.kernel import Config
from vitkern.ops._triton.recorder import Launch, record
from vitkern.ops._triton.targets import target_of
from vitkern.patching import patched

_PARTS = 4
"""Of each model's kernels, compiled in as many processes."""


def launches(entry: Entry, device: torch.device) -> list[tuple[Launch, Config]]:
    """What a row launches on a device, with each configuration, each kind once."""
    model, images = on_meta(entry)
    with record(target_of(device)) as found, patched(model):
        if entry.row.mode == "train":
            model(images).sum().backward()
        else:
            with torch.no_grad():
                model(images)
    kinds = {}
    for launch in found:
        for one in launch.candidates:
            kinds[launch.kernel.name, one, signature(launch, one)] = (launch, one)
    return list(kinds.values())


def prepare(
    entries: Sequence[Entry],
    device: torch.device,
    *,
    deadline: float,
    processes: int,
    progress: Callable[[str], object] = lambda step: None,
) -> dict[str, Any]:
    """Compile for the rows in their order, until ``time.time()`` is ``deadline``."""
    start, done, failed = time.time(), 0, []
    tasks = [(entry, part, device.index or 0) for entry in entries for part in range(_PARTS)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        results = pool.imap_unordered(_compile, tasks)
        for number in range(1, len(tasks) + 1):
            try:
                count, errors = results.next(max(deadline - time.time(), 0.1))
            except multiprocessing.TimeoutError:
                break  # leaving the block ends the processes
            done += count
            failed += errors
            progress(f"compiling: {number} of {len(tasks)} parts, {done} kernels")
    return {"kernels": done, "failed": sorted(set(failed)), "seconds": time.time() - start}


def _compile(task: tuple[Entry, int, int]) -> tuple[int, list[str]]:
    entry, part, index = task
    torch.cuda.set_device(index)
    done, failed = 0, []
    try:
        mine = _launches(entry.row.slug, entry, index)[part::_PARTS]
    except Exception as error:  # it will be seen where the row is measured
        return 0, [f"{entry.row.slug}: {error}"[:300]]
    for launch, one in mine:
        key = (launch.kernel.name, one, signature(launch, one))
        if key in _SEEN:
            continue
        _SEEN.add(key)
        try:
            launch.kernel.jit.warmup(
                **launch.arguments, **launch.constants, **dict(one.constants),
                grid=(1,), num_warps=one.warps, num_stages=one.stages,
            )  # fmt: skip
            done += 1
        except Exception as error:
            failed.append(f"{launch.kernel.name} {one.name}: {error}"[:300])
    return done, failed


_SEEN: set[Any] = set()
"""What this process has compiled."""
_RECORDED: dict[str, list[tuple[Launch, Config]]] = {}


def _launches(slug: str, entry: Entry, index: int) -> list[tuple[Launch, Config]]:
    if slug not in _RECORDED:
        _RECORDED[slug] = launches(entry, torch.device("cuda", index))
    return _RECORDED[slug]
