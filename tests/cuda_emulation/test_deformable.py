"""The gradient of deformable attention's values, which blocks add up by atomic operations."""

from __future__ import annotations

import pytest
import torch

from vitkern import ops
from vitkern.testing import emulation
from vitkern.testing.emulation import ORDERS

SHAPES = ((3, 4), (2, 2))


def _gradient(scale_dout: float = 1.0, scale_weights: float = 1.0) -> torch.Tensor:
    """Of (2, 16, 2, 8) values, at which 24 points add up each: the same at every call."""
    generator = torch.Generator().manual_seed(1)
    value = torch.randn(2, 16, 2, 8, generator=generator).requires_grad_()
    locations = torch.rand(2, 48, 2, 2, 4, 2, generator=generator)
    weights = torch.randn(2, 48, 2, 2, 4, generator=generator) * scale_weights
    dout = torch.randn(2, 48, 16, generator=generator) * scale_dout
    out = ops.deformable_attention(value, SHAPES, locations, weights, backend="cuda_emulated")
    (found,) = torch.autograd.grad(out, value, dout)
    return found


def test_the_same_bits_in_every_order() -> None:
    found = []
    for order in ORDERS:
        with emulation(order):
            found.append(_gradient())
    assert all(torch.equal(found[0], one) for one in found[1:])


@pytest.mark.parametrize("dout, weights", [(1e30, 1e-30), (1e-30, 1.0), (1.0, 1e20), (0.0, 1.0)])
def test_magnitudes_of_all_sizes(dout: float, weights: float) -> None:
    """Each is a part of the largest: nothing overflows, and small ones are not lost."""
    expected = _gradient() * dout * weights
    torch.testing.assert_close(_gradient(dout, weights), expected, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("dout, weights", [(float("inf"), 1.0), (1.0, float("nan"))])
def test_what_is_no_number_is_seen(dout: float, weights: float) -> None:
    assert _gradient(dout, weights).isnan().all()
