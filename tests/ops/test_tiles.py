"""Products in tile registers (AMX), which threads and processes share with other libraries."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest
import torch

from tests.ops.harness import on_isa
from vitkern import ops
from vitkern.ops import _cpu
from vitkern.ops.weights import Bfloat16Weight, ConvertedWeight, Int8Weight

FORMS: dict[str, Callable[[torch.Tensor], ConvertedWeight]] = {
    "bfloat16": Bfloat16Weight,
    "int8": lambda w: Int8Weight(w, -127.0, 128.0),
}
needs_tiles = pytest.mark.skipif("amx" not in _cpu.isas(), reason="no AMX here")


def whole(*shape: int, most: int, seed: int = 0) -> torch.Tensor:
    """Whole numbers whose products are exact in every form."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=generator).float()


def weight_of(width: int, inputs: int) -> torch.nn.Parameter:
    w = whole(width, inputs, most=63)
    w[:, 0] = 127.0  # so that the scale of int8 is 1
    w[:, 1:2] = 0.0
    return torch.nn.Parameter(w, requires_grad=False)


def example(form: str) -> tuple[torch.Tensor, ConvertedWeight, torch.Tensor]:
    """Arguments of a product with tails on every side, and its exact result."""
    x, w = whole(45, 70, most=100), weight_of(50, 70)
    return x, FORMS[form](w), (x.double() @ w.double().T).float()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("isa", _cpu.isas())
@torch.no_grad()
def test_every_tail_is_exact(isa: str, form: str) -> None:
    """Rows, columns and K around whole registers, whole squares of registers, and several."""
    shapes = [(rows, 64, 32) for rows in (1, 15, 16, 17, 31, 32, 33, 48, 49, 160, 161, 200)]
    shapes += [(33, inputs, 40) for inputs in (1, 2, 31, 32, 33, 63, 64, 65, 96, 127, 400)]
    shapes += [(33, 70, width) for width in (1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 96)]
    with on_isa(isa):
        for rows, inputs, width in shapes:
            x, w = whole(rows, inputs, most=100), weight_of(width, inputs)
            y = ops.linear(x, FORMS[form](w), backend="cpu")
            assert torch.equal(y, (x.double() @ w.double().T).float()), (rows, inputs, width)
            if form == "bfloat16":
                y = ops.linear(x.bfloat16(), w.bfloat16(), backend="cpu")
                exact = x.double() @ w.bfloat16().double().T
                assert torch.equal(y, exact.float().bfloat16()), (rows, inputs, width)


@needs_tiles
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_torch_multiplies_on_the_same_thread(form: str) -> None:
    """PyTorch's products in bfloat16 use the same registers, in another shape."""
    x, weight, exact = example(form)
    a, b = whole(70, 90, most=7).bfloat16(), whole(90, 40, most=7).bfloat16()
    product = (a.double() @ b.double()).bfloat16()
    q = torch.randn(2, 3, 50, 64).bfloat16()
    attended = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    with on_isa("amx"):
        for _ in range(50):
            assert torch.equal(ops.linear(x, weight, backend="cpu"), exact)
            assert torch.equal(a @ b, product)
            assert torch.equal(ops.linear(x, weight, backend="cpu"), exact)
            again = torch.nn.functional.scaled_dot_product_attention(q, q, q)
            assert torch.equal(again, attended)


@needs_tiles
@torch.no_grad()
def test_threads_have_registers_of_their_own() -> None:
    cases, wrong = [example(form) for form in FORMS], []

    def work() -> None:
        with torch.no_grad():
            for i in range(200):
                x, weight, exact = cases[i % len(cases)]
                if not torch.equal(ops.linear(x, weight, backend="cpu"), exact):
                    wrong.append(i)

    with on_isa("amx"):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not wrong


@needs_tiles
@pytest.mark.skipif(torch.get_num_threads() > 1, reason="OpenMP's threads do not survive a fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@torch.no_grad()
def test_a_forked_child_may_use_them() -> None:
    x, weight, exact = example("bfloat16")
    with on_isa("amx"):
        assert torch.equal(ops.linear(x, weight, backend="cpu"), exact)
        child = os.fork()
        if child == 0:
            right = torch.equal(ops.linear(x, weight, backend="cpu"), exact)
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
