"""Products of float32 in parts of bfloat16, as instruction sets with tile registers compute them.

All of it holds for every instruction set: what is asked is what float32 gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F

from tests.ops.harness import on_isa
from vitkern import ops
from vitkern.ops import _cpu

SHAPES = (
    [(rows, 64, 32) for rows in (1, 15, 16, 17, 31, 32, 33, 65)]
    + [(33, inputs, 40) for inputs in (1, 2, 15, 16, 17, 31, 32, 33, 47, 63, 65, 100)]
    + [(33, 70, width) for width in (1, 15, 16, 17, 31, 32, 33, 47, 49, 96)]
    # Pieces of K with sums of their own; few rows, and many.
    + [(20, 769, 33), (70, 1537, 64), (300, 2400, 70), (1500, 800, 40)]
)


@pytest.fixture(params=_cpu.isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with on_isa(request.param):
        yield request.param


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return ops.linear(x, weight, backend="cpu")


def gradients(
    f: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    weight: torch.Tensor,
    dy: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = f(x, weight)
    dx, dw = torch.autograd.grad(y, (x, weight), dy)
    return dx, dw


def error(result: torch.Tensor, exact: torch.Tensor) -> float:
    return float((result.double() - exact).abs().max() / exact.abs().max())


@torch.no_grad()
def test_whole_numbers_are_exact() -> None:
    """They have high and middle parts, in every tail of rows, columns and K."""
    for rows, inputs, width in SHAPES:
        most = int(math.sqrt(2**23 / inputs))
        x = torch.randint(-most, most + 1, (rows, inputs), generator=generator()).float()
        w = torch.randint(-most, most + 1, (width, inputs), generator=generator(1)).float()
        assert torch.equal(linear(x, w), (x.double() @ w.double().T).float()), (rows, inputs, width)


@torch.no_grad()
def test_the_identity_changes_no_bit() -> None:
    """So the low parts are there, too, of activations and of weights."""
    x = torch.randn(70, 96, generator=generator()) * torch.logspace(-9, 9, 70)[:, None]
    identity = torch.eye(96)
    assert torch.equal(linear(x, identity), x)
    assert torch.equal(linear(identity, x), x.T)


@pytest.mark.parametrize("positive", [False, True], ids=["normal", "positive"])
def test_no_more_error_than_eager(positive: bool) -> None:
    """Outputs and gradients within twice eager's, over short and long K."""
    make = torch.rand if positive else torch.randn
    for rows, inputs, width in [*SHAPES[-4:], (197, 3072, 96), (64, 384, 1536)]:
        x, w = (
            make(rows, inputs, generator=generator()),
            make(width, inputs, generator=generator(1)),
        )
        dy = make(rows, width, generator=generator(2))
        exact = gradients(F.linear, x.double(), w.double(), dy.double())
        for ours, eager, result in zip(
            (linear(x, w), *gradients(linear, x, w, dy)),
            (F.linear(x, w), *gradients(F.linear, x, w, dy)),
            (F.linear(x.double(), w.double()), *exact),
            strict=True,
        ):
            assert error(ours, result) <= 2 * error(eager, result), (rows, inputs, width)


SCALES = [1e-44, 1e-40, 1e-36, 1e-30, 1e-24, 1e24, 1e36, 3e38]


@pytest.mark.parametrize("scale", SCALES)
def test_both_ends_of_the_range(scale: float) -> None:
    """Magnitudes that bfloat16 has no digits for, or whose products it would lose."""
    x = torch.rand(45, 70, generator=generator()) * 0.9 * scale
    w = torch.randn(50, 70, generator=generator(1)) / 70
    # A sum of products may be a denormal: eager's are whole to the last place, and so are these.
    place = 2.0**-149
    for a, b in ((x, w), (w, x)):
        exact = a.double() @ b.double().T
        limit = 2 * (F.linear(a, b).double() - exact).abs().max().clamp_min(place)
        assert (linear(a, b).double() - exact).abs().max() <= limit
    dy = torch.randn(45, 50, generator=generator(2)) / 50
    for case in ((x, w, dy), (w[:45, :50] @ torch.eye(50, 70), w, dy * scale)):
        exact_gradients = gradients(F.linear, *(t.double() for t in case))
        for ours, eager, result in zip(
            gradients(linear, *case), gradients(F.linear, *case), exact_gradients, strict=True
        ):
            limit = 2 * (eager.double() - result).abs().max().clamp_min(place)
            assert (ours.double() - result).abs().max() <= limit


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 3.4e38])
@pytest.mark.parametrize("where", ["x", "weight", "dy"])
def test_values_that_are_not_finite_stay_where_they_belong(where: str, value: float) -> None:
    """As in eager: infinities stay infinite, and other rows and columns stay as they were."""
    operands = {
        "x": torch.randn(45, 70, generator=generator()),
        "weight": torch.randn(50, 70, generator=generator(1)),
        "dy": torch.randn(45, 50, generator=generator(2)),
    }
    operands[where][5, 7] = value
    x, w, dy = operands.values()
    for ours, eager in zip(
        (linear(x, w), *gradients(linear, x, w, dy)),
        (F.linear(x, w), *gradients(F.linear, x, w, dy)),
        strict=True,
    ):
        assert torch.equal(ours.isnan(), eager.isnan())
        assert torch.equal(ours.isinf(), eager.isinf())
        infinite = eager.isinf()
        assert torch.equal(ours[infinite], eager[infinite])
        finite = eager.isfinite()
        assert torch.allclose(ours[finite], eager[finite], rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_nothing_to_sum_up() -> None:
    for shapes in (((40, 0), (50, 0)), ((0, 70), (50, 70)), ((40, 70), (0, 70))):
        x, w = (torch.zeros(shape) for shape in shapes)
        assert torch.equal(linear(x, w), F.linear(x, w))


@torch.no_grad()
def test_zeros() -> None:
    x, w = torch.zeros(40, 70), torch.zeros(50, 70)
    w[3] = 2.0
    assert torch.equal(linear(x, w), torch.zeros(40, 50))
    assert torch.equal(linear(w, x), torch.zeros(50, 40))


@torch.no_grad()
def test_a_last_bit_that_changes_unseen_is_seen() -> None:
    """Packed weights are compared in all of their parts, where no version tells of a change."""
    weight = torch.nn.Parameter(torch.randn(64, 96, generator=generator()))
    identity = torch.eye(96)
    assert torch.equal(ops.linear(identity, weight), weight.T)
    assert torch.equal(ops.linear(identity, weight), weight.T)  # from its packed form
    alias = torch.from_numpy(weight.detach().numpy())
    alias.copy_(torch.nextafter(alias, torch.tensor(math.inf)))
    assert torch.equal(ops.linear(identity, weight), weight.T)


@torch.no_grad()
def test_zeros_that_come_unseen_are_seen() -> None:
    """Pruning by a mask, and zeroing, through `.data`, which raises no version."""
    x = torch.randn(50, 96, generator=generator())
    for change in ("mul_", "zero_"):
        weight = torch.nn.Parameter(torch.randn(128, 96, generator=generator(1)))
        linear(x, weight)
        linear(x, weight)  # from its packed form
        mask = torch.rand(128, 96, generator=generator(2)) > 0.9
        getattr(weight.data, change)(*([mask] if change == "mul_" else []))
        assert torch.allclose(linear(x, weight), x @ weight.T, atol=1e-4)


@torch.no_grad()
def test_what_is_odd_changes_nothing_else() -> None:
    """Neither other rows nor columns, nor on how many threads they are computed."""
    x = torch.randn(700, 384, generator=generator())
    w = torch.randn(200, 384, generator=generator(1))
    wanted = linear(x, w)
    x[7] *= 1e-30
    w[150, 3] = math.nan
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(linear(x, w))
    finally:
        torch.set_num_threads(threads)
    for y in results:
        assert torch.equal(y.nan_to_num(1.0), results[0].nan_to_num(1.0))
        rows = [row for row in range(700) if row != 7]
        columns = [column for column in range(200) if not 128 <= column < 160]
        assert torch.equal(y[rows][:, columns], wanted[rows][:, columns])
        # The panel's other columns: by other instructions, and right.
        assert torch.allclose(y[rows, 149], wanted[rows, 149], rtol=1e-5, atol=1e-4)
        assert y[:, 150].isnan().all()


@pytest.mark.parametrize("scale", [1e-20, 1e-33, 1e-36, 2e-38])
@torch.no_grad()
def test_a_small_column_beside_ordinary_ones_keeps_its_digits(scale: float) -> None:
    x = torch.randn(70, 96, generator=generator())
    w = torch.randn(64, 96, generator=generator(1))
    w[3] *= scale
    exact = x.double() @ w[3].double()
    assert error(linear(x, w)[:, 3], exact) < 1e-6 + 2 * error(x @ w[3], exact)
    assert error(linear(w, x)[3], exact) < 1e-6 + 2 * error(x @ w[3], exact)


@pytest.mark.parametrize("inputs", [96, 1601])
@torch.no_grad()
def test_powers_of_two_change_exponents_alone(inputs: int) -> None:
    """Rows and columns of all magnitudes beside each other, over one piece of K and several."""
    x = torch.randn(131, inputs, generator=generator())
    w = torch.randn(75, inputs, generator=generator(1))
    rows, columns = (
        torch.tensor(exponents, dtype=torch.float32).exp2().repeat(50)[:count]
        for exponents, count in (((0, -60, 55, -100, -3, 100), 131), ((0, 0, -51, 9, 52), 75))
    )
    scaled = linear(x * rows[:, None], w * columns[:, None])
    wanted = linear(x, w) * rows[:, None] * columns
    # Where no product, as small as they may be, leaves float32's range.
    fits = (torch.log2(rows)[:, None] + torch.log2(columns)).abs() < 80
    assert torch.equal(scaled[fits], wanted[fits])


def test_gradients_of_rows_that_fade() -> None:
    """Alternating with others, through every form of a square's epilogue."""
    x = torch.randn(300, 96, generator=generator())
    w1, w2 = (torch.randn(n, k, generator=generator(1)) / 8 for n, k in ((200, 96), (96, 200)))
    dy = torch.randn(300, 96, generator=generator(2))
    dy *= torch.tensor([1.0, 2.0**-52, 2.0**-80])[torch.arange(300) % 3][:, None]

    def run(f: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in inputs]
        return torch.autograd.grad(f(*leaves), leaves, dy.to(inputs[0].dtype))

    def mlp(x: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
        return ops.mlp(x, w1, None, w2, None, backend="cpu")

    def plain(x: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
        return F.linear(F.gelu(F.linear(x, w1)), w2)

    exact = run(plain, x.double(), w1.double(), w2.double())
    eager, ours = run(plain, x, w1, w2), run(mlp, x, w1, w2)
    for kind in range(3):  # of the input, each kind of rows by its own measure
        rows = slice(kind, None, 3)
        assert error(ours[0][rows], exact[0][rows]) <= 2 * error(eager[0][rows], exact[0][rows])
    for i in (1, 2):
        assert error(ours[i], exact[i]) <= 2 * error(eager[i], exact[i])
