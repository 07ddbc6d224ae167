"""Small runs of an op on a library of kernels, right or wrong, outside of dispatch."""

from __future__ import annotations

import torch

from vitkern.ops._cuda import gemm
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._cuda.sums import column_sums
from vitkern.ops._products import Epilogue
from vitkern.ops.attention import cuda as attention_op
from vitkern.ops.deformable_attention import cuda as deformable_op
from vitkern.ops.deformable_attention.call import DeformableAttentionCall
from vitkern.ops.deformable_attention.reference import reference as deformable_reference
from vitkern.ops.layer_norm import cuda as layer_norm
from vitkern.ops.window_attention import cuda as window_op
from vitkern.testing.emulation import Card, on_card


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def wide_rows(kernels: CudaKernels) -> None:
    """Layer normalisation by blocks."""
    x, none = _normal(5, 2052), torch.empty(0)
    y = torch.full_like(x, float("nan"))
    layer_norm._launch(kernels, (y, none, none), x, None, None, 1e-5, None, None, False)
    torch.testing.assert_close(y, torch.nn.functional.layer_norm(x, x.shape[1:]))


def short_rows(kernels: CudaKernels) -> None:
    """Layer normalisation by warps, with its backward."""
    x, dy, weight = _normal(9, 83), _normal(9, 83).flip(0), _normal(83)
    y, stats, none = torch.full_like(x, float("nan")), torch.empty(9, 2), torch.empty(0)
    layer_norm._launch(kernels, (y, none, stats), x, weight, None, 1e-5, None, None, True)
    found = (torch.empty_like(x), torch.empty(83), torch.empty(83))
    layer_norm._launch_backward(
        kernels, (*found, none), dy, None, x, weight, stats, None, True, True, True, False
    )
    leaves = (x.requires_grad_(), weight.requires_grad_(), torch.zeros(83, requires_grad=True))
    expected = torch.nn.functional.layer_norm(x, (83,), *leaves[1:])
    torch.testing.assert_close(y, expected.detach())
    torch.testing.assert_close(found, torch.autograd.grad(expected, leaves, dy))


def sums(kernels: CudaKernels) -> None:
    """Of columns."""
    partial, total = _normal(11, 70), torch.full((70,), float("nan"))
    column_sums(kernels, partial, total)
    torch.testing.assert_close(total, partial.sum(0))


def _product(kernels: CudaKernels, m: int, n: int, k: int, dtype: torch.dtype) -> None:
    a, b, bias = _normal(m, k).to(dtype), _normal(n, k).flip(0).to(dtype), _normal(n).to(dtype)
    c = torch.full((m, n), float("nan"), dtype=dtype)
    gemm.product(kernels, a, b, c, Epilogue(bias, activation=3))
    expected = torch.relu(torch.nn.functional.linear(a.double(), b.double(), bias.double()))
    torch.testing.assert_close(c.double(), expected, rtol=0.02, atol=0.05)


def product(kernels: CudaKernels) -> None:
    """Whose operands are copied 16 bytes at a time, through every stage of the ring and again."""
    _product(kernels, 70, 72, 328, torch.bfloat16)


def warpgroup_product(kernels: CudaKernels) -> None:
    """By wgmma: two tiles down and across, not full, through every stage of the ring and again."""
    with on_card(Card(1, warpgroups=True)):
        _product(kernels, 150, 136, 328, torch.bfloat16)


def split_product(kernels: CudaKernels) -> None:
    """Whose k several blocks share, the last of them with less of it; rows of fours and others."""
    with on_card(Card(1000)):
        _product(kernels, 70, 72, 1096, torch.bfloat16)
        _product(kernels, 5, 70, 552, torch.float32)


def scattered_product(kernels: CudaKernels) -> None:
    """Whose operands are copied by elements."""
    _product(kernels, 66, 65, 83, torch.bfloat16)


def float32_product(kernels: CudaKernels) -> None:
    """Without tensor cores."""
    _product(kernels, 70, 72, 84, torch.float32)


def attention(kernels: CudaKernels) -> None:
    """Keys that go through both stages twice, the last tile of them not full."""
    q, k, v = (_normal(1, 2, n, 32).to(torch.bfloat16) for n in (70, 200, 200))
    out, none = torch.full_like(q, float("nan")), torch.empty(0)
    out = out.transpose(1, 2).contiguous().transpose(1, 2)
    attention_op._launch(kernels, (out, none), q, k, v, None, None, 0.1, 0.0, None, False)
    expected = (0.1 * q.double() @ k.double().mT).softmax(-1) @ v.double()
    torch.testing.assert_close(out.double(), expected, rtol=0.01, atol=0.004)


def windows(kernels: CudaKernels) -> None:
    """The backward of windows, two of them one after another in a block."""
    heads, size, scale = 6, 16, 0.1
    qkv, dout = _normal(1, 7, 14, 3 * heads * size), _normal(1, 7, 14, heads * size).flip(0)
    qkv, dout = qkv.to(torch.bfloat16), dout.to(torch.bfloat16)
    leaf = qkv.double().requires_grad_()
    q, k, v = leaf.view(7, 2, 7, 3, heads, size).permute(3, 1, 4, 0, 2, 5).flatten(3, 4)
    scores = scale * q @ k.mT
    log_sums = scores.detach().logsumexp(-1).float()
    expected = (scores.softmax(-1) @ v).unflatten(2, (7, 7)).permute(2, 0, 3, 1, 4)
    expected = expected.reshape(dout.shape)
    out, none = expected.detach().to(qkv.dtype).contiguous(), torch.empty(0)
    found = torch.full_like(qkv, float("nan"))
    with on_card(Card(1)):
        window_op._launch_backward(
            kernels, (found, none, none), dout, qkv, None, None, out, log_sums, heads,
            7, 7, 0, 0, scale, False, True, False, False,
        )  # fmt: skip
    (wanted,) = torch.autograd.grad(expected, leaf, dout.double())
    torch.testing.assert_close(found.double(), wanted, rtol=0.02, atol=0.02)


def points(kernels: CudaKernels) -> None:
    """Deformable attention and its gradients; the last warp has threads without a row."""
    value, shapes = _normal(2, 26, 3, 7), ((4, 5), (2, 3))
    locations, weights = _normal(2, 5, 3, 2, 2, 2) * 0.3 + 0.5, _normal(2, 5, 3, 2, 2)
    dout, flat = _normal(2, 5, 21).flip(0), [4, 5, 2, 3]
    out = torch.full_like(dout, float("nan"))
    deformable_op._launch(kernels, (out,), value, flat, locations, weights)
    leaves = tuple(one.clone().requires_grad_() for one in (value, locations, weights))
    expected = deformable_reference(DeformableAttentionCall(leaves[0], shapes, *leaves[1:]))
    torch.testing.assert_close(out, expected.detach())
    found = tuple(torch.full_like(one, float("nan")) for one in (value, locations, weights))
    deformable_op._launch_backward(
        kernels, found, dout, value, flat, locations, weights, True, True, True
    )
    wanted = torch.autograd.grad(expected, leaves, dout)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
