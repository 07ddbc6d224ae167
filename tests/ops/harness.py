"""Compares every backend of every op with the reference in float64.

A backend passes where its largest error is at most twice that of eager PyTorch in the same dtype:
the bound adapts to shapes and dtypes, and no table of tolerances can rot.

``VITKERN_TEST_DEVICE`` (default: ``cpu``) is the device that calls are on: with ``cuda`` the same
tests hold the GPU's backends to the same bound. Values are drawn on the CPU, so they are the same
everywhere, and moved with their strides.

With ``VITKERN_TEST_CUDA_EMULATED=1`` the CUDA kernels are among the backends, on the CPU.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from vitkern import ops
from vitkern.dispatch import OPERATORS
from vitkern.ops import _cpu, _epilogue

BLOCKS = tuple(name for name in sorted(ops.__all__) if name.endswith("_block"))
"""Fused halves of blocks: for inference, with tests of their own."""
OPS = tuple(name for name in sorted(ops.__all__) if name not in BLOCKS)
"""All other public ops."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("natural", "padded", "transposed")
VIEWS = (*LAYOUTS, "permuted", "sliced", "expanded")
"""All that :func:`arrange` knows. ``expanded`` keeps the values of the first of each only."""

# What is allowed beyond twice eager's error, in units of the last place of the largest value. On
# small tensors eager can be exact by luck (a sum of three, a softmax over one key), while another
# order of the same operations is off by a rounding or two. Half-precision results are rounded once
# from float32, whatever the order, so one unit is enough there.
UNITS = {torch.float32: 4.0, torch.bfloat16: 1.0, torch.float16: 1.0}

EMULATED = os.environ.get("VITKERN_TEST_CUDA_EMULATED") == "1"
if EMULATED:
    import vitkern.testing  # noqa: F401 - registers the backend

DEVICE = torch.device(os.environ.get("VITKERN_TEST_DEVICE") or "cpu")
ON_GPU = DEVICE.type == "cuda"
if ON_GPU:
    # Eager's error is the bound, and must be that of float32: convolutions are in tf32 by default.
    torch.backends.cudnn.allow_tf32 = False
    # Without it cuBLAS is an error in deterministic mode, which ``poisoned`` needs.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def reference(op: str) -> Callable[[Any], Any]:
    return importlib.import_module(f"vitkern.ops.{op}.reference").reference


def kernels(op: str) -> list[str]:
    """The backends that can run here and are not eager PyTorch."""
    return [
        name
        for name, backend in OPERATORS[op].backends.items()
        if name != "eager" and backend.available() is None and not backend.supports(small(op))
    ]


def backends(op: str) -> list[str]:
    """The backends to test: the kernels; where there are none, eager tests the tests."""
    return kernels(op) or ["eager"]


@functools.cache
def dtypes(op: str, backend: str) -> tuple[torch.dtype, ...]:
    """Those of DTYPES that the backend takes: it is asked."""
    call, supports = small(op), OPERATORS[op].backends[backend].supports
    return tuple(
        dtype for dtype in DTYPES if not supports(convert(call, lambda t, d=dtype: t.to(d)))
    )


def pairs(*names: str) -> pytest.MarkDecorator:
    """Parametrises a test by ``op, backend``, of these ops or of all."""
    return pytest.mark.parametrize(
        "op, backend", [(op, backend) for op in names or OPS for backend in backends(op)]
    )


def triples(*names: str) -> pytest.MarkDecorator:
    """Parametrises a test by ``op, backend, dtype``, of these ops or of all."""
    return pytest.mark.parametrize(
        "op, backend, dtype",
        [
            pytest.param(op, backend, dtype, id=f"{op}-{backend}-{short(dtype)}")
            for op in names or OPS
            for backend in backends(op)
            for dtype in dtypes(op, backend)
        ],
    )


def of(op: str) -> pytest.MarkDecorator:
    """Parametrises a test of one op by ``backend, dtype``."""
    return pytest.mark.parametrize(
        "backend, dtype",
        [
            pytest.param(backend, dtype, id=f"{backend}-{short(dtype)}")
            for backend in backends(op)
            for dtype in dtypes(op, backend)
        ],
    )


def short(dtype: torch.dtype) -> str:
    """``float32`` and so on, for names of tests."""
    return str(dtype).removeprefix("torch.")


def isas(backend: str) -> list[str | None]:
    """Instruction sets to test a backend on, beside the one it chooses itself."""
    if backend != "cpu":
        return []
    return [isa for isa in _cpu.isas() if isa != torch.ops.vitkern_cpu.isa()]


@contextmanager
def on_isa(isa: str | None) -> Iterator[None]:
    with nullcontext() if isa is None else _cpu.use_isa(isa):
        yield


def cases(op: str, *tags: str) -> list[Any]:
    """The op's cases that have any of the tags; all without tags."""
    table = importlib.import_module(f"vitkern.ops.{op}.cases").CASES
    return [case for case in table if not tags or set(tags) & set(case.tags)]


def make(op: str, case: Any, dtype: torch.dtype = torch.float32, seed: int = 1) -> Any:
    """The call of a case, on DEVICE."""
    generator = torch.Generator().manual_seed(seed)
    call = importlib.import_module(f"vitkern.ops.{op}.cases").make(case, dtype, "cpu", generator)
    if getattr(case, "activation", None) == "relu":
        call = _exact_products(call)
    return place(call)


def place(call: Any, device: torch.device = DEVICE) -> Any:
    """The call with all its tensors on a device, with the strides and offsets that they have."""
    if device.type == "cpu":
        return call

    def move(t: torch.Tensor) -> torch.Tensor:
        memory = torch.empty(0, dtype=t.dtype, device=t.device).set_(t.untyped_storage())
        return memory.to(device).as_strided(t.size(), t.stride(), t.storage_offset())

    return call._replace(
        **{name: move(value) for name, value in call._asdict().items() if torch.is_tensor(value)}
    )


def _exact_products(call: Any) -> Any:
    """Small whole numbers for what is multiplied first, and halves for the bias.

    The gradient of relu jumps at 0, so a rounding error of a product there is a large error of
    the gradient, in eager as in any kernel. These products are exact in every dtype.
    """

    def whole(t: torch.Tensor) -> torch.Tensor:
        largest = t.abs().max() if t.numel() else t.new_ones(())
        return (t / largest.clamp_min(1e-3) * 1.99).round().clamp(-1, 1)

    changed = {n: whole(t) for n, t in floating(call).items() if n in ("x", "weight", "weight1")}
    changed |= {n: t.round() + 0.5 for n, t in floating(call).items() if n in ("bias", "bias1")}
    return call._replace(**changed)


def small(op: str) -> Any:
    """Any small call of the op."""
    return make(op, cases(op, "tail")[-1])


def params(
    *tags: str, only: tuple[torch.dtype, ...] = DTYPES, layouts: tuple[str, ...] = LAYOUTS[:1],
    every_isa: bool = False,
) -> list[Any]:  # fmt: skip
    """pytest parameters (op, backend, isa, case, dtype, layout), of dtypes that backends take."""
    return [
        pytest.param(
            op, backend, isa, case, dtype, layout,
            id="-".join(
                filter(None, (op, backend, isa, case.name, short(dtype), layout))
            ),
        )
        for op in OPS
        for backend in backends(op)
        for isa in (isas(backend) if every_isa else [None])
        for case in cases(op, *tags)
        for dtype in dtypes(op, backend) if dtype in only
        for layout in layouts
    ]  # fmt: skip


ARGUMENTS = "op, backend, isa, case, dtype, layout"


def arguments(op: str, call: Any) -> dict[str, Any]:
    """The keyword arguments of the public function that make this call."""
    names = {"window": "window_size", "shift": "shift_size", "pad": "pad_value"}
    values = zip(call._fields, call, strict=True)
    return {names.get(name, name): value for name, value in values if name != "seed"}


def floating(call: Any) -> dict[str, torch.Tensor]:
    """The call's tensors that can have a gradient."""
    return {
        name: value
        for name, value in zip(call._fields, call, strict=True)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }


def convert(call: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The call with ``change`` applied to its floating-point tensors."""
    return call._replace(**{name: change(value) for name, value in floating(call).items()})


def arrange(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in another layout of memory."""
    if layout == "natural" or tensor.dim() == 0:
        return tensor
    if layout == "padded":  # rows further apart than they are long, and not aligned
        wider = tensor.new_full((*tensor.shape[:-1], tensor.shape[-1] + 3), float("nan"))
        wider[..., 1:-2] = tensor
        return wider[..., 1:-2]
    if layout == "permuted":  # the order of all dimensions reversed
        order = tuple(reversed(range(tensor.dim())))
        return tensor.permute(order).contiguous().permute(order)
    if layout == "expanded":  # the same memory again and again; of vectors it would be one number
        repeats = tensor.dim() > 1 and tensor.shape[0] > 0
        return tensor[:1].clone().expand_as(tensor) if repeats else tensor
    if layout == "sliced" or tensor.dim() == 1:  # every other element or slice, not from the first
        spread = tensor.new_full((2 * tensor.shape[0] + 1, *tensor.shape[1:]), float("nan"))
        spread[1::2] = tensor
        return spread[1::2]
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


Layout = str | Mapping[str, str]
"""One for all tensors, or one for each by its field; ``grad`` is that of upstream gradients."""


def layout_of(name: str, layout: Layout) -> str:
    """The layout of one tensor."""
    return layout if isinstance(layout, str) else layout.get(name, "natural")


def arrange_call(call: Any, layout: Layout) -> Any:
    """The call with its floating-point tensors in other layouts of memory."""
    tensors = floating(call).items()
    return call._replace(**{name: arrange(t, layout_of(name, layout)) for name, t in tensors})


def upstream(outputs: tuple[torch.Tensor, ...], layout: str) -> list[torch.Tensor]:
    """Gradients for the outputs, the same for equal shapes and dtypes."""
    generator = torch.Generator().manual_seed(2)
    return [
        arrange(
            torch.randn(out.shape, generator=generator).bfloat16().to(out.device, out.dtype), layout
        )
        for out in outputs
    ]


def evaluate(
    run: Callable[[Any], Any],
    call: Any,
    *,
    grad: bool,
    layout: Layout = "natural",
    needs: Collection[str] | None = None,
) -> dict[str, torch.Tensor]:
    """Outputs ``y0``, ``y1`` ... and, with ``grad``, the gradient ``d<field>`` of tensors.

    Of all that the call has, or of those that ``needs`` names: only they require one.
    """
    if grad:
        wanted = {n: t for n, t in floating(call).items() if needs is None or n in needs}
        call = call._replace(**{n: t.detach().requires_grad_() for n, t in wanted.items()})
    outputs = run(call)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    results = {f"y{i}": out.detach() for i, out in enumerate(outputs)}
    if grad:
        leaves = {name: t for name, t in floating(call).items() if t.requires_grad}
        sent = zip(outputs, upstream(outputs, layout_of("grad", layout)), strict=True)
        # One may depend on none of the leaves: a sum, beside a norm whose weight alone is one.
        received = [(out, grad) for out, grad in sent if out.requires_grad]
        grads = torch.autograd.grad(
            [out for out, _ in received],
            list(leaves.values()),
            [grad for _, grad in received],
            allow_unused=True,
        )
        for (name, leaf), value in zip(leaves.items(), grads, strict=True):
            results[f"d{name}"] = torch.zeros_like(leaf) if value is None else value
    return results


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that a kernel allocates and does not write is NaN."""
    torch.use_deterministic_algorithms(True)  # torch.utils.deterministic fills in this mode only
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def runner(op: str, backend: str) -> Callable[[Any], Any]:
    """The op on a backend, as dispatch runs it."""
    return lambda call: OPERATORS[op](call, backend)


def public(op: str, backend: str | None = None) -> Callable[[Any], Any]:
    """The op's public function, of a call."""
    return lambda call: getattr(ops, op)(**arguments(op, call), backend=backend)


def check(
    op: str,
    backend: str,
    call: Any,
    *,
    grad: bool,
    layout: Layout = "natural",
    needs: Collection[str] | None = None,
    run: Callable[[Any], Any] | None = None,
    poison: bool = True,
    alike: Callable[[], Iterable[Any]] = tuple,
) -> None:
    """Assert that the backend's results are as close to the truth as twice eager's.

    ``run`` is :func:`runner` unless another function of a call is given; for ``grad`` and others
    see :func:`evaluate`. ``alike`` gives calls that differ in their values only: eager's error is
    the largest that it makes in any of them. They are computed where it was too small in the call
    itself, which may be luck if a result has few elements.
    """
    arranged = arrange_call(call, layout)
    # An expanded upstream gradient has other values, so all get the same ones.
    of_grad = layout_of("grad", layout)
    plain = {"grad": of_grad if of_grad == "expanded" else "natural"}
    results = functools.partial(evaluate, grad=grad, needs=needs)
    truth = results(reference(op), convert(call, torch.Tensor.double), layout=plain)
    # Eager's own error depends on the layout: it sums in another order.
    eager = [results(reference(op), call, layout=plain)]
    if layout != "natural":
        eager.append(results(reference(op), arranged, layout=layout))
    run = run or runner(op, backend)
    with poisoned() if poison else nullcontext():
        if poison:  # what kernels keep from call to call is NaN too
            nan = convert(arranged, lambda t: torch.full_like(t, float("nan")))
            results(run, nan, layout=layout)
        got = results(run, arranged, layout=layout)
        if ON_GPU and backend != "eager":  # launches are written down, then repeated: the same bits
            for _ in range(2):
                for name, value in results(run, arranged, layout=layout).items():
                    torch.testing.assert_close(
                        value, got[name], rtol=0.0, atol=0.0, equal_nan=True,
                        msg=lambda text, name=name: f"{name} differs in a later call: {text}",
                    )  # fmt: skip
    assert got.keys() == truth.keys()
    try:
        for name, value in got.items():
            compare(name, value, [one[name] for one in eager], truth[name])
    except Inexact:
        errors = dict.fromkeys(got, 0.0)
        for other in alike():
            exact = results(reference(op), convert(other, torch.Tensor.double), layout=plain)
            for name, value in results(reference(op), other, layout=plain).items():
                if value.numel() == 0:
                    continue
                error = (value.double() - exact[name]).abs().max().item() / size_of(exact[name])
                errors[name] = max(errors[name], error)
        if not any(errors.values()):
            raise
        for name, value in got.items():
            compare(name, value, [one[name] for one in eager], truth[name], errors[name])


class Inexact(AssertionError):
    """An error that is larger than allowed."""


def size_of(truth: torch.Tensor) -> float:
    """The largest value of a result, what its error is measured by."""
    size = truth.abs().max().item()
    # Zero in exact arithmetic (the gradient of a bias that all keys share): what is left are
    # rounding errors of terms as large as the upstream gradient, which is of size one.
    return size if size >= 1e-9 else 1.0


def compare(
    name: str, got: torch.Tensor, eager: list[torch.Tensor], truth: torch.Tensor,
    relative: float = 0.0,
) -> None:  # fmt: skip
    """Assert one result: shape, dtype, no NaN or infinity, error.

    ``relative`` is an error of eager's elsewhere, over the size of the result.

    Raises:
        Inexact: only the error is too large.
        AssertionError: another of these.
    """
    assert got.shape == truth.shape, name
    assert got.dtype == eager[0].dtype, f"{name} is {got.dtype}, not {eager[0].dtype}"
    if got.numel() == 0:
        return
    assert got.isfinite().all(), f"{name}: {(~got.isfinite()).sum()} of {got.numel()} not finite"
    error = (got.double() - truth).abs().max().item()
    size = size_of(truth)
    eager_error = max((one.double() - truth).abs().max().item() for one in eager)
    eager_error = max(eager_error, relative * size)
    allowed = 2 * eager_error + UNITS[got.dtype] * torch.finfo(got.dtype).eps * size
    if error > allowed:
        raise Inexact(
            f"{name}: error {error:.3g} > {allowed:.3g} allowed"
            f" (eager's {eager_error:.3g}, largest value {size:.3g})"
        )


def check_slopes(activation: str, backend: str) -> None:
    """Assert derivatives to units of the last place, also where 1 - sigmoid has no digits left.

    They come out of ``linear``'s backward. Eager's own error there is no bound for kernels: it is
    larger. Where eager is what is tested, its bound is twice that of the activation alone.
    """
    count = 24_001 if backend == "cpu" or ON_GPU else 1201  # others are slow
    x = torch.linspace(-12.0, 12.0, count)[:, None]
    x = torch.cat((x, torch.tensor([[-200.0], [-90.0], [90.0], [200.0]]))).to(DEVICE)
    weight = torch.ones(1, 1, device=DEVICE)

    def slope(x: torch.Tensor, run: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(run(x).sum(), x)
        return slope

    got = slope(x, lambda x: ops.linear(x, weight, activation=activation, backend=backend))
    exact = slope(x.double(), lambda x: _epilogue.activate(x, activation))
    allowed = 3 * torch.finfo(torch.float32).eps
    if backend == "eager":
        alone = slope(x, lambda x: _epilogue.activate(x, activation))
        allowed = max(allowed, 2 * (alone.double() - exact).abs().max().item())
    assert (got.double() - exact).abs().max() < allowed
