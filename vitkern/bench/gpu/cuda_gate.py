"""The gate of the CUDA kernels: compiled for GPUs that are not here, held to limits.

``python -m vitkern.bench.gpu.cuda_gate`` builds csrc/cuda as it is built into the package, for all
architectures, and reads what the machine code says. A kernel fails where it has no matrix
instruction though the limits file knows it with some, and where it needs more registers or static
shared memory, or spills more, than the limits file allows. Without a CUDA toolkit nothing is
compiled, which is said and is no failure.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vitkern._build import BuildError, BuildFailed, build_cuda_library, find_nvcc, parameters
from vitkern.bench.gpu.gate import excesses
from vitkern.bench.report import replacing, write_json

ROOT = Path(__file__).parents[3]
MAIN = "sm_90"
"""The architecture whose registers are limited."""
DTYPES = {"Tf32": "tf32", "__half": "float16", "__nv_bfloat16": "bfloat16", "float": "float32"}
"""Names in the kernels' template arguments, the telling ones first, and what people call them."""


@dataclass(frozen=True)
class Compiled:
    """What a kernel became.

    Attributes:
        kernel: its function's name.
        variant: with its template arguments.
        dtype: of its operands, ``""`` where it is of none.
        architecture: ``sm_90`` or the like, ``sm_90a`` too where a file is for it alone.
        registers: of a thread.
        shared: bytes of static shared memory.
        spills: instructions that store registers to, or load them from, local memory.
        matrix: matrix instructions; counted on MAIN and where there is a stack, else None.
    """

    kernel: str
    variant: str
    dtype: str
    architecture: str
    registers: int
    shared: int
    spills: int
    matrix: int | None

    def __str__(self) -> str:
        return f"{self.variant} on {self.architecture}"


def find_cuobjdump(home: Path) -> Path | None:
    """The toolkit's; else that which Triton has."""
    candidates = [home / "bin" / "cuobjdump"]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.submodule_search_locations:
        folder = Path(next(iter(triton.submodule_search_locations)))
        candidates.append(folder / "backends" / "nvidia" / "bin" / "cuobjdump")
    return next((path for path in candidates if path.is_file()), None)


def read(cuobjdump: Path, file: Path) -> list[Compiled]:
    """All kernels of an object file, on all its architectures."""
    usage = _run(cuobjdump, "--dump-resource-usage", file)
    found: dict[tuple[str, str], tuple[int, int, bool]] = {}
    architecture = ""
    for line in usage.splitlines():
        if match := re.match(r"arch = (sm_\w+)", line.strip()):
            architecture = match[1]
        elif match := re.match(r"Function (\S+):", line.strip()):
            name = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            found[architecture, name] = (registers, shared, stack + local > 0)
    code = {
        which: _instructions(cuobjdump, file, which)
        for which in {
            arch for (arch, _), (*_, stack) in found.items() if stack or _generation(arch) == MAIN
        }
    }
    plain = _demangled({name for _, name in found})
    return [
        _compiled(
            plain[name], architecture, registers, shared, code.get(architecture, {}).get(name)
        )
        for (architecture, name), (registers, shared, _) in found.items()
    ]


def _compiled(
    name: str, architecture: str, registers: int, shared: int, counts: tuple[int, int] | None
) -> Compiled:
    variant = name.removeprefix("void ").replace("vitkern::", "").partition("(")[0]
    words = re.findall(r"\w+", variant.partition("<")[2])
    dtype = next((title for word, title in DTYPES.items() if word in words), "")
    spills, matrix = counts if counts is not None else (0, None)
    kernel = variant.partition("<")[0]
    return Compiled(kernel, variant, dtype, architecture, registers, shared, spills, matrix)


def _instructions(cuobjdump: Path, file: Path, architecture: str) -> dict[str, tuple[int, int]]:
    """By kernel: instructions that spill, and matrix instructions."""
    counts: dict[str, list[int]] = {}
    for line in _run(cuobjdump, "-sass", "-arch", architecture, file).splitlines():
        if match := re.match(r"\s*Function : (\S+)", line):
            now = counts.setdefault(match[1], [0, 0])
        elif match := re.search(r"\*/\s+(?:@!?U?P\w+ )?\s*([A-Z]\w+)", line):
            now[0] += match[1] in ("STL", "LDL")
            now[1] += match[1] in ("HMMA", "QMMA", "HGMMA", "UTCHMMA")
    return {name: (spills, matrix) for name, (spills, matrix) in counts.items()}


def _demangled(names: Iterable[str]) -> dict[str, str]:
    mangled = list(names)
    if shutil.which("c++filt") is None:
        return dict(zip(mangled, mangled, strict=True))
    done = subprocess.run(
        ["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True
    )
    return dict(zip(mangled, done.stdout.splitlines(), strict=True))


def _run(*command: object) -> str:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True
    ).stdout


def _generation(architecture: str) -> str:
    return architecture.removesuffix("a")


def key_of(one: Compiled) -> str:
    """A line of tables and limits: function and dtype, and the architecture if it is for one."""
    own = one.architecture if one.architecture.endswith("a") else ""
    return f"{one.kernel} {one.dtype} {own}".strip()


def limits_of(compiled: Iterable[Compiled]) -> dict[str, dict[str, int]]:
    """Of each function and dtype, over its variants.

    The most registers and shared memory and the fewest matrix instructions, on MAIN; the most
    instructions of a variant that spill, on any architecture.
    """
    limits: dict[str, dict[str, int]] = {}
    for one in compiled:
        limit = limits.setdefault(key_of(one), {"registers": 0, "shared": 0, "spills": 0})
        limit["spills"] = max(limit["spills"], one.spills)
        if _generation(one.architecture) == MAIN:
            matrix = one.matrix or 0
            limit["registers"] = max(limit["registers"], one.registers)
            limit["shared"] = max(limit["shared"], one.shared)
            limit["matrix"] = min(limit.get("matrix", matrix), matrix)
    return dict(sorted(limits.items()))


def beyond(
    now: Mapping[str, Mapping[str, int]], limits: Mapping[str, Mapping[str, int]]
) -> list[str]:
    """Where kernels need more than the limits file allows, have lost something, or are new."""
    needs = {name: {k: v for k, v in one.items() if k != "matrix"} for name, one in now.items()}
    found = excesses(needs, limits)
    found += [
        f"{name} has a variant without a matrix instruction"
        for name, one in now.items()
        if name in limits and limits[name].get("matrix") and not one.get("matrix")
    ]
    found += [
        f"{name} is in the limits file and is not there" for name in limits if name not in now
    ]
    return found


def table(compiled: Iterable[Compiled]) -> str:
    """Markdown: a line for each function and dtype, columns for architectures."""
    groups: dict[str, list[Compiled]] = {}
    for one in compiled:
        groups.setdefault(key_of(one), []).append(one)
    names = [f"sm_{number}" for number in parameters.CUDA_ARCHITECTURES]
    lines = [
        "| kernel | variants | " + " | ".join(f"registers, {name}" for name in names)
        + " | static shared, bytes | matrix instructions | spills |",
        "| --- | --- |" + " --- |" * (len(names) + 3),
    ]  # fmt: skip
    for key, ones in sorted(groups.items()):
        cells = [
            _range(one.registers for one in ones if _generation(one.architecture) == name)
            for name in names
        ]
        matrix = _range(one.matrix or 0 for one in ones if _generation(one.architecture) == MAIN)
        lines.append(
            f"| `{key}` | {len({one.variant for one in ones})} | {' | '.join(cells)} |"
            f" {max(one.shared for one in ones)} | {matrix} | {sum(one.spills for one in ones)} |"
        )
    return "\n".join(lines) + "\n"


def _range(values: Iterable[int]) -> str:
    known = sorted(set(values))
    return "–".join(map(str, dict.fromkeys((known[0], known[-1])))) if known else "none"


_HEAD = """# CUDA kernels, compiled

Made by `make cuda-limits`, with CUDA {cuda}, from what is built into the package. For each function
and dtype of its operands: template variants, registers of a thread on each architecture (the most
that there are is 255), static shared memory, matrix instructions in the code for {main}, and
instructions that spill registers. Compiled and emulated, **not run** on these GPUs, unless a result
file of the card under `benchmarks/results/` says so.

"""


def main() -> int:
    """Compile, print what is wrong, and write files where asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m vitkern.bench.gpu.cuda_gate", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("--limits", type=Path, metavar="FILE", help="JSON: hold kernels to it")
    parser.add_argument("--write", type=Path, metavar="FOLDER",
                        help="write cuda-limits.json and cuda-kernels.md there")  # fmt: skip
    arguments = parser.parse_args()
    nvcc = find_nvcc()
    cuobjdump = None if isinstance(nvcc, str) else find_cuobjdump(nvcc.home)
    if isinstance(nvcc, str) or cuobjdump is None:
        print(f"not compiled: {nvcc if isinstance(nvcc, str) else 'no cuobjdump'}")
        return 0
    folder = ROOT / "build" / "vitkern-cuda"
    try:
        build_cuda_library(ROOT, folder, version="", architectures=parameters.CUDA_ARCHITECTURES)
    except BuildError as error:
        print(error.output if isinstance(error, BuildFailed) else "", error, sep="\n")
        return 1
    with ThreadPoolExecutor(parameters.job_count()) as pool:
        files = [folder / "objects" / f"{path.stem}.o" for path in ROOT.glob("csrc/cuda/*.cu")]
        done = [one for ones in pool.map(lambda file: read(cuobjdump, file), files) for one in ones]
    return _judge(done, nvcc.version, arguments.write, arguments.limits)


def _judge(done: list[Compiled], cuda: str, write: Path | None, limits: Path | None) -> int:
    now, wrong = limits_of(done), []
    for one in done:
        if one.spills:
            print(f"note: {one} spills registers ({one.spills} instructions)")
    if write is not None:
        write_json(write / "cuda-limits.json", {"cuda": cuda, "kernels": now})
        with replacing(write / "cuda-kernels.md") as temporary:
            text = _HEAD.format(cuda=cuda, main=MAIN) + table(done)
            temporary.write_text(text, encoding="utf-8")
    if limits is not None:
        wrong += beyond(now, json.loads(limits.read_text(encoding="utf-8"))["kernels"])
    for line in wrong:
        print(line)
    print(f"{len(done)} kernels on {len({one.architecture for one in done})} architectures,"
          f" {len(wrong)} faults")  # fmt: skip
    return 1 if wrong or not done else 0


if __name__ == "__main__":
    sys.exit(main())
