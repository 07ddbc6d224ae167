"""Mends of Triton's interpreter. Run under TRITON_INTERPRET=1; the bit twiddling needs none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitkern.ops._triton import availability, interpreter

VALUES = torch.cat([
    torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 1e3,
    torch.tensor([0.0, -0.0, 1.0, 1.00390625, 1.01171875, 3.4e38, -3.4e38, 1e-40, float("inf")]),
])  # fmt: skip


def test_rounding_is_pytorchs() -> None:
    bits = interpreter.to_bfloat16_bits(VALUES.numpy())
    expected = VALUES.bfloat16().view(torch.uint16).numpy()
    assert (bits == expected).all()


def test_nan_stays_nan_whatever_its_bits() -> None:
    patterns = np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF], np.uint32)
    bits = interpreter.to_bfloat16_bits(patterns.view(np.float32))
    assert np.isnan(interpreter.from_bfloat16_bits(bits)).all()


def test_widening_is_exact() -> None:
    halves = VALUES.bfloat16()
    wide = interpreter.from_bfloat16_bits(halves.view(torch.uint16).numpy())
    assert (torch.from_numpy(wide) == halves.float()).all()


interpreted = pytest.mark.skipif(
    not availability.interpreted() or availability.missing() is not None,
    reason="needs TRITON_INTERPRET=1",
)


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_products_are_summed_in_float32(dtype: torch.dtype) -> None:
    import vitkern

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(17, 96, generator=generator).to(dtype)
    weight = torch.randn(33, 96, generator=generator).to(dtype)
    y = vitkern.ops.linear(x, weight, backend="triton")
    exact = x.double() @ weight.double().T
    rounding = torch.finfo(dtype).eps / 2
    assert ((y.double() - exact).abs() <= exact.abs() * rounding + 1e-5).all()
