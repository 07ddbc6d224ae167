"""The gate of the CUDA kernels, without a compiler: what it reads, and what it finds wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitkern.bench.gpu import cuda_gate
from vitkern.bench.gpu.cuda_gate import Compiled

USAGE = """
Fatbin elf code:
================
arch = sm_80
Resource usage:
 Function one:
  REG:40 STACK:16 SHARED:128 LOCAL:0 CONSTANT[0]:560 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_90
Resource usage:
 Function one:
  REG:48 STACK:0 SHARED:128 LOCAL:0 CONSTANT[0]:560 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
CODE = {
    "sm_80": """
\t\tFunction : one
        /*0000*/                   STL [R1], R2 ;                 /* 0x0 */
        /*0010*/              @!P0 LDL R2, [R1] ;                 /* 0x0 */
        /*0020*/                   LDG.E R1, desc[UR4][R2.64] ;   /* 0x0 */
""",
    "sm_90": """
\t\tFunction : one
        /*0000*/                   HMMA.16816.F32.BF16 R4, R8, R10, R4 ;   /* 0x0 */
        /*0010*/                   FFMA R4, R8, R10, R4 ;                  /* 0x0 */
""",
}
NAME = "void vitkern::gemm_kernel<vitkern::Tiling<__nv_bfloat16, 4, true> >(vitkern::X<float>)"


def test_reads_what_machine_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*command: object) -> str:
        return USAGE if "--dump-resource-usage" in command else CODE[str(command[3])]

    monkeypatch.setattr(cuda_gate, "_run", run)
    monkeypatch.setattr(cuda_gate, "_demangled", lambda names: dict.fromkeys(names, NAME))
    variant = "gemm_kernel<Tiling<__nv_bfloat16, 4, true> >"
    assert cuda_gate.read(Path("cuobjdump"), Path("gemm.o")) == [
        Compiled("gemm_kernel", variant, "bfloat16", "sm_80", 40, 128, 2, 0),
        Compiled("gemm_kernel", variant, "bfloat16", "sm_90", 48, 128, 0, 1),
    ]


def _kernel(registers: int = 40, spills: int = 0, matrix: int = 4) -> Compiled:
    return Compiled(
        "gemm_kernel", "gemm_kernel<A>", "float16", "sm_90", registers, 0, spills, matrix
    )


def test_limits() -> None:
    limits = cuda_gate.limits_of([_kernel(), _kernel(60, matrix=8)])
    assert limits == {
        "gemm_kernel float16": {"registers": 60, "shared": 0, "spills": 0, "matrix": 4}
    }

    def beyond(*kernels: Compiled) -> list[str]:
        return cuda_gate.beyond(cuda_gate.limits_of(kernels), limits)

    assert beyond(_kernel(65)) == []
    assert "needs 70 registers" in beyond(_kernel(70))[0]
    assert "without a matrix instruction" in beyond(_kernel(), _kernel(matrix=0))[0]
    other = Compiled("new_kernel", "new_kernel<A>", "", "sm_90", 9, 0, 0, 0)
    assert ["not in the limits file" in line for line in beyond(_kernel(), other)] == [True]
    assert "limits file" in beyond(other)[-1]


def test_a_spill_is_a_fault_unless_it_is_known(tmp_path: Path) -> None:
    assert cuda_gate._judge([_kernel()], "13.0", tmp_path, None) == 0
    limits = tmp_path / "cuda-limits.json"
    assert cuda_gate._judge([_kernel()], "13.0", None, limits) == 0
    assert cuda_gate._judge([_kernel(spills=2)], "13.0", None, limits) == 1
    assert "| `gemm_kernel float16` | 1 |" in (tmp_path / "cuda-kernels.md").read_text()
    assert cuda_gate._judge([_kernel(spills=2)], "13.0", tmp_path, None) == 0
    assert cuda_gate._judge([_kernel(spills=2)], "13.0", None, limits) == 0
    assert cuda_gate._judge([], "13.0", None, None) == 1
