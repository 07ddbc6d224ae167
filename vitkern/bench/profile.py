"""Where a model's time goes: time, operations, bytes and share of the peak by operator.

Operators are timed from outside, one by one, in the order in which the model calls them (PyTorch
runs them in the calling thread, backward too). Whole passes are timed between, without the
profiler: what they take longer than their operators is Python, dispatch and autograd.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitkern.bench.contention import Contention, Meter
from vitkern.bench.operator_flops import call_flops, named_arguments
from vitkern.bench.peak import Peak
from vitkern.bench.timing import Plan, interleave, summarize

__all__ = ["Cost", "Profile", "profile", "total"]


@dataclass(frozen=True)
class Cost:
    """What some calls of an operator cost in one pass.

    Attributes:
        op: ``namespace::name`` of the operator.
        module: the innermost module with all parameters of the call; "" where it takes none.
        calls: how many there were.
        seconds: their time, the median of the passes.
        flops: operations of their matrix products.
        bytes: what they had to read and write at least: every argument and every result once.
    """

    op: str
    module: str
    calls: int
    seconds: float
    flops: int
    bytes: int

    def share(self, peak: float | None) -> float | None:
        """Share of a peak in FLOP/s; None where there is nothing to compare."""
        return self.flops / self.seconds / peak if peak and self.flops and self.seconds else None


@dataclass(frozen=True)
class Profile:
    """A profiled pass.

    Attributes:
        calls: every call in order; those that only make views are left out.
        seconds: of a whole pass without the profiler, the median.
        peak: FLOP/s of multiply-adds in ``form``, or None where there is no library to measure it.
        reason: why there is no peak.
        contention: what other processes used meanwhile, or None where that is not known.
        form: of the model's products, one of :data:`vitkern.bench.peak.FORMS`. What stays in
            float32 (patch embedding, head) has its share of the same peak.
    """

    calls: tuple[Cost, ...]
    seconds: float
    peak: float | None
    reason: str | None
    contention: Contention | None = None
    form: str = "float32"

    def by_op(self) -> list[Cost]:
        """Totals by operator, the longest first."""
        groups: dict[str, list[Cost]] = defaultdict(list)
        for call in self.calls:
            groups[call.op].append(call)
        totals = [total(op, calls) for op, calls in groups.items()]
        return sorted(totals, key=lambda cost: -cost.seconds)

    def outside(self) -> float:
        """Seconds of a pass in no operator: Python, dispatch, autograd."""
        return max(0.0, self.seconds - sum(call.seconds for call in self.calls))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""

        def plain(cost: Cost) -> dict[str, Any]:
            return {**vars(cost), "share": cost.share(self.peak)}

        return {
            "seconds": self.seconds,
            "peak": self.peak,
            "form": self.form,
            "reason": self.reason,
            "contention": self.contention and self.contention.to_dict(),
            "outside": self.outside(),
            "ops": [plain(cost) for cost in self.by_op()],
            "calls": [plain(cost) for cost in self.calls],
        }


def total(op: str, costs: Iterable[Cost]) -> Cost:
    """The sum of some costs, under the name ``op``."""
    costs = list(costs)
    return Cost(
        op,
        "",
        sum(cost.calls for cost in costs),
        sum(cost.seconds for cost in costs),
        sum(cost.flops for cost in costs),
        sum(cost.bytes for cost in costs),
    )


@dataclass(frozen=True)
class _Call:
    op: str
    module: str
    seconds: float
    flops: int
    bytes: int


class _Recorder(TorchDispatchMode):
    """Times the operators below it.

    Hooks would tell which module is running, but a patched block with hooks inside does not fuse;
    parameters tell as much.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self._owners = {
            parameter.data_ptr(): name.rpartition(".")[0]
            for name, parameter in model.named_parameters()
            if parameter.numel()
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Under inference_mode, composite operators (linear, matmul) arrive whole.
        if func._schema.name.startswith("aten::"):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        start = time.perf_counter()
        out = func(*args, **kwargs)
        seconds = time.perf_counter() - start
        if not _is_view(func):
            arguments = named_arguments(func, args, kwargs)
            self.calls.append(
                _Call(
                    func._schema.name,
                    self._module(arguments),
                    seconds,
                    call_flops(func, arguments, out),
                    _bytes(arguments) + _size(tree_leaves(out)),
                )
            )
        return out

    def _module(self, arguments: dict[str, Any]) -> str:
        owners = [
            self._owners[value.data_ptr()].split(".")
            for value in tree_leaves(list(arguments.values()))
            if isinstance(value, torch.Tensor) and value.data_ptr() in self._owners
        ]
        if not owners:
            return ""
        shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*owners, strict=False))
        return ".".join(parts[0] for parts in shared)


def _is_view(func: torch._ops.OpOverload) -> bool:
    """Whether the result is the argument's memory, unchanged."""
    returns = func._schema.returns
    return bool(returns) and all(
        one.alias_info is not None and not one.alias_info.is_write for one in returns
    )


def _bytes(arguments: dict[str, Any]) -> int:
    """Of the tensors among the arguments; a weight with a packed form beside it is not read."""
    unread = {
        name.replace("packed", "weight")
        for name, value in arguments.items()
        if "packed" in name and value is not None
    }
    return _size(tree_leaves([v for name, v in arguments.items() if name not in unread]))


def _size(values: Iterable[Any]) -> int:
    return sum(
        value.numel() * value.element_size() for value in values if isinstance(value, torch.Tensor)
    )


def profile(
    model: nn.Module,
    run: Callable[[], object],
    plan: Plan | None = None,
    *,
    form: str = "float32",
) -> Profile:
    """Profile ``run``, a pass of ``model`` that always makes the same calls.

    Args:
        model: gives modules their names.
        run: one pass, as :func:`vitkern.bench.passes.make_pass` makes them.
        plan: how many passes; None is ``Plan()``.
        form: of the model's products: whose peak shares are of.

    Raises:
        ValueError: there is no such form.
        RuntimeError: two passes made different calls.
    """
    peak, meter = Peak(form=form), Meter()
    passes: list[list[_Call]] = []

    def between() -> None:
        peak.sample()
        meter.sample()
        passes.append(_record(model, run))

    whole = interleave({"pass": run}, plan, between=between)
    rates = [1e9 * sample for sample in peak.samples if sample > 0.0]
    return Profile(
        tuple(_merge(passes)),
        whole.summary("pass").median,
        summarize(rates).median if rates else None,
        peak.reason,
        meter.result(),
        form,
    )


def _record(model: nn.Module, run: Callable[[], object]) -> list[_Call]:
    with _Recorder(model) as recorder:
        run()
    return recorder.calls


def _merge(passes: list[list[_Call]]) -> Iterable[Cost]:
    first = passes[0]
    if any([call.op for call in one] != [call.op for call in first] for one in passes):
        raise RuntimeError("the passes made different calls: there is nothing to average")
    for calls in zip(*passes, strict=True):
        one = calls[0]
        seconds = summarize([call.seconds for call in calls]).median
        yield Cost(one.op, one.module, 1, seconds, one.flops, one.bytes)
