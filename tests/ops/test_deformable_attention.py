"""``deformable_attention``: against ``grid_sample``, equation 3 by hand and Hugging Face; locations
that are far outside, at borders or no numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

from tests.ops import harness
from vitkern import ops
from vitkern.ops.deformable_attention.call import DeformableAttentionCall

OP = "deformable_attention"
DEVICE = harness.DEVICE
INF, NAN = math.inf, math.nan
backends = pytest.mark.parametrize("backend", ["eager", *harness.kernels(OP)])
regular = pytest.mark.parametrize(
    "case",
    [case for case in harness.cases(OP, "tail", "edge") if case.where != "far"],
    ids=lambda case: case.name,
)


def composed(call: DeformableAttentionCall) -> torch.Tensor:
    """Level by level, image by image, head by head, with ``grid_sample`` as it is."""
    value, shapes, locations, weights = call
    out = value.new_zeros(value.shape[0], locations.shape[1], *value.shape[2:])
    first = 0
    for level, (height, width) in enumerate(shapes):
        pixels = value[:, first : first + height * width]
        first += height * width
        for b in range(value.shape[0]):
            for h in range(value.shape[2]):
                image = pixels[b, :, h].T.reshape(1, -1, height, width)
                grid = 2 * locations[b, :, h, level][None] - 1
                sampled = F.grid_sample(image, grid, align_corners=False)[0]  # (head_dim, Q, P)
                out[b, :, h] += torch.einsum("dqp,qp->qd", sampled, weights[b, :, h, level])
    return out.flatten(2)


@regular
def test_is_grid_sample(case: Any) -> None:
    """Values and all gradients, at centres of pixels and borders too."""
    call = harness.make(OP, case, torch.float64)
    expected = harness.evaluate(composed, call, grad=call.value.numel() * case.queries > 0)
    got = harness.evaluate(harness.runner(OP, "eager"), call, grad=len(expected) > 1)
    torch.testing.assert_close(got, expected)


def by_hand(call: DeformableAttentionCall, b: int, q: int, h: int) -> list[float]:
    """Equation 3 for one query and head in Python floats."""
    value, shapes, locations, weights = call
    out = [0.0] * value.shape[3]
    first = 0
    for level, (height, width) in enumerate(shapes):
        for point in range(locations.shape[4]):
            x, y = locations[b, q, h, level, point].tolist()
            if not (math.isfinite(x) and math.isfinite(y)):
                continue
            x, y = x * width - 0.5, y * height - 0.5
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    if 0 <= row < height and 0 <= column < width:
                        share = (1 - abs(y - row)) * (1 - abs(x - column))
                        share *= weights[b, q, h, level, point].item()
                        pixel = value[b, first + row * width + column, h].tolist()
                        out = [o + share * v for o, v in zip(out, pixel, strict=True)]
        first += height * width
    return out


@backends
@pytest.mark.parametrize("name", ["far", "centres", "levels-of-one-pixel", "as-detr"])
def test_is_equation_3(backend: str, name: str) -> None:
    (case,) = (case for case in harness.cases(OP) if case.name == name)
    call = harness.make(OP, case)
    got = harness.runner(OP, backend)(call)
    for b, q, h in ((0, 0, 0), (0, 3, 1), (case.batch - 1, 7, 1), (0, 1, 0), (0, 2, 1)):
        expected = torch.tensor(by_hand(call, b, q, h), device=DEVICE)
        torch.testing.assert_close(
            got[b, q].view(case.heads, -1)[h], expected, rtol=1e-5, atol=1e-5
        )


@backends
def test_is_hugging_face_s(backend: str) -> None:
    detr = pytest.importorskip("transformers.models.deformable_detr.modeling_deformable_detr")
    (case,) = (case for case in harness.cases(OP) if case.name == "as-detr")
    call = harness.make(OP, case)
    shapes = torch.tensor(call.spatial_shapes, device=DEVICE)
    expected = detr.MultiScaleDeformableAttention()(
        call.value, shapes, call.spatial_shapes, None, call.sampling_locations,
        call.attention_weights, 64,
    )  # fmt: skip
    got = ops.deformable_attention(*call, backend=backend)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def single(x: float, y: float, size: tuple[int, int] = (2, 3)) -> DeformableAttentionCall:
    """A query with one point; pixels are 1, 2, 3 ... row by row."""
    height, width = size
    pixels = torch.arange(1.0, height * width + 1, device=DEVICE)
    return DeformableAttentionCall(
        pixels.view(1, -1, 1, 1),
        (size,),
        torch.tensor([x, y], device=DEVICE).view(1, 1, 1, 1, 1, 2),
        torch.ones(1, 1, 1, 1, 1, device=DEVICE),
    )


# x, y, and what a point there gives on [[1, 2, 3], [4, 5, 6]].
POINTS = [
    (0.5, 0.25, 2.0),
    (0.5, 0.5, 3.5),
    (0.0, 0.0, 0.25),  # the corner is a quarter of a pixel from the first one's centre
    (1.0, 1.0, 1.5),
    (1.0, 0.25, 1.5),
    (-1 / 6, 0.25, 0.0),  # where the last share of the first pixel ends
    (7 / 6, 0.25, 0.0),
    (-5.0, 0.25, 0.0),
    (0.5, 2.5, 0.0),
    (1e30, 0.25, 0.0),
    (-1e30, -1e30, 0.0),
    (2.0**31, 0.25, 0.0),
    (INF, 0.25, 0.0),
    (0.5, -INF, 0.0),
    (NAN, 0.25, 0.0),
    (NAN, NAN, 0.0),
]


@backends
@pytest.mark.parametrize("x, y, expected", POINTS)
def test_one_point(backend: str, x: float, y: float, expected: float) -> None:
    results = harness.evaluate(harness.runner(OP, backend), single(x, y), grad=True)
    assert results["y0"].item() == pytest.approx(expected, abs=1e-5)
    for name, value in results.items():
        assert value.isfinite().all(), name
    if expected == 0.0 and (not math.isfinite(x + y) or abs(x) > 1.2 or abs(y) > 1.2):
        for name in ("dvalue", "dsampling_locations", "dattention_weights"):
            assert not results[name].any(), name


@backends
@pytest.mark.parametrize("x, slope", [(0.4, 8.0), (7 / 16, 8.0), (-1 / 16, 8.0), (17 / 16, 0.0)])
def test_slope_at_a_border(backend: str, x: float, slope: float) -> None:
    """Of value over location: from the right where it jumps. 1, 2 ... 8 rises by 8 over a map."""
    call = single(x, 0.5, (1, 8))
    results = harness.evaluate(harness.runner(OP, backend), call, grad=True)
    (upstream,) = harness.upstream((results["y0"],), "natural")
    got = results["dsampling_locations"].flatten()[0].item()
    assert got == pytest.approx(slope * upstream.item(), rel=1e-6)


@backends
def test_what_is_not_sampled_does_not_matter(backend: str) -> None:
    """Infinite pixels beside a map's sampled ones, and beyond its end in memory."""
    (case,) = (case for case in harness.cases(OP) if case.name == "far")
    call = harness.make(OP, case)
    outside = torch.full_like(call.sampling_locations, -3.0)
    for bad in (INF, NAN):
        poisoned = call._replace(value=torch.full_like(call.value, bad), sampling_locations=outside)
        results = harness.evaluate(harness.runner(OP, backend), poisoned, grad=True)
        for name, value in results.items():
            assert not value.any(), name


@backends
def test_weights_of_points_outside_have_no_gradient(backend: str) -> None:
    (case,) = (case for case in harness.cases(OP) if case.name == "as-detr")
    call = harness.make(OP, case)
    moved = call.sampling_locations.clone()
    moved[:, ::2] = 4.0
    results = harness.evaluate(
        harness.runner(OP, backend), call._replace(sampling_locations=moved), grad=True
    )
    assert not results["dattention_weights"][:, ::2].any()
    assert not results["dsampling_locations"][:, ::2].any()
    assert results["dattention_weights"][:, 1::2].count_nonzero() > 0


@pytest.mark.parametrize("backend", harness.kernels(OP))
def test_second_derivatives_are_refused(backend: str) -> None:
    (case,) = (case for case in harness.cases(OP) if case.name == "as-detr")
    call = harness.convert(harness.make(OP, case), lambda t: t.requires_grad_())
    leaves = list(harness.floating(call).values())
    y = ops.deformable_attention(*call, backend=backend)
    grads = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match=r"deformable_attention on backend .* no second deriv"):
        sum(g.square().sum() for g in grads).backward()


@pytest.mark.parametrize("isa", [None, *harness.isas("cpu")])
@pytest.mark.parametrize("name", ["far", "centres", "levels-of-one-pixel", "head_dim13", "as-detr"])
def test_reads_nothing_beside_its_tensors(name: str, isa: str | None) -> None:
    """Each is a part of a larger one that is NaN around it, and is read where it is."""
    if "cpu" not in harness.kernels(OP):
        pytest.skip("no C++ library")

    def surrounded(t: torch.Tensor) -> torch.Tensor:
        memory = t.new_full((t.numel() + 512,), NAN)
        memory[256:-256] = t.flatten()
        return memory[256:-256].view(t.shape)

    (case,) = (case for case in harness.cases(OP) if case.name == name)
    call = harness.make(OP, case)
    around = harness.convert(call, surrounded)
    with harness.on_isa(isa):
        expected = harness.evaluate(harness.runner(OP, "cpu"), call, grad=True)
        got = harness.evaluate(harness.runner(OP, "cpu"), around, grad=True)
    for key, value in expected.items():
        assert value.isfinite().all(), key
        assert torch.equal(got[key], value), key


@backends
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e30])
def test_gradients_of_any_size(backend: str, size: float) -> None:
    """They scale with the upstream gradient: no sum overflows or loses its digits."""
    (case,) = (case for case in harness.cases(OP) if case.name == "as-detr")
    call = harness.convert(harness.make(OP, case), lambda t: t.requires_grad_())
    leaves = list(harness.floating(call).values())
    y = harness.runner(OP, backend)(call)
    (upstream,) = harness.upstream((y,), "natural")
    expected = torch.autograd.grad(y, leaves, upstream, retain_graph=True)
    got = torch.autograd.grad(y, leaves, upstream * size)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one / size, other, rtol=1e-5, atol=1e-5)


@backends
@pytest.mark.parametrize("bad", [INF, NAN])
def test_bad_upstream_gradients_are_seen(backend: str, bad: float) -> None:
    """A loss scaler has to find them in the values' gradient."""
    (case,) = (case for case in harness.cases(OP) if case.name == "as-detr")
    call = harness.make(OP, case)
    call = call._replace(
        sampling_locations=torch.full_like(call.sampling_locations, 0.5),
        value=call.value.requires_grad_(),
    )
    y = harness.runner(OP, backend)(call)
    upstream = torch.ones_like(y)
    upstream[0, 0, 0] = bad
    (got,) = torch.autograd.grad(y, call.value, upstream)
    assert not got.isfinite().all()


@pytest.mark.parametrize("backend", harness.kernels(OP))
def test_compiled_for_any_size_of_maps(backend: str) -> None:
    """One graph for images of all sizes, as detectors get them."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def function(large: torch.Tensor, small: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        maps = (large, small)
        shapes = [(m.shape[2], m.shape[3]) for m in maps]
        value = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1).unflatten(-1, (2, 8))
        return ops.deformable_attention(value, shapes, *rest, backend=backend)

    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True)
    locations = torch.rand(2, 5, 2, 2, 3, 2, device=DEVICE)
    weights = torch.rand(2, 5, 2, 2, 3, device=DEVICE)
    for height, width in ((6, 9), (12, 10), (7, 30)):
        maps = [
            torch.randn(2, 16, height * k, width * k, device=DEVICE, requires_grad=True)
            for k in (2, 1)
        ]
        got = compiled(*maps, locations, weights)
        expected = function(*maps, locations, weights)
        torch.testing.assert_close(got, expected)
        for one, other in zip(
            torch.autograd.grad(got.sum(), maps),
            torch.autograd.grad(expected.sum(), maps),
            strict=True,
        ):
            torch.testing.assert_close(one, other)
    assert counter.frame_count == 1
    torch.compiler.reset()
