"""The compile gate: what it compiles, what it finds fault with, what it writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from vitkern.bench.gpu import gate, tables
from vitkern.bench.gpu.architectures import ARCHITECTURES, MAIN
from vitkern.bench.gpu.compile import Compiled, compile_launch, signature
from vitkern.bench.gpu.launches import of_call, of_models, ops
from vitkern.ops._triton.kernel import config
from vitkern.ops._triton.targets import TARGETS
from vitkern.ops.layer_norm.call import LayerNormCall

pytest.importorskip("triton")

GOOD = Compiled(
    kernel="linear.product", config="block_m64-warps4-stages3", dtype="bfloat16", constants="",
    architecture=MAIN, registers=128, shared=65536, spills=0, matrix={"wgmma": 4},
    tensor_cores=True, seconds=0.5,
)  # fmt: skip


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"spills": 3}, "spills registers (3 instructions)"),
        ({"shared": 232449}, "needs 232449 bytes of shared memory; NVIDIA H100 SXM has 232448"),
        ({"matrix": {}}, "has no matrix instruction"),
    ],
)
def test_faults(change: dict[str, object], fault: str) -> None:
    assert gate.faults(GOOD) == []
    assert gate.faults(dataclasses.replace(GOOD, **change)) == [fault]  # type: ignore[arg-type]


def test_products_in_float32_need_no_tensor_core() -> None:
    assert gate.faults(dataclasses.replace(GOOD, dtype="float32", matrix={})) == []


def test_limits_are_of_the_main_architecture_and_leave_a_tenth() -> None:
    other = dataclasses.replace(GOOD, architecture="sm_80", registers=255)
    larger = dataclasses.replace(GOOD, registers=140, shared=70000)
    limits = gate.limits_of([GOOD, other, larger])
    assert limits == {"linear.product bfloat16": {"registers": 140, "shared": 70000}}
    assert gate.excesses({"linear.product bfloat16": {"registers": 154, "shared": 1}}, limits) == []
    (excess,) = gate.excesses({"linear.product bfloat16": {"registers": 155, "shared": 1}}, limits)
    assert excess == ("linear.product bfloat16 needs 155 registers; the limit is 140, plus a tenth")
    (unknown,) = gate.excesses({"linear.new bfloat16": {"registers": 1, "shared": 1}}, limits)
    assert "is not in the limits file" in unknown


def test_tables(tmp_path: Path) -> None:
    gfx = dataclasses.replace(GOOD, architecture="gfx942", registers=90, matrix={"mfma": 8})
    more = dataclasses.replace(GOOD, config="other", registers=160)
    compiled = [GOOD, more, gfx]
    tables.write(tmp_path, compiled, gate.limits_of(compiled))
    limits = json.loads((tmp_path / "triton-limits.json").read_text())
    assert limits["kernels"]["linear.product bfloat16"]["registers"] == 160
    text = (tmp_path / "triton-kernels.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| `linear.product`"))
    assert "128 to 160 registers, 64 KB, wgmma" in row
    assert "90 registers, 64 KB, mfma" in row
    assert row.count("not compiled") == len(ARCHITECTURES) - 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "triton-kernels.md",
        "triton-limits.json",
    ]


def test_every_op_with_the_backend_launches_something_in_both_directions() -> None:
    found = {(source.op, source.dtype) for source in of_models(TARGETS["h100"])}
    assert found == {(op, dtype) for op in ops() for dtype in ("bfloat16", "float16", "float32")}
    assert len(ops()) >= 1


def test_jobs_cover_every_kernel_on_every_architecture() -> None:
    kernels = {source.launch.kernel.name for source in of_models(TARGETS["h100"])}
    for name in ARCHITECTURES:
        jobs = [job for job in gate.jobs() if job.architecture.name == name]
        assert {job.source.launch.kernel.name for job in jobs} == kernels


def test_configurations_fit_each_architecture() -> None:
    for job in gate.jobs():
        launch = job.source.launch
        needs = launch.kernel.model(
            {**launch.constants, **dict(job.config.constants)},
            getattr(torch, job.source.dtype).itemsize,
        )
        assert needs.shared <= job.architecture.bounds.shared


def _norm(width: int = 768) -> LayerNormCall:
    x = torch.empty(8, width, device="meta", dtype=torch.bfloat16)
    weight = torch.empty(width, device="meta", dtype=torch.bfloat16)
    return LayerNormCall(x, weight, weight, 1e-6, None)


def test_signature_is_what_triton_specialises() -> None:
    (launch,) = of_call("layer_norm", _norm(), TARGETS["h100"], train=False)
    found = {name: rest for name, *rest in signature(launch, launch.config)}
    assert found["X"] == ["*bf16", None, True]
    assert found["STATS"] == ["*fp32", None, True]
    assert found["RESIDUAL"] == ["constexpr", None, False]
    assert found["width"] == ["i32", None, True]
    assert found["rows"] == ["i32", None, False]
    assert found["x_column"] == ["constexpr", 1, False]
    assert found["BLOCK_C"] == ["constexpr", 1024, False]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles(architecture: str) -> None:
    (launch,) = of_call("layer_norm", _norm(), TARGETS["h100"], train=False)
    made = compile_launch(launch, launch.config, ARCHITECTURES[architecture], "bfloat16")
    assert gate.faults(made) == []
    assert 16 <= made.registers <= 255
    assert made.architecture == architecture


def test_what_does_not_compile_is_named() -> None:
    (launch,) = of_call("layer_norm", _norm(), TARGETS["h100"], train=False)
    with pytest.raises(RuntimeError, match=r"^layer_norm.forward block_r3-warps4-stages1 does not"):
        compile_launch(launch, config(4, 1, BLOCK_R=3), ARCHITECTURES[MAIN])


def test_spills_are_seen() -> None:
    """A configuration that the resource model prunes does spill, and the gate sees it."""
    (launch,) = of_call("layer_norm", _norm(16384), TARGETS["h100"], train=False)
    one = config(1, 1, BLOCK_R=1)
    assert one not in launch.candidates
    made = compile_launch(launch, one, ARCHITECTURES[MAIN], "bfloat16")
    assert made.spills > gate.SPILLS
    assert gate.faults(made)
