"""What is here: versions, the compiled library, instruction sets, backends and why not."""

from __future__ import annotations

import argparse
import importlib
import os
import re
from typing import Any

HELP = "versions, the compiled library, backends, and why something is missing"

OPTIONAL = {
    "timm": "models for bench, profile and patch-report: pip install timm",
    "torchvision": "timm needs it: pip install torchvision",
    "sklearn": "photographs for the demo: pip install scikit-learn",
    "pytest_benchmark": "benchmarks/: pip install pytest-benchmark",
    "triton": "comes with torch for GPUs",
}
"""Packages that something needs, and how to install them."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print everything; missing things are no failure."""
    from vitkern.cli._output import print_json

    found = collect()
    if arguments.json:
        print_json(found)
    else:
        _print(found)
    return 0


def collect() -> dict[str, Any]:
    """What the command tells, for JSON."""
    from vitkern._library import cuda_location, load
    from vitkern.bench import machine
    from vitkern.ops import _cpu
    from vitkern.ops._cuda import device

    status = load()
    here = machine.describe()
    return {
        "machine": here.to_dict(),
        "library": {
            "available": status.available,
            "reason": status.reason,
            "path": str(status.path),
            "build": status.build,
            "isas_compiled": status.build.get("isas", []) if status.available else [],
            "isas_runnable": _cpu.isas(),
            "isa": here.isa,
        },
        "cuda_library": {
            "available": device.not_built() is None,
            "reason": device.not_built(),
            "runs_here": device.missing() is None,
            "reason_not_here": device.missing(),
            "path": str(cuda_location().path),
            "build": cuda_location().build,
        },
        "ops": _ops(),
        "packages": {name: machine.package_version(name) for name in OPTIONAL},
        "environment": {name: os.environ.get(name) for name in _variables()},
    }


def _ops() -> dict[str, dict[str, str | None]]:
    """For each op and backend: None where it takes a small float32 call on the CPU, or why not."""
    import torch

    import vitkern.ops  # noqa: F401 - registers the ops
    from vitkern.dispatch import OPERATORS

    found: dict[str, dict[str, str | None]] = {}
    for name, operator in sorted(OPERATORS.items()):
        cases = importlib.import_module(f"vitkern.ops.{name}.cases")
        small = next(case for case in cases.CASES if "tail" in case.tags)
        call = cases.make(small, torch.float32)
        found[name] = {
            backend: "; ".join(reasons) or None
            for backend, reasons in operator.refusals(call).items()
        }
    return found


def _variables() -> list[str]:
    """The environment variables that exist: those that the build's parameters document."""
    from vitkern._build import parameters

    return re.findall(r"^``([A-Z][A-Z0-9_]*)``$", parameters.__doc__ or "", re.M)


def _print(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from vitkern.cli._output import console

    out = console()
    machine, library = found["machine"], found["library"]
    table = Table.grid(padding=(0, 2))
    rows = {
        "vitkern": machine["vitkern"],
        "torch": f"{machine['torch']}, {machine['threads']} threads",
        "python": f"{machine['python']} on {machine['system']}, {machine['architecture']}",
        "processor": f"{machine['cpu']} ({machine['cpu_id']}), {machine['cores']} cores",
        "library": "available" if library["available"] else f"missing: {library['reason']}",
    }
    if library["available"]:
        build = library["build"]
        rows["library file"] = library["path"]
        rows["built"] = f"{build.get('date')}, for torch >= {build.get('torch_minimum')}"
        rows["compiler"] = str(build.get("compiler"))
        flags = build.get("flags", {})
        rows["flags"] = " ".join(flags.get("all", []))
        rows["flags for " + str(library["isa"])] = " ".join(flags.get(library["isa"], [])) or "none"
        rows["compiled for"] = ", ".join(library["isas_compiled"])
        rows["runs here"] = f"{', '.join(library['isas_runnable'])}; in use: {library['isa']}"
    rows |= _cuda_rows(found["cuda_library"])
    for name, value in rows.items():
        table.add_row(escape(name), escape(value))
    out.print(table)
    out.print()
    out.print(_backends(found["ops"]))
    rest = Table.grid(padding=(0, 2))
    for name, version in found["packages"].items():
        rest.add_row(name, version or f"not installed ({escape(OPTIONAL[name])})")
    rest.add_row()
    for name, value in found["environment"].items():
        rest.add_row(name, escape(value) if value is not None else "not set")
    out.print()
    out.print(rest)


def _cuda_rows(library: dict[str, Any]) -> dict[str, str]:
    if not library["available"]:
        return {"CUDA library": f"missing: {library['reason']}"}
    build, reason = library["build"], library["reason_not_here"]
    return {
        "CUDA library": "available"
        if reason is None
        else f"built, but does not run here: {reason}",
        "CUDA library file": library["path"],
        "built for": f"architectures {build.get('architectures')}, by CUDA {build.get('cuda')}",
        "flags of nvcc": " ".join(build.get("flags", [])),
    }


def _backends(ops: dict[str, dict[str, str | None]]) -> Any:
    """A table of ops and backends; reasons that repeat are numbered and said once."""
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(backend for backends in ops.values() for backend in backends))
    table = Table("op", *names, caption_justify="left")
    numbers: dict[str, int] = {}
    for op, backends in ops.items():
        cells = []
        for name in names:
            why = backends.get(name, "has no such op")
            number = f"no [{numbers.setdefault(why, len(numbers) + 1)}]" if why else "yes"
            cells.append(Text(number))
        table.add_row(op, *cells)
    if numbers:
        table.caption = Text("\n".join(f"[{number}] {why}" for why, number in numbers.items()))
    return table
