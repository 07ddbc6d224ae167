"""One kernel launch compiled ahead of time, and what the machine code says about it."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vitkern.bench.gpu.architectures import Architecture
from vitkern.ops._triton.kernel import Config
from vitkern.ops._triton.recorder import Launch

_TYPES = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int8: "i8",
    torch.uint8: "u8", torch.int32: "i32", torch.int64: "i64", torch.bool: "i1",
}  # fmt: skip

Signature = tuple[tuple[str, str, Any, bool], ...]
"""(name, type, value of a constant, divisible by 16) of every parameter."""


@dataclass(frozen=True)
class Compiled:
    """What a kernel became.

    Attributes:
        kernel: ``op.function``.
        config: the configuration's name.
        dtype: of the operands.
        constants: the others, as text.
        architecture: ``sm_90`` or the like.
        registers: of a thread.
        shared: bytes of shared memory.
        spills: instructions that store registers to, or load them from, local memory.
        matrix: matrix instructions, by name.
        tensor_cores: whether half-precision products have to use them.
        seconds: to compile it.
    """

    kernel: str
    config: str
    dtype: str
    constants: str
    architecture: str
    registers: int
    shared: int
    spills: int
    matrix: Mapping[str, int]
    tensor_cores: bool
    seconds: float

    def __str__(self) -> str:
        return f"{self.kernel} {self.config} {self.dtype} {self.constants} on {self.architecture}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def signature(launch: Launch, one: Config) -> Signature:
    """How Triton would specialise the launch: types, constants, divisibility by 16."""
    constants = {**launch.constants, **dict(one.constants)}
    found: list[tuple[str, str, Any, bool]] = []
    for name in launch.kernel.jit.arg_names:
        if name in constants:
            found.append((name, "constexpr", constants[name], False))
            continue
        value = launch.arguments[name]
        if value is None or (type(value) is int and value == 1):
            found.append((name, "constexpr", value, False))
        elif isinstance(value, torch.Tensor):
            aligned = value.storage_offset() * value.element_size() % 16 == 0
            found.append((name, f"*{_TYPES[value.dtype]}", None, bool(aligned)))
        elif isinstance(value, bool):
            found.append((name, "i1", None, False))
        elif isinstance(value, int):
            kind = "i32" if -(2**31) <= value < 2**31 else "i64"
            found.append((name, kind, None, bool(value % 16 == 0)))
        elif isinstance(value, float):
            found.append((name, "fp32", None, False))
        else:
            raise TypeError(f"{launch.kernel.name}: {name} is a {type(value).__name__}")
    return tuple(found)


def compile_launch(
    launch: Launch, one: Config, architecture: Architecture, dtype: str = ""
) -> Compiled:
    """Compile the launch with a configuration, for an architecture.

    It needs no GPU, but a process in which ``TRITON_INTERPRET`` is not set.

    Raises:
        RuntimeError: Triton or its assembler fails; says of what.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, parameters = launch.kernel, signature(launch, one)
    source = ASTSource(
        kernel.jit,
        {name: kind for name, kind, _, _ in parameters},
        constexprs={
            (i,): value for i, (_, kind, value, _) in enumerate(parameters) if kind == "constexpr"
        },
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, (_, _, _, divisible) in enumerate(parameters)
            if divisible
        },
    )
    start = time.perf_counter()
    try:
        made = triton.compile(
            source,
            target=GPUTarget(architecture.backend, architecture.number, architecture.threads),
            options={"num_warps": one.warps, "num_stages": one.stages},
        )
    except Exception as error:  # whatever the compiler raises: which kernel it was is what counts
        raise RuntimeError(
            f"{kernel.name} {one.name} does not compile for {architecture.name}: {error}"
        ) from error
    read = _read_cuda if architecture.backend == "cuda" else _read_hip
    registers, spills, matrix = read(made.asm)
    return Compiled(
        kernel.name, one.name, dtype, _text(launch.constants), architecture.name, registers,
        made.metadata.shared, spills, matrix, kernel.tensor_cores, time.perf_counter() - start,
    )  # fmt: skip


def _text(constants: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in constants.items())


def _read_cuda(asm: Mapping[str, Any]) -> tuple[int, int, dict[str, int]]:
    """Registers and spills from the machine code, matrix instructions from the PTX."""
    import triton.backends.nvidia

    tools = Path(triton.backends.nvidia.__file__).parent / "bin"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(asm["cubin"])
        usage = _run(tools / "cuobjdump", "--dump-resource-usage", binary)
        # What is spilled needs a place: without one there is nothing to look for.
        spilled = re.search(r"(?:STACK|LOCAL):[1-9]", usage) is not None
        code = _run(tools / "nvdisasm", "-c", binary) if spilled else ""
    registers = re.search(r"REG:(\d+)", usage)
    if registers is None:
        raise RuntimeError(f"cuobjdump tells no registers: {usage[:200]!r}")
    # Not judged by the count: a kernel that spills kilobytes can report 32 registers.
    spills = len(re.findall(r"\b(?:STL|LDL)\b", code))
    kinds = {"mma": r"\bmma\.sync", "wgmma": r"\bwgmma\.mma_async", "tcgen05": r"\btcgen05\.mma"}
    counts = {name: len(re.findall(pattern, asm["ptx"])) for name, pattern in kinds.items()}
    return int(registers[1]), spills, {name: count for name, count in counts.items() if count}


def _read_hip(asm: Mapping[str, Any]) -> tuple[int, int, dict[str, int]]:
    text = asm["amdgcn"]

    def value(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        return int(found[1]) if found else 0

    mfma = len(re.findall(r"\bv_mfma", text))
    return (
        value("vgpr_count") + value("agpr_count"),
        value("vgpr_spill_count") + value("sgpr_spill_count"),
        {"mfma": mfma} if mfma else {},
    )


def _run(*command: object) -> str:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True
    ).stdout
