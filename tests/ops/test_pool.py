"""Memory of large outputs, which is kept and handed out again."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
from collections.abc import Iterator

import pytest
import torch

from tests.ops.harness import kernels
from vitkern import ops
from vitkern.ops import _cpu

# from_blob with a deleter, which the pool needs, is in torch 2.11 and later.
pytestmark = pytest.mark.skipif(
    not kernels("linear") or torch.__version__ < "2.11", reason="no library, or a torch before 2.11"
)
WEIGHT = torch.nn.Parameter(torch.eye(64), requires_grad=False)
ROWS = 4096  # 1 MiB of output


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    _cpu.release_pool()
    yield
    _cpu.release_pool()


def output(value: float, rows: int = ROWS) -> torch.Tensor:
    return ops.linear(torch.full((rows, 64), value), WEIGHT, backend="cpu")


def test_memory_is_used_again_and_results_are_not_touched() -> None:
    first = output(1.0)
    address = first.data_ptr()
    held = [output(float(i)) for i in range(2, 6)]
    assert len({t.data_ptr() for t in (first, *held)}) == 5
    assert _cpu.pooled_bytes() == 0
    del first
    assert _cpu.pooled_bytes() == ROWS * 64 * 4
    again = output(9.0)
    assert again.data_ptr() == address and _cpu.pooled_bytes() == 0
    for value, tensor in zip((9, 2, 3, 4, 5), (again, *held), strict=True):
        assert (tensor == value).all()


def test_a_view_keeps_the_memory() -> None:
    whole = output(3.0)
    view = whole[5:9, :2].T
    del whole
    assert _cpu.pooled_bytes() == 0
    output(4.0)
    assert (view == 3.0).all()


def test_small_outputs_are_not_pooled() -> None:
    output(1.0, rows=100)
    assert _cpu.pooled_bytes() == 0


def test_keeps_no_more_than_was_in_use_at_once_lately() -> None:
    many = [output(1.0) for _ in range(8)]
    size = many[0].nbytes
    del many
    assert _cpu.pooled_bytes() == 8 * size
    for _ in range(2000):  # two windows and more
        output(1.0)
    assert _cpu.pooled_bytes() == size
    for rows in range(ROWS, 2 * ROWS, 256):  # sizes that never come back
        output(1.0, rows=rows)
        assert _cpu.pooled_bytes() <= 2 * size
    _cpu.release_pool()
    assert _cpu.pooled_bytes() == 0


def test_tensors_that_outlive_a_release() -> None:
    held = output(7.0)
    _cpu.release_pool()
    other = output(8.0)
    assert (held == 7.0).all() and held.data_ptr() != other.data_ptr()
    del held, other
    _cpu.release_pool()
    assert _cpu.pooled_bytes() == 0


def test_callers_at_once() -> None:
    wrong = []

    def run(value: float) -> None:
        for _ in range(50):
            tensors = [output(value + i) for i in range(3)]
            if any((t != value + i).any() for i, t in enumerate(tensors)):
                wrong.append(value)

    threads = [threading.Thread(target=run, args=(10.0 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_like_any_other_tensor() -> None:
    tensor = output(2.0)
    assert tensor.is_contiguous() and tensor.device.type == "cpu" and not tensor.requires_grad
    for other in (copy.deepcopy(tensor), pickle.loads(pickle.dumps(tensor)), tensor.clone()):
        assert torch.equal(other, tensor)
    tensor.mul_(2.0)
    assert (tensor == 4.0).all() and (torch.from_numpy(tensor.numpy()) == 4.0).all()
    assert tensor.share_memory_().is_shared() and (tensor == 4.0).all()


def test_gradients_in_pooled_memory() -> None:
    x = torch.randn(ROWS, 64, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(64, 64) / 8)
    for _ in range(3):
        x.grad = weight.grad = None
        ops.linear(x, weight, backend="cpu", activation="gelu").sum().backward()
        dx, dweight = x.grad, weight.grad
        expected = torch.autograd.grad(
            ops.linear(x, weight, backend="eager", activation="gelu").sum(), (x, weight)
        )
        assert torch.allclose(dx, expected[0], atol=1e-5)
        assert torch.allclose(dweight, expected[1], rtol=1e-4, atol=1e-2)


def test_what_a_training_step_held_is_not_all_kept() -> None:
    held = [output(1.0, rows=1 << 18) for _ in range(5)]  # 64 MiB each
    held.clear()
    assert 0 < _cpu.pooled_bytes() <= 256 << 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    """Threads take and give memory while this one forks children that drop a tensor."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            output(1.0, rows=1024)

    held = output(2.0)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # kills it
                del held
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        done.set()
        for thread in threads:
            thread.join()
