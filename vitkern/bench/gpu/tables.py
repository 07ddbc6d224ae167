"""The compile gate's outcome as files: limits for machines, a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from vitkern.bench.gpu.architectures import ARCHITECTURES, MAIN
from vitkern.bench.gpu.compile import Compiled
from vitkern.bench.report import replacing, write_json

_HEAD = """# Triton kernels, compiled

Made by `make triton-limits`, with Triton {triton}. For each kernel and dtype: the hardest launch
that its op's model cases make, in bfloat16 over all its configurations ({main}), otherwise with the
first one. *Registers* are a thread's, *shared* is a program's, in KB; *matrix* says which matrix
instructions are in the code. *Spill* counts kernels that spill any register: on NVIDIA's at most 2
instructions of a kernel may; on AMD's, which the backend refuses, any number. Compiled and
interpreted, **not run** on these GPUs, unless a result file of the card under `benchmarks/results/`
says so.

"""


def write(
    folder: Path, compiled: Iterable[Compiled], limits: Mapping[str, Mapping[str, int]]
) -> None:
    """``triton-limits.json`` and ``triton-kernels.md`` in a folder, each as a whole or not."""
    import triton

    rows = list(compiled)
    document = {"triton": triton.__version__, "kernels": limits}
    write_json(folder / "triton-limits.json", document)
    with replacing(folder / "triton-kernels.md") as temporary:
        temporary.write_text(
            _HEAD.format(triton=triton.__version__, main=MAIN) + table(rows), encoding="utf-8"
        )


def table(compiled: Iterable[Compiled]) -> str:
    """Markdown: a line for each kernel and dtype, columns for architectures."""
    groups: dict[tuple[str, str], dict[str, list[Compiled]]] = {}
    for one in compiled:
        groups.setdefault((one.kernel, one.dtype), {}).setdefault(one.architecture, []).append(one)
    names = list(ARCHITECTURES)
    lines = [
        "| kernel | dtype | configurations | " + " | ".join(names) + " |",
        "| --- | --- | --- |" + " --- |" * len(names),
    ]
    for (kernel, dtype), found in sorted(groups.items()):
        count = len({one.config for ones in found.values() for one in ones})
        cells = [_cell(found.get(name, [])) for name in names]
        lines.append(f"| `{kernel}` | {dtype} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(ones: list[Compiled]) -> str:
    """``96–128 registers, 48 KB, wgmma``."""
    if not ones:
        return "not compiled"
    parts = [
        _range([one.registers for one in ones]) + " registers",
        _range([round(one.shared / 1024) for one in ones]) + " KB",
    ]
    spilled = sum(one.spills > 0 for one in ones)
    if spilled:
        parts.append(f"{spilled} of {len(ones)} spill")
    kinds = sorted({kind for one in ones for kind in one.matrix})
    return ", ".join(parts + (["+".join(kinds)] if kinds else []))


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
