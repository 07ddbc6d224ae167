"""Fused blocks: parity with the reference, and that they compose where they must."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests import needs
from tests.ops import harness
from vitkern import UnsupportedInput, ops, use_backend
from vitkern.dispatch import OPERATORS, measuring
from vitkern.dispatch.measured import STORE, timing
from vitkern.ops import _cpu

OPS = harness.BLOCKS
# The edge case of each op with most of its options.
FULL = {"attention_block": "all", "window_attention_block": "all", "mlp_block": "gelu-all"}
BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64

PAIRS = [(op, backend) for op in OPS for backend in harness.kernels(op)]
every_pair = pytest.mark.parametrize("op, backend", PAIRS)
every_op = pytest.mark.parametrize("op", OPS)
every_dtype = pytest.mark.parametrize("dtype", (F32, BF16), ids=str)


def full(op: str, dtype: torch.dtype = F32) -> Any:
    (case,) = (case for case in harness.cases(op, "edge") if case.name == FULL[op])
    return harness.make(op, case, dtype)


public = harness.public


def composed(op: str, call: Any, backend: str | None = None) -> torch.Tensor:
    """The same as :func:`public`, written with the ops that the block is made of."""
    y = ops.layer_norm(call.x, call.norm_weight, call.norm_bias, eps=call.eps, backend=backend)
    rest = {"gamma": call.gamma, "residual": call.x, "backend": backend}
    if op == "mlp_block":
        weights = (call.weight1, call.bias1, call.weight2, call.bias2)
        return ops.mlp(y, *weights, activation=call.activation, **rest)
    qkv = ops.linear(y, call.qkv_weight, call.qkv_bias, backend=backend)
    if op == "attention_block":
        q, k, v = qkv.unflatten(-1, (3, call.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        out = ops.attention(q, k, v, scale=call.scale, backend=backend)
        out = out.transpose(1, 2).flatten(2)
    else:
        out = ops.window_attention(
            qkv,
            call.bias_table,
            num_heads=call.num_heads,
            window_size=call.window,
            shift_size=call.shift,
            scale=call.scale,
            pad_value=call.qkv_bias,
            pad_first=call.pad_first,
            backend=backend,
        )
    return ops.linear(out, call.proj_weight, call.proj_bias, **rest)


# Parity


def _parity() -> Iterator[Any]:
    for op, backend in PAIRS:
        for tags, isas, layouts in (
            (("tail", "edge"), [None, *harness.isas(backend)], harness.LAYOUTS[:1]),
            (("edge",), [None], harness.LAYOUTS[1:]),
        ):
            for case in harness.cases(op, *tags):
                for isa in isas:
                    for layout in layouts:
                        name = "-".join(filter(None, (op, backend, isa, case.name, layout)))
                        yield pytest.param(op, backend, isa, case, layout, id=name)


@pytest.mark.parametrize("op, backend, isa, case, layout", list(_parity()))
@every_dtype
def test_parity(
    op: str, backend: str, isa: str | None, case: Any, layout: str, dtype: torch.dtype
) -> None:
    with harness.on_isa(isa):
        harness.check(op, backend, harness.make(op, case, dtype), grad=False, layout=layout)


MODELS = {
    "attention_block": ("vit-ti", "deit3-s"),
    "window_attention_block": ("swin-t-stage0-shifted", "swin-t-stage3"),
    "mlp_block": ("vit-ti", "swin-t-stage0", "swin-t-stage3"),
}


@every_pair
@pytest.mark.parametrize("threads", [1, 2])
def test_models(op: str, backend: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for case in harness.cases(op, "model"):
            if case.name in MODELS[op]:
                harness.check(op, backend, harness.make(op, case), grad=False, poison=False)
    finally:
        torch.set_num_threads(before)


@every_pair
@every_dtype
def test_one_image_is_the_same_alone(op: str, backend: str, dtype: torch.dtype) -> None:
    """Images of a batch do not see each other, and a view of one of them is as good as a copy."""
    call = full(op, dtype)
    together = public(op, backend)(call)
    for i in range(call.x.shape[0]):
        one = public(op, backend)(call._replace(x=call.x[i : i + 1]))
        torch.testing.assert_close(one, together[i : i + 1])


@every_pair
def test_inputs_are_left_alone(op: str, backend: str) -> None:
    call = full(op)
    before = {name: t.clone() for name, t in harness.floating(call).items()}
    public(op, backend)(call)
    for name, value in harness.floating(call).items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("pad_first", [False, True])
def test_padding_is_zero_before_qkv(pad_first: bool) -> None:
    """As in Swin: the norm does not see the padding, qkv does."""
    call = full("window_attention_block", F64)._replace(pad_first=pad_first, shift=(0, 0))
    batch, height, width, channels = call.x.shape
    size = (12, 12)  # what windows of 4x3 pad 9x11 to
    y = ops.layer_norm(call.x, call.norm_weight, call.norm_bias, eps=call.eps)
    grown = torch.zeros(batch, *size, channels, dtype=F64)
    grown[:, :height, :width] = y
    out = ops.window_attention(
        ops.linear(grown, call.qkv_weight, call.qkv_bias), call.bias_table,
        num_heads=call.num_heads, window_size=call.window, scale=call.scale,
    )[:, :height, :width]  # fmt: skip
    expected = ops.linear(out, call.proj_weight, call.proj_bias, gamma=call.gamma, residual=call.x)
    torch.testing.assert_close(public("window_attention_block")(call), expected)


# One call, or several


class _Recorder(TorchDispatchMode):
    """Keeps the library's operators that were called, and their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "vitkern_cpu" and "pack_weight" not in str(func):
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def recorded(op: str, call: Any, backend: str | None = None) -> list[Any]:
    with _Recorder() as recorder:
        public(op, backend)(call)
    return recorder.calls


def called(op: str, call: Any, backend: str | None = None) -> list[str]:
    return [func.name().split("::")[1] for func, _ in recorded(op, call, backend)]


PARTS = {
    "attention_block": ["layer_norm", "linear", "attention", "linear"],
    "window_attention_block": ["layer_norm", "linear", "window_attention", "linear"],
    "mlp_block": ["layer_norm", "mlp"],
}


@needs.library
@every_op
@every_dtype
def test_one_call_for_inference(op: str, dtype: torch.dtype) -> None:
    call = full(op, dtype)
    assert called(op, call) == called(op, call, "cpu") == [op]
    wide = call._replace(norm_weight=call.norm_weight.float(), norm_bias=call.norm_bias.float())
    assert called(op, wide) == [op]
    for none in ({"norm_weight": None}, {"norm_bias": None}, {"norm_weight": None, "gamma": None}):
        assert called(op, wide._replace(**none)) == [op]


@needs.library
@every_op
def test_one_call_for_parameters_without_grad_mode(op: str) -> None:
    call = harness.convert(full(op), lambda t: torch.nn.Parameter(t))
    with torch.no_grad():
        assert called(op, call) == [op]
    with torch.inference_mode():
        assert called(op, call) == [op]
    assert called(op, call) == PARTS[op]


@needs.library
@every_op
def test_several_calls_where_dtypes_are_mixed(op: str) -> None:
    """Each is what the ops do that the block is made of, dtype included."""
    half = full(op, BF16)
    for call in (
        half._replace(gamma=half.gamma.float()),
        half._replace(norm_bias=half.norm_bias.float()),
        half._replace(norm_weight=half.norm_weight.float()),
    ):
        assert op not in called(op, call)
        torch.testing.assert_close(public(op)(call), composed(op, call), rtol=0, atol=0)


@every_op
@every_dtype
def test_autocast(op: str, dtype: torch.dtype) -> None:
    call = full(op, dtype)
    with torch.autocast("cpu", dtype=BF16):
        assert op not in called(op, call)
        torch.testing.assert_close(public(op)(call), composed(op, call), rtol=0, atol=0)


@every_op
@pytest.mark.parametrize("dtype", [F64, torch.float16], ids=str)
def test_other_dtypes_are_eager(op: str, dtype: torch.dtype) -> None:
    call = full(op, dtype)
    torch.testing.assert_close(public(op)(call), harness.reference(op)(call))
    with pytest.raises(UnsupportedInput, match=rf"{op}\(.*\n.*cpu: (dtype|no C\+\+ library)"):
        public(op, "cpu")(call)
    with use_backend("cpu"), pytest.raises(UnsupportedInput, match=op):
        public(op)(call)


@needs.library
@every_op
def test_the_cpu_refuses_what_it_cannot_mix(op: str) -> None:
    call, supports = full(op, BF16), OPERATORS[op].backends["cpu"].supports
    assert supports(call) == []
    assert supports(call._replace(norm_weight=None, norm_bias=call.norm_bias.float())) == []
    (reason,) = supports(call._replace(gamma=call.gamma.float()))
    assert reason == "torch.float32 beside x's torch.bfloat16; takes one dtype for all but the norm"
    for changes in (
        {"norm_bias": call.norm_bias.float()},
        {"norm_weight": call.norm_weight.float()},
    ):
        (reason,) = supports(call._replace(**changes))
        assert reason.startswith("a norm in other dtypes")


@pytest.fixture
def _measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of blocks eager is the fastest backend, of what they are made of it is not."""

    def in_turns(runs: timing.Runs, static: str, **_: object) -> timing.Seconds:
        with _Recorder() as recorder:
            runs["cpu"]()
        (func, _), *_ = recorder.calls
        eager = 1.0 if func.name().split("::")[1] in OPS else 3.0
        return {name: [eager if name == "eager" else 2.0] * 9 for name in runs}

    monkeypatch.setenv("VITKERN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(timing, "in_turns", in_turns)
    STORE.forget()
    yield
    STORE.forget()


@needs.library
@pytest.mark.usefixtures("_measured")
@every_op
@every_dtype
def test_eager_that_was_faster_is_what_runs(op: str, dtype: torch.dtype) -> None:
    """The reference that was timed, not the ops that the block is made of."""
    call = full(op, dtype)
    with measuring() as measurement:
        public(op)(call)
    assert [(use.op, use.backend) for use in measurement.uses] == [(op, "eager")]
    assert called(op, call) == []
    assert torch.equal(public(op)(call), harness.reference(op)(call))
    assert called(op, call, "cpu") == [op]


@needs.library
@pytest.mark.usefixtures("_measured")
@every_op
def test_what_is_composed_is_reported_as_that(op: str) -> None:
    with measuring() as measurement:
        public(op)(full(op, F64))
    assert [use.op for use in measurement.uses] == PARTS[op]


# Gradients


@every_op
@pytest.mark.parametrize("backend", [None, pytest.param("cpu", marks=needs.library), "eager"])
@every_dtype
def test_gradients(op: str, backend: str | None, dtype: torch.dtype) -> None:
    """Outputs and gradients are, bit for bit, those of the ops that the block is made of."""
    call = full(op, dtype)
    got = harness.evaluate(public(op, backend), call, grad=True)
    expected = harness.evaluate(lambda c: composed(op, c, backend), call, grad=True)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert all(value.any() for value in got.values())
    if dtype == F32:
        truth = harness.evaluate(harness.reference(op), call, grad=True)
        torch.testing.assert_close(got, truth, rtol=1e-3, atol=1e-4)


@every_op
def test_each_gradient_alone(op: str) -> None:
    call = full(op)
    for name, value in harness.floating(call).items():
        leaf = value.clone().requires_grad_()
        public(op)(call._replace(**{name: leaf})).square().sum().backward()
        assert leaf.grad is not None, name
        assert leaf.grad.any(), name


@every_pair
def test_no_gradient_is_never_a_wrong_one(op: str, backend: str) -> None:
    """Below the public function there is none, and it says so."""
    call = harness.convert(full(op), lambda t: t.requires_grad_())
    with pytest.raises(RuntimeError, match="call the public function for gradients"):
        OPERATORS[op](call, backend).sum().backward()


# Prepacked weights


@needs.library
@every_op
def test_weights_are_packed_once_and_anew_when_they_change(op: str) -> None:
    call = harness.convert(full(op), lambda t: torch.nn.Parameter(t, requires_grad=False))
    weights = [
        t for name, t in harness.floating(call).items() if re.search(r"(qkv|proj)_w|^w", name)
    ]
    assert len(weights) == 2
    _cpu.clear_packed()
    first = public(op)(call)
    packed = _cpu.packed_bytes()
    assert packed >= sum(weight.nbytes for weight in weights)
    torch.testing.assert_close(public(op)(call), first, rtol=0, atol=0)
    assert _cpu.packed_bytes() == packed
    for weight in weights:
        weight.mul_(0.5)
        torch.testing.assert_close(public(op)(call), harness.reference(op)(call))


# Operators, torch.compile


@needs.library
@every_op
def test_opcheck(op: str) -> None:
    call = full(op)
    calls = [call._replace(x=harness.arrange(call.x, "transposed"))]
    optional = [n for n in harness.floating(call) if "bias" in n or n in ("gamma", "norm_weight")]
    calls.append(call._replace(**dict.fromkeys(optional)))
    for each in calls:
        ((operator, args),) = recorded(op, each)
        torch.library.opcheck(operator, args)


@needs.library
@every_op
@every_dtype
@pytest.mark.parametrize("layout", harness.LAYOUTS)
def test_fake_is_like_real(op: str, dtype: torch.dtype, layout: str) -> None:
    for case in harness.cases(op, "edge"):
        call = harness.make(op, case, dtype)
        ((operator, args),) = recorded(op, call._replace(x=harness.arrange(call.x, layout)))
        real = operator(*args)
        with FakeTensorMode() as mode:
            fake = operator(*(mode.from_tensor(a) if torch.is_tensor(a) else a for a in args))
        assert (real.shape, real.dtype) == (fake.shape, fake.dtype)
        assert real.stride() == fake.stride() == torch.empty(real.shape).stride()


@pytest.fixture
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def of_tensors(op: str, call: Any, backend: str | None) -> Callable[..., torch.Tensor]:
    """The public function of the call's tensors; its other arguments are the call's."""
    rest = {n: v for n, v in harness.arguments(op, call).items() if not torch.is_tensor(v)}
    function = getattr(ops, op)
    return lambda **tensors: function(**rest, **tensors, backend=backend)


@pytest.mark.usefixtures("_fresh")
@every_op
@every_dtype
def test_compile(op: str, dtype: torch.dtype) -> None:
    """One graph of one operator for any batch, and the parameters may be a module's."""
    call = full(op, dtype)
    parameters = harness.convert(call, lambda t: torch.nn.Parameter(t))._replace(x=call.x)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(of_tensors(op, call, None), fullgraph=True, backend=counter)
    with torch.no_grad():
        for batch in (3, 11, 7):
            sized = parameters._replace(x=torch.randn(batch, *call.x.shape[1:]).to(dtype))
            torch.testing.assert_close(
                compiled(**harness.floating(sized)), public(op)(sized), rtol=0, atol=0
            )
    assert counter.frame_count <= 2  # the first size, and any
    if harness.kernels(op):
        nodes = [
            n for graph in counter.graphs for n in graph.graph.nodes if "vitkern" in str(n.target)
        ]
        assert len(nodes) == counter.frame_count


@pytest.mark.usefixtures("_fresh")
@every_op
def test_compiled_code_knows_no_plans(op: str) -> None:
    """It is not compiled anew where other calls, of other models, are met."""
    call, counter = full(op), CompileCounterWithBackend("eager")
    kinds = importlib.import_module(f"vitkern.ops.{op}")._COMPOSED.kinds
    kinds.clear()
    compiled = torch.compile(of_tensors(op, call, None), fullgraph=True, backend=counter)
    try:
        with torch.no_grad():
            for i in range(3):
                compiled(**harness.floating(call))
                kinds["met", i] = None
    finally:
        kinds.clear()
    assert counter.frame_count == 1


@pytest.mark.usefixtures("_fresh")
@every_op
def test_compile_for_training(op: str) -> None:
    call = full(op)
    compiled = torch.compile(of_tensors(op, call, None), fullgraph=True, backend="aot_eager")
    got = harness.evaluate(lambda c: compiled(**harness.floating(c)), call, grad=True)
    torch.testing.assert_close(got, harness.evaluate(public(op), call, grad=True))
