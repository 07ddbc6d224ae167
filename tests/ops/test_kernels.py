"""What holds of every backend beside its numbers: memory, layouts, special rows, repeatability."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.ops import harness
from vitkern import ops
from vitkern.dispatch import OPERATORS
from vitkern.ops import _cpu
from vitkern.ops.mlp.cases import Case

DEVICE = harness.DEVICE
every_op = harness.pairs()
every_op_and_dtype = harness.triples()
every_kernel = pytest.mark.parametrize(
    "op, backend", [(op, backend) for op in harness.OPS for backend in harness.kernels(op)]
)
attention_backends = pytest.mark.parametrize("backend", harness.backends("attention"))


def full(op: str) -> Any:
    """The edge case with the most optional tensors."""
    calls = [harness.make(op, case) for case in harness.cases(op, "edge", "tail")]
    return max(calls, key=lambda call: (len(harness.floating(call)), call[0].numel() > 0))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_poison_reaches_kernels() -> None:
    """The other tests rely on it: what a kernel allocates and leaves is NaN."""
    with harness.poisoned():
        assert torch.empty(64, device=DEVICE).isnan().all()
        assert torch.empty(2, 3, device=DEVICE).new_empty(64).isnan().all()


@every_op_and_dtype
def test_each_gradient_alone(op: str, backend: str, dtype: torch.dtype) -> None:
    """Asking for one gradient gives what asking for all gives."""
    call = harness.convert(full(op), lambda t: t.to(dtype))
    together = harness.evaluate(harness.runner(op, backend), call, grad=True)
    for name in harness.floating(call):
        alone = call._replace(**{name: getattr(call, name).detach().requires_grad_()})
        with harness.poisoned():
            outputs = OPERATORS[op](alone, backend)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            pairs = zip(outputs, harness.upstream(outputs, "natural"), strict=True)
            used, upstream = zip(*(pair for pair in pairs if pair[0].requires_grad), strict=True)
            (grad,) = torch.autograd.grad(used, getattr(alone, name), upstream)
        torch.testing.assert_close(grad, together[f"d{name}"], msg=lambda m, n=name: f"d{n}: {m}")


@every_op
def test_upstream_gradient_of_a_sum(op: str, backend: str) -> None:
    """``sum().backward()`` sends a gradient of one element with strides of zero."""
    results = []
    for run in (harness.runner(op, backend), harness.reference(op)):
        call = harness.convert(full(op), lambda t: t.detach().requires_grad_())
        outputs = run(call)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        sum(out.sum() for out in outputs).backward()
        results.append({name: leaf.grad for name, leaf in harness.floating(call).items()})
    for name, grad in results[0].items():
        torch.testing.assert_close(grad, results[1][name], rtol=1e-4, atol=1e-4)


@every_op
def test_expanded_inputs(op: str, backend: str) -> None:
    """Images that share their memory (stride 0), read-only and differentiable."""
    call = full(op)
    first = call._fields[0]
    one = getattr(call, first)[:1].clone()
    shared = one.expand(getattr(call, first).shape[0], *one.shape[1:])
    got = harness.evaluate(harness.runner(op, backend), call._replace(**{first: shared}), grad=True)
    dense = call._replace(**{first: shared.contiguous()})
    expected = harness.evaluate(harness.runner(op, backend), dense, grad=True)
    torch.testing.assert_close(got, expected)


@every_op_and_dtype
def test_repeatable(op: str, backend: str, dtype: torch.dtype, two_threads: None) -> None:
    """Bit for bit the same twice, and in deterministic mode."""
    call = harness.convert(full(op), lambda t: t.to(dtype))
    run = harness.runner(op, backend)
    first = harness.evaluate(run, call, grad=True)
    with harness.poisoned():
        deterministic = harness.evaluate(run, call, grad=True)
    for again in (harness.evaluate(run, call, grad=True), deterministic):
        for name, value in first.items():
            assert torch.equal(value, again[name]), name


THREADED = [
    ("attention", "bias-of-pairs"),
    ("attention", "bias-of-one"),
    ("attention", "dropout-all"),
    ("attention", "length197"),
    ("window_attention", "ragged-shifted-shift-pad-value"),
    ("window_attention", "window7x7"),
    ("deformable_attention", "rt-detr-denoising"),
    ("deformable_attention", "far"),
    ("layer_norm", "rows193"),
    ("linear", "long-m"),
    ("linear", "gelu-all"),
    ("mlp", "long-m"),
    ("mlp", "gelu-all"),
    ("patch_embed", "grid33"),
]


@pytest.mark.parametrize(
    "op, name, dtype",
    [
        pytest.param(op, name, dtype, id=f"{op}-{name}-{harness.short(dtype)}")
        for op, name in THREADED
        if "cpu" in harness.kernels(op)
        for dtype in harness.dtypes(op, "cpu")
    ],
)
def test_same_on_any_number_of_threads(op: str, name: str, dtype: torch.dtype) -> None:
    """Everything is summed in an order that the number of threads does not change."""
    (case,) = (case for case in harness.cases(op) if case.name == name)
    call = harness.make(op, case, dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(harness.evaluate(harness.runner(op, "cpu"), call, grad=True))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for key, value in results[0].items():
            assert torch.equal(value, other[key]), key


@every_op
def test_inputs_are_left_alone(op: str, backend: str) -> None:
    call = full(op)
    before = {name: t.clone() for name, t in harness.floating(call).items()}
    harness.evaluate(harness.runner(op, backend), call, grad=True)
    for name, value in harness.floating(call).items():
        assert torch.equal(value, before[name]), name


@every_op
def test_inference_mode(op: str, backend: str) -> None:
    call = full(op)
    expected = harness.evaluate(harness.runner(op, backend), call, grad=False)
    with torch.inference_mode():
        got = harness.evaluate(harness.runner(op, backend), call, grad=False)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@every_kernel
def test_changing_an_input_before_backward_is_an_error(op: str, backend: str) -> None:
    call = harness.convert(full(op), lambda t: t.detach().requires_grad_())
    outputs = OPERATORS[op](call, backend)
    out = outputs[0] if isinstance(outputs, tuple) else outputs
    field = "weight1" if op == "mlp" else "weight" if hasattr(call, "weight") else call._fields[0]
    with torch.no_grad():
        getattr(call, field).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


# What follows is about single ops.


@harness.of("attention")
@pytest.mark.parametrize("magnitude", [1e2, 1e4])
def test_attention_of_large_scores(backend: str, dtype: torch.dtype, magnitude: float) -> None:
    """Scores up to 1e9: softmax is one-hot, and nothing overflows."""
    if backend == "eager" and dtype == torch.float16 and magnitude > 1e2:
        pytest.skip("eager PyTorch's scores are float16, which ends at 65504")
    call = harness.make("attention", harness.cases("attention", "tail")[-1], dtype)
    call = call._replace(q=call.q * magnitude, k=call.k * magnitude)
    results = harness.evaluate(harness.runner("attention", backend), call, grad=True)
    for name, value in results.items():
        assert value.isfinite().all(), name
    assert results["y0"].abs().max() <= call.v.abs().max() * 1.01


@attention_backends
def test_attention_of_finite_minimum_bias(backend: str) -> None:
    """torch.finfo.min as a mask, as in some models: masked beside others, uniform when alone."""
    q, k, v = (torch.randn(2, 3, n, 16, device=DEVICE) for n in (5, 7, 7))
    bias = torch.zeros(2, 1, 5, 7, device=DEVICE)
    bias[0, :, :, 4:] = torch.finfo(torch.float32).min
    bias[1] = torch.finfo(torch.float32).min
    out = ops.attention(q, k, v, bias=bias, backend=backend)
    expected = ops.attention(q[:1], k[:1, :, :4], v[:1, :, :4], backend="eager")
    torch.testing.assert_close(out[:1], expected)
    assert out.isfinite().all()


@harness.of("attention")
@pytest.mark.parametrize("by", ["mask", "bias", "both"])
def test_rows_without_a_key(backend: str, dtype: torch.dtype, by: str) -> None:
    """They give zeros, and pass zero gradients (also to the bias)."""
    q, k, v = (
        torch.randn(2, 3, n, 16, device=DEVICE).to(dtype).requires_grad_() for n in (19, 23, 23)
    )
    bias = torch.randn(2, 1, 19, 23, device=DEVICE).to(dtype)
    mask = torch.zeros(2, 23, dtype=torch.bool, device=DEVICE)
    if by in ("bias", "both"):
        bias[0, :, 3] = float("-inf")
    if by in ("mask", "both"):
        mask[0] = True
    bias.requires_grad_()
    with harness.poisoned():
        out = ops.attention(q, k, v, bias=bias, key_padding_mask=mask, backend=backend)
        grads = torch.autograd.grad(out, (q, k, v, bias), torch.randn_like(out))
    dead = slice(3, 4) if by == "bias" else slice(None)
    assert (out[0, :, dead] == 0).all()
    for grad in grads:
        assert grad.isfinite().all()
    assert (grads[0][0, :, dead] == 0).all()
    assert (grads[3][0, :, dead] == 0).all()
    if by != "bias":
        assert (grads[1][0] == 0).all()
        assert (grads[2][0] == 0).all()
    assert (out[1] != 0).any()
    assert (grads[0][1] != 0).any()


@pytest.mark.parametrize("backend", harness.kernels("attention"))
def test_attention_layout_makes_joining_heads_free(backend: str) -> None:
    q, k, v = (torch.randn(2, 3, 19, 16, device=DEVICE) for _ in range(3))
    out = ops.attention(q, k, v, backend=backend)
    joined = out.transpose(1, 2).reshape(2, 19, 48)
    assert joined.data_ptr() == out.data_ptr()


@harness.of("attention")
def test_dropout_follows_the_seed(backend: str, dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(2, 3, 33, 16, device=DEVICE).to(dtype) for _ in range(3))

    def run(seed: int, on: str = backend) -> torch.Tensor:
        torch.manual_seed(seed)
        return ops.attention(q, k, v, dropout_p=0.3, backend=on)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    # A single weight that one backend drops and another keeps is far beyond these tolerances.
    torch.testing.assert_close(
        run(1).float(),
        run(1, "eager").float(),
        rtol=0.02,
        atol=1e-5 if dtype.itemsize == 4 else 0.02,
    )
    torch.manual_seed(1)
    twice = [ops.attention(q, k, v, dropout_p=0.3, backend=backend) for _ in range(2)]
    assert not torch.equal(*twice)


@pytest.mark.parametrize("backend", harness.backends("layer_norm"))
@pytest.mark.parametrize(
    "affine, residual",
    list(itertools.product([("weight", "bias"), ("weight",), ("bias",)], [False, True])),
)
def test_layer_norm_with_float32_parameters(
    backend: str, affine: tuple[str, ...], residual: bool
) -> None:
    """Half-precision activations beside float32 parameters, whose gradients are float32."""
    (case,) = (case for case in harness.cases("layer_norm") if case.name == "rows47")
    call = harness.make("layer_norm", case, torch.bfloat16)
    parameters = {
        name: getattr(call, name).float() * 1.01 if name in affine else None
        for name in ("weight", "bias")
    }
    call = call._replace(**parameters, residual=call.x.flip(0) if residual else None)
    harness.check("layer_norm", backend, call, grad=True)


@harness.of("layer_norm")
@pytest.mark.parametrize("mean, std", [(1e3, 1.0), (0.0, 1e-6), (0.0, 1e6), (5.0, 0.0)])
def test_layer_norm_of_awkward_rows(
    backend: str, dtype: torch.dtype, mean: float, std: float
) -> None:
    """A mean far above the deviation, tiny and huge rows, constant rows."""
    x = (torch.randn(5, 193) * std + mean).to(DEVICE, dtype)
    if not x.isfinite().all():
        pytest.skip(f"{dtype} has no such values")
    y = ops.layer_norm(x, backend=backend)
    truth = ops.layer_norm(x.double(), backend="eager")
    eager = ops.layer_norm(x, backend="eager")
    harness.compare("y", y, [eager], truth)


@harness.triples("linear", "mlp")
def test_residual_of_its_own_input(op: str, backend: str, dtype: torch.dtype) -> None:
    """``x`` twice in one call: its gradients add up."""
    x = torch.randn(19, 32, device=DEVICE).to(dtype).requires_grad_()
    w = (torch.randn(32, 32, device=DEVICE) / 6).to(dtype)
    grads = []
    for on in (backend, "eager"):
        if op == "linear":
            y = ops.linear(x, w, residual=x, backend=on)
        else:
            y = ops.mlp(x, w, None, w, None, residual=x, backend=on)
        grads.append(torch.autograd.grad(y.sum(), x)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=0.02, atol=0.02)


@harness.pairs("linear", "mlp")
@pytest.mark.parametrize("gamma", [False, True])
def test_residual_of_another_dtype_promotes(op: str, backend: str, gamma: bool) -> None:
    """A float32 residual stream beside bfloat16 weights stays float32."""
    x, w, residual = (torch.randn(n, 16, device=DEVICE) for n in (5, 16, 5))
    x, w = x.bfloat16(), (w / 4).bfloat16()
    options = {"residual": residual, "gamma": torch.rand(16, device=DEVICE) if gamma else None}
    results = [
        ops.linear(x, w, **options, backend=on)
        if op == "linear"
        else ops.mlp(x, w, None, w, None, **options, backend=on)
        for on in (backend, "eager")
    ]
    assert results[0].dtype == torch.float32
    torch.testing.assert_close(*results, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("isa", _cpu.isas() if "cpu" in harness.kernels("mlp") else [])
@pytest.mark.parametrize("rows", [2000, 2100])
def test_mlp_of_many_rows_and_an_odd_hidden_size(rows: int, isa: str) -> None:
    """Blocks of rows whose hidden values, taken in pairs, end with half of one."""
    case = Case(name="odd", tags=("edge",), rows=(rows,), dims=(9, 1543, 9))
    with harness.on_isa(isa):
        harness.check("mlp", "cpu", harness.make("mlp", case, torch.bfloat16), grad=False)


@pytest.mark.parametrize("backend", harness.backends("patch_embed"))
def test_patch_embed_of_channels_last_images(backend: str) -> None:
    images = torch.randn(2, 3, 8, 12, device=DEVICE).to(memory_format=torch.channels_last)
    weight = torch.randn(16, 3, 4, 4, device=DEVICE).to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        ops.patch_embed(images, weight, backend=backend),
        ops.patch_embed(images, weight, backend="eager"),
    )


@pytest.mark.parametrize("backend", harness.backends("window_attention"))
def test_pad_value_is_not_used_where_nothing_is_padded(backend: str) -> None:
    qkv = torch.randn(1, 8, 8, 24, device=DEVICE)
    nan = torch.full((24,), float("nan"), device=DEVICE)
    out = ops.window_attention(
        qkv, num_heads=2, window_size=4, shift_size=2, pad_value=nan, backend=backend
    )
    assert out.isfinite().all()


@pytest.mark.parametrize(
    "backend, isa",
    [
        (backend, isa)
        for backend in harness.backends("linear")
        for isa in (None, *harness.isas(backend))
    ],
)
@pytest.mark.parametrize("activation", [name for name in _cpu.ACTIVATIONS if name is not None])
def test_slopes_of_activations(activation: str, backend: str, isa: str | None) -> None:
    with harness.on_isa(isa):
        harness.check_slopes(activation, backend)
