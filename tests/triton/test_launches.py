"""Compiled launches without a GPU: a plan gives Triton's launcher what Triton itself gave it.

A stand-in for the driver notes what reaches the launcher; kernels are compiled for sm_90 and not
run. What it cannot show is that a GPU takes them.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from vitkern import ops
from vitkern.ops._plans import Plan
from vitkern.ops._triton import availability, gemm, kernel
from vitkern.ops._triton.operator import TRITON
from vitkern.ops._triton.targets import TARGETS

triton = pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(availability.interpreted(), reason="the interpreter launches"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU launches: tests/ops has the same"),
]

Launches = list[tuple[Any, ...]]


class Driver:
    """As much of a driver as a launch needs: an H100 that does nothing."""

    def __init__(self) -> None:
        self.launches: Launches = []
        self.utils = self

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        def launch(x: int, y: int, z: int, stream: int, function: int, *rest: Any) -> None:
            # Of the compiler, for a profiler, and two hooks of it; then the kernel's arguments.
            values = rest[4:]
            assert len(values) == len(source.fn.arg_names)
            self.launches.append((metadata.name, (x, y, z), stream, function, values))

        return launch

    def load_binary(self, *arguments: Any) -> tuple[int, ...]:
        """Module, function, registers, spills, threads."""
        return 1, 2, 32, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32}

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> Any:
        compiler = importlib.import_module("triton.backends.compiler")
        return compiler.GPUTarget("cuda", 90, 32)


DRIVER = Driver()
"""One: Triton keeps compiled kernels, with the driver that they were loaded by."""


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    """What is launched, on tensors that are the CPU's."""
    driver = importlib.import_module("triton.runtime").driver
    monkeypatch.setattr(availability, "_missing", lambda: None)
    monkeypatch.setattr(availability, "_device_refusals", lambda device: [])
    for module in (kernel, gemm):
        monkeypatch.setattr(module, "target_of", lambda device: TARGETS["h100"])
    forget()
    monkeypatch.setattr(driver, "_active", DRIVER)
    yield DRIVER.launches
    forget()


def forget() -> None:
    for planned in TRITON.planned.values():
        planned.kinds.clear()


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(shape).bfloat16() for shape in shapes]


OPS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "layer_norm": (
        lambda x, w, b: ops.layer_norm(x, w, b, backend="triton"), [(34, 48), (48,), (48,)],
    ),
    "linear": (
        lambda x, w, b: ops.linear(x, w, b, activation="gelu", backend="triton"),
        [(2, 17, 64), (96, 64), (96,)],
    ),
    # The second product is split, and has memory of its own between the two.
    "mlp": (
        lambda x, w1, b1, w2, b2, r: ops.mlp(x, w1, b1, w2, b2, residual=r, backend="triton"),
        [(2, 17, 64), (1024, 64), (1024,), (64, 1024), (64,), (2, 17, 64)],
    ),
    "attention": (
        lambda q, k, v: ops.attention(q, k, v, backend="triton"), [(1, 2, 19, 32)] * 3,
    ),
}  # fmt: skip


def likeness(launches: Launches, given: list[torch.Tensor]) -> list[Any]:
    """Addresses as the places of arguments, or in the order in which other memory comes."""
    names: dict[int, str] = {one.data_ptr(): f"argument {i}" for i, one in enumerate(given)}
    found = []
    for name, grid, stream, function, values in launches:
        row: list[Any] = [name, grid, stream, function]
        for value in values:
            address = value.data_ptr() if isinstance(value, torch.Tensor) else value
            if isinstance(address, int) and address > 1 << 24:
                row.append(names.setdefault(address, f"memory {len(names)}"))
            else:
                row.append(address)
        found.append(row)
    return found


@pytest.mark.parametrize("op", OPS)
def test_a_plan_launches_the_same(op: str, launches: Launches) -> None:
    """Of other tensors too: only addresses differ, and they are at the same places."""
    run, shapes = OPS[op]
    seen = []
    with torch.inference_mode():
        for _ in range(4):
            given = tensors(*shapes)
            launches.clear()
            run(*given)
            seen.append(likeness(launches, given))
            kinds = list(TRITON.planned[op].kinds.values())
    assert [type(kind) for kind in kinds] == [Plan]
    assert seen[0] and len(seen[0]) == (3 if op == "mlp" else 1)
    assert any("argument 0" in row for row in seen[0])
    for later in seen[1:]:
        assert later == seen[0]


BLOCKS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "attention_block": (
        lambda *t: ops.attention_block(*t, num_heads=2, backend="triton"),
        [(2, 17, 64), (64,), (64,), (192, 64), (192,), (64, 64), (64,)],
    ),
    "mlp_block": (
        lambda *t: ops.mlp_block(*t, backend="triton"),
        [(2, 17, 64), (64,), (64,), (256, 64), (256,), (64, 256), (64,)],
    ),
    "window_attention_block": (
        lambda *t: ops.window_attention_block(
            *t, num_heads=2, window_size=7, shift_size=3, backend="triton"
        ),
        [(2, 14, 14, 64), (64,), (64,), (192, 64), (192,), (64, 64), (64,), (169, 2)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("op", BLOCKS)
def test_a_plan_of_a_block_launches_the_same(op: str, launches: Launches) -> None:
    """As the ops that it is composed of, in their order."""
    run, shapes = BLOCKS[op]
    kinds = importlib.import_module(f"vitkern.ops.{op}")._COMPOSED.kinds
    kinds.clear()
    seen = []
    with torch.inference_mode():
        for _ in range(5):
            given = tensors(*shapes)
            launches.clear()
            run(*given)
            seen.append(likeness(launches, given))
    (plan,) = kinds.values()
    kinds.clear()
    assert type(plan) is Plan
    assert len(seen[0]) >= 3
    for later in seen[1:]:
        assert later == seen[0]


@pytest.mark.parametrize("card", [name for name in TARGETS if name != "mi300x"])
def test_a_configuration_fits_every_product(card: str) -> None:
    """Whatever the strides: operands that are not aligned take registers. AMD's is refused."""
    flags = (False, True)
    dtypes = ((2, False), (4, True), (4, False))
    for (itemsize, tf32), of, activation, beside, aligned in itertools.product(
        dtypes, gemm.CLASSES, (0, 1), flags, flags
    ):
        constants = {
            "CLASS": of, "DEPTH": gemm.STEP, "TF32": tf32, "HALF": False, "ALIGNED": aligned,
            "ACTIVATION": activation, "BESIDE": beside, "EVEN_K": False, "SUM_ROWS": 64,
        }  # fmt: skip
        assert gemm.PRODUCT.fitting(TARGETS[card], constants, itemsize)
