"""The compile gate: every Triton kernel, compiled for GPUs that are not here, held to limits.

``python -m vitkern.bench.gpu.gate`` compiles, for each kernel, the hardest launch that its op's
model cases make: in bfloat16 all configurations for sm_90 and the first one for the other
architectures, in float32 the first one for sm_90. ``--all`` compiles every configuration of every
launch for every architecture, which takes an hour or more. A kernel fails where it spills
registers, where it needs more shared memory than the architecture's smallest card has, where
half-precision products use no tensor core, and where it needs more registers or shared memory than
the limits file allows.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitkern.bench.gpu.architectures import ARCHITECTURES, MAIN, Architecture
from vitkern.bench.gpu.compile import Compiled, compile_launch, signature
from vitkern.bench.gpu.launches import DTYPES, Source, of_models
from vitkern.ops._triton.kernel import Config

SPILLS = 2
"""Instructions for spilled registers that are let pass: measured, in two kernels on sm_120.

The table counts every kernel that has any. A tile that mends them there made some on sm_100.
"""
SLACK = 1.1
"""How far registers and shared memory may grow beyond the limits file."""


@dataclass(frozen=True)
class Job:
    """A launch, a configuration and an architecture to compile for."""

    source: Source
    config: Config
    architecture: Architecture


@functools.cache
def jobs(everything: bool = False, kernels: str = "") -> list[Job]:
    """What is to be compiled; ``kernels``: only those that have this in their names."""
    found: dict[Any, Job] = {}
    for architecture in ARCHITECTURES.values():
        main = architecture.name == MAIN
        dtypes = DTYPES if everything else (torch.bfloat16, torch.float32)[: 1 + main]
        sources = [
            source for source in of_models(architecture.bounds, dtypes)
            if kernels in source.launch.kernel.name
        ]  # fmt: skip
        for source in sources if everything else _hardest(sources):
            configs = source.launch.candidates
            if not everything and not (main and source.dtype == "bfloat16"):
                configs = configs[:1]
            for one in configs:
                key = (
                    architecture.name, source.launch.kernel.name, one.name,
                    signature(source.launch, one), one.warps, one.stages,
                )  # fmt: skip
                found.setdefault(key, Job(source, one, architecture))
    return list(found.values())


def _hardest(sources: Iterable[Source]) -> list[Source]:
    """Of each kernel, dtype, set of optional arguments and set of flags: the largest tiles.

    Where tiles are as large, the launch that does the most.
    """
    most: dict[Any, Source] = {}
    for source in sources:
        launch = source.launch
        optional = tuple(name for name, value in launch.arguments.items() if value is None)
        flags = tuple(item for item in launch.constants.items() if isinstance(item[1], bool))
        key = (launch.kernel.name, source.dtype, optional, flags)
        if key not in most or _weight(source) > _weight(most[key]):
            most[key] = source
    return list(most.values())


def _weight(source: Source) -> tuple[int, float]:
    """Registers by the model, then work."""
    launch, work = source.launch, source.launch.work
    constants = {**launch.constants, **dict(launch.config.constants)}
    needs = launch.kernel.model(constants, getattr(torch, source.dtype).itemsize)
    return needs.registers, work.flops + work.read + work.written


def compile_all(everything: bool, kernels: str, processes: int) -> Iterator[Compiled | str]:
    """What became of each job, in any order: the kernel, or why it does not compile."""
    numbers = [(everything, kernels, i) for i in range(len(jobs(everything, kernels)))]
    # Jobs hold functions and tensors: other processes find them by number.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_compile, numbers, chunksize=4)


def _compile(which: tuple[bool, str, int]) -> Compiled | str:
    everything, kernels, number = which
    job = jobs(everything, kernels)[number]
    try:
        return compile_launch(job.source.launch, job.config, job.architecture, job.source.dtype)
    except RuntimeError as error:
        return str(error)


def faults(one: Compiled) -> list[str]:
    """What is wrong with a kernel, whatever the limits file says.

    Code for AMD's may spill: the configurations are NVIDIA's, and the backend refuses ROCm.
    """
    found = []
    architecture = ARCHITECTURES[one.architecture]
    if one.spills > SPILLS and architecture.backend == "cuda":
        found.append(f"spills registers ({one.spills} instructions)")
    if one.shared > architecture.bounds.shared:
        found.append(
            f"needs {one.shared} bytes of shared memory; {architecture.bounds.title} has"
            f" {architecture.bounds.shared}"
        )
    if one.tensor_cores and one.dtype != "float32" and not one.matrix:
        found.append("has no matrix instruction")
    return found


def limits_of(compiled: Iterable[Compiled]) -> dict[str, dict[str, int]]:
    """The most registers and shared memory of each kernel and dtype, on the main architecture."""
    limits: dict[str, dict[str, int]] = {}
    for one in compiled:
        if one.architecture == MAIN:
            limit = limits.setdefault(f"{one.kernel} {one.dtype}", {"registers": 0, "shared": 0})
            limit["registers"] = max(limit["registers"], one.registers)
            limit["shared"] = max(limit["shared"], one.shared)
    return dict(sorted(limits.items()))


def excesses(
    now: Mapping[str, Mapping[str, int]], limits: Mapping[str, Mapping[str, int]]
) -> list[str]:
    """Where kernels need more than the limits file allows, or are not in it."""
    found = []
    for kernel, needs in now.items():
        if kernel not in limits:
            found.append(f"{kernel} is not in the limits file: run with --write")
            continue
        found += [
            f"{kernel} needs {value} {what}; the limit is {limits[kernel][what]}, plus a tenth"
            for what, value in needs.items()
            if value > limits[kernel][what] * SLACK
        ]
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vitkern.bench.gpu.gate", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("--all", action="store_true", help="everything, which takes an hour")
    parser.add_argument("--kernels", default="", metavar="TEXT", help="with this in their names")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--limits", type=Path, metavar="FILE", help="JSON: hold kernels to it")
    parser.add_argument("--write", type=Path, metavar="FOLDER",
                        help="write triton-limits.json and triton-kernels.md there")  # fmt: skip
    return parser.parse_args()


def main() -> int:
    """Compile, print what is wrong, and write tables where asked to."""
    from rich.console import Console
    from rich.progress import track

    from vitkern.bench.gpu.tables import write
    from vitkern.ops._triton.availability import interpreted

    arguments = _arguments()
    if interpreted():
        print("the gate compiles: run it without TRITON_INTERPRET", file=sys.stderr)
        return 2
    total = len(jobs(arguments.all, arguments.kernels))
    done: list[Compiled] = []
    wrong: list[str] = []
    results = compile_all(arguments.all, arguments.kernels, arguments.processes)
    screen = Console(stderr=True)
    for one in track(results, "compiling", total, console=screen, disable=not screen.is_terminal):
        if isinstance(one, str):
            wrong.append(one)
            continue
        done.append(one)
        wrong += [f"{one}: {fault}" for fault in faults(one)]
    now = limits_of(done)
    if arguments.write is not None:
        write(arguments.write, done, now)
    if arguments.limits is not None:
        wrong += excesses(now, json.loads(arguments.limits.read_text())["kernels"])
    for line in wrong:
        print(line)
    print(f"{len(done)} of {total} compiled, {len(wrong)} faults")
    return 1 if wrong or len(done) < total or not total else 0


if __name__ == "__main__":
    sys.exit(main())
