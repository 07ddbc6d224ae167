"""``use_backend``: nesting, errors, threads, tasks, and code that torch.compile made."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.dispatch.toy import ToyCall
from vitkern import UnknownBackend, ops, use_backend
from vitkern.dispatch import OPERATORS, Operator, active_backend, check_backend_name, override


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_nesting_restores() -> None:
    assert active_backend() is None
    with use_backend("eager"):
        with use_backend("cpu"):
            assert active_backend() == "cpu"
            with use_backend(None):
                assert active_backend() is None
            assert active_backend() == "cpu"
        assert active_backend() == "eager"
    assert active_backend() is None


def test_an_error_in_the_block_restores() -> None:
    with pytest.raises(KeyError), use_backend("eager"):
        raise KeyError
    assert active_backend() is None


def test_blocks_of_two_threads_may_end_at_once() -> None:
    entered, may_leave, before = threading.Event(), threading.Event(), sys.gettrace()

    def work() -> None:
        with use_backend("eager"):
            entered.set()
            assert may_leave.wait(60)

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        # Where a step of leaving ends. A lock may keep the other one waiting: not for ever.
        code = frame.f_code
        leaving = code.co_filename == override.__file__ and code.co_name in ("leave", "<genexpr>")
        if event == "return" and leaving and not may_leave.is_set():
            may_leave.set()
            other.join(1)
        return trace

    other = threading.Thread(target=work)
    other.start()
    assert entered.wait(60)
    block = use_backend("cpu")
    block.__enter__()
    sys.settrace(trace)
    try:
        block.__exit__(None, None, None)
    finally:
        sys.settrace(before)
        may_leave.set()
        other.join(60)
    assert active_backend() is None
    assert override._TRACED.backend is None


def test_works_as_a_decorator() -> None:
    @use_backend("eager")
    def function() -> str | None:
        return active_backend()

    assert [function(), function()] == ["eager", "eager"]
    assert active_backend() is None


@pytest.mark.parametrize(
    "name, error", [("gpu2", UnknownBackend), (1, TypeError), ("", ValueError)]
)
def test_bad_names(name: object, error: type[Exception]) -> None:
    with pytest.raises(error), use_backend(name):  # type: ignore[arg-type]
        pytest.fail("the block ran")
    assert active_backend() is None


def test_none_is_a_good_name() -> None:
    check_backend_name(None)


def test_other_threads_are_not_affected() -> None:
    seen: list[str | None] = []
    with use_backend("eager"):
        thread = threading.Thread(target=lambda: seen.append(active_backend()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_other_tasks_are_not_affected() -> None:
    async def task(name: str) -> str | None:
        with use_backend(name):
            await asyncio.sleep(0)
            return active_backend()

    async def both() -> list[str | None]:
        return list(await asyncio.gather(task("eager"), task("cpu")))

    assert asyncio.run(both()) == ["eager", "cpu"]


def test_backward_outside_of_the_block(toy: Operator[ToyCall]) -> None:
    """The backend of forward is the backend of backward, wherever that runs."""
    x = torch.zeros(2, requires_grad=True)
    with use_backend("double"):
        out = toy(ToyCall(x, None, "a"))
    with use_backend("eager"):
        out.sum().backward()
    assert x.grad is not None
    assert x.grad.eq(10).all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_compiled_code_follows_the_block(
    toy: Operator[ToyCall], fresh_compiler: None, monkeypatch: pytest.MonkeyPatch, mirrored: bool
) -> None:
    """No stale choice: the value of ``use_backend`` is part of what compiled code is valid for."""
    if override._CANNOT_TRACE and not mirrored:
        pytest.skip("this torch cannot trace context variables")
    monkeypatch.setattr(override, "_CANNOT_TRACE", mirrored)
    counter = CompileCounterWithBackend("eager")

    @torch.compile(fullgraph=True, backend=counter)
    def function(x: torch.Tensor) -> torch.Tensor:
        return toy(ToyCall(x, None, "a"))

    x = torch.zeros(2)
    assert function(x).eq(2).all()
    with use_backend("eager"):
        assert function(x).eq(1).all()
        with use_backend("double"):
            assert function(x).eq(2).all()
        assert function(x).eq(1).all()
    assert function(x).eq(2).all()
    assert counter.frame_count == 3  # none, "eager" and "double", each compiled once


def test_the_mirror_is_right_however_threads_end_their_blocks() -> None:
    """Blocks of two threads overlap, and the one that was entered first ends first."""
    other_in, main_in, other_out = threading.Event(), threading.Event(), threading.Event()

    def other() -> None:
        with use_backend("eager"):
            other_in.set()
            main_in.wait(10)
        other_out.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert other_in.wait(10)
    with use_backend("cpu"):
        main_in.set()
        assert other_out.wait(10)
        assert override._TRACED.backend == "cpu"
    thread.join()
    assert override._TRACED.backend is None


def test_compiled_code_with_the_block_inside(toy: Operator[ToyCall], fresh_compiler: None) -> None:
    """Dynamo cannot trace the block, so it breaks the graph there, and the choice holds."""

    @torch.compile(backend="eager")
    def function(x: torch.Tensor) -> torch.Tensor:
        with use_backend("eager"):
            x = toy(ToyCall(x, None, "a"))
        return toy(ToyCall(x, None, "a"))

    assert function(torch.zeros(2)).eq(3).all()


def test_compiled_code_with_an_argument(fresh_compiler: None) -> None:
    """``backend=`` in one graph, beside another choice."""
    counter = CompileCounterWithBackend("eager")

    @torch.compile(fullgraph=True, backend=counter)
    def function(x: torch.Tensor) -> torch.Tensor:
        return ops.layer_norm(ops.layer_norm(x), backend="eager")

    x = torch.randn(3, 16)
    with torch.no_grad():
        torch.testing.assert_close(function(x), ops.layer_norm(ops.layer_norm(x)))
    (graph,) = counter.graphs
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    kernels = sum("vitkern_cpu" in target for target in targets)
    takes = not OPERATORS["layer_norm"].backends["cpu"].available()
    assert kernels == (1 if takes else 0)
