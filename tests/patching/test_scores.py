"""Attention that a module writes out, in many ways of writing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vitkern
from vitkern.bench.coverage import count_products
from vitkern.patching.products import Products, Routed
from vitkern.patching.scores import Scores
from vitkern.patching.swap import Swap

WIDTH, HEADS = 24, 3
Tensor = torch.Tensor
Way = Callable[["Written", Tensor, Tensor, Tensor], Any]


class Written(nn.Module):
    """Attention of four windows of six tokens; ``way`` is what it does with q, k and v."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way = way
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.table = nn.Parameter(torch.randn(1, HEADS, 6, 6))
        self.heat = nn.Parameter(torch.randn(HEADS, 1, 1))
        self.drop = nn.Dropout(0.0)
        self.soft = nn.Softmax(dim=-1)
        self.register_buffer("mask", torch.randn(2, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        """x is (4, 6, WIDTH)."""
        qkv = self.qkv(x).reshape(4, 6, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        y: Tensor = self.way(self, *qkv.unbind(0))
        return y


def _swin(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * 0.3 + m.table
    scores = scores.view(-1, 2, HEADS, 6, 6) + m.mask.unsqueeze(1).unsqueeze(0)
    scores = scores.view(-1, HEADS, 6, 6)
    return m.drop(m.soft(scores)) @ v


def _cosine(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(F.normalize(q, dim=-1), F.normalize(k, dim=-1).transpose(-1, -2))
    return torch.matmul(F.softmax(scores * m.heat.exp() + m.table, dim=3), v)


def _bias_first(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = m.table + q.matmul(k.mT)
    return F.dropout((2.0 * scores / 3.0).softmax(-1), 0.5, training=False).matmul(v)


def _five_dimensions(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (one.unflatten(0, (2, 2)) for one in (q, k, v))
    scores = (q @ k.transpose(-2, -1)) + m.table.unsqueeze(0)
    return (scores.softmax(dim=-1) @ v).flatten(0, 1)


def _reshaped_bias(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = torch.cat([m.table, 2 * m.table, 3 * m.table, m.table])
    scores = (q @ k.transpose(-2, -1) + bias).reshape(2, 2, HEADS, 6, 6)
    return (scores * m.heat).reshape(4, HEADS, 6, 6).softmax(-1) @ v


def _divided(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / m.heat.exp() + m.table
    return (scores / torch.tensor(3) * torch.tensor(0.5, dtype=torch.float64)).softmax(-1) @ v


FUSED: dict[str, Way] = {
    "divided": _divided,
    "swin": _swin,
    "cosine": _cosine,
    "bias first": _bias_first,
    "five dimensions": _five_dimensions,
    "reshaped bias": _reshaped_bias,
}


def _weights_used(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.transpose(-2, -1)).softmax(-1)
    return weights @ v + weights.mean(-1, keepdim=True) * weights[..., :1]


def _in_place(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    same = scores
    scores += m.table
    scores *= 0.5
    weights = same.softmax(-1)
    weights = weights / weights.sum(-1, keepdim=True)
    return weights @ v + scores.sum(-1, keepdim=True)


def _masked(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1)).masked_fill(m.mask[0] > 1.0, -9.0)
    return scores.softmax(-1) @ v


def _mixed(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    scores = m.heat[0] * scores.permute(0, 2, 3, 1) + 1
    weights = scores.permute(0, 3, 1, 2).softmax(-1)
    gate = m.heat.sigmoid()
    return ((1.0 - gate) * weights + gate * m.table.softmax(-1)) @ v


def _other_axis(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)).softmax(-2) @ v + F.softmax(q @ k.mT, dim=2) @ v


def _not_attention(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)) @ v + (q @ k.mT * q.mean(-1).unsqueeze(-2)).softmax(-1) @ v


def _other_width(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.cat([(q @ k.mT).softmax(-1) @ v[..., :5], (q[..., :3] @ k[..., :3].mT) @ v], -1)


def _twice(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    return (scores + scores).softmax(-1) @ v - scores.abs() @ v + (-scores) @ (scores @ v)


def _broadcast_up(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.mT) + m.mask.view(2, 1, 1, 6, 6)
    return scores.softmax(-1).sum(0) @ v


def _whole_values(m: Written, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    size = len(scores), scores.size(-1), scores.shape, scores.dtype, scores.dim()
    assert size == (4, 6, torch.Size((4, HEADS, 6, 6)), q.dtype, 4)
    assert torch.is_tensor(torch.stack([scores, scores]))
    return torch.where(scores > 0, scores, 0.1 * scores).softmax(-1) @ v


OTHERS: dict[str, Way] = {
    "weights used": _weights_used,
    "in place": _in_place,
    "masked": _masked,
    "mixed": _mixed,
    "other axis": _other_axis,
    "not attention": _not_attention,
    "other width": _other_width,
    "twice": _twice,
    "broadcast up": _broadcast_up,
    "whole values": _whole_values,
}

ADAPTER = Products("test.Written", f"{__name__}:Written", written_out=True)


def results(model: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Output and all gradients."""
    x = x.clone().requires_grad_()
    y = run(x)
    wanted = [x, *model.parameters()]
    grads = torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum(), wanted,
                                allow_unused=True)  # fmt: skip
    return [y.detach(), *(torch.zeros(1) if grad is None else grad for grad in grads)]


@pytest.mark.parametrize("name", [*FUSED, *OTHERS])
def test_every_way_gives_what_it_gave(name: str) -> None:
    model = Written((FUSED | OTHERS)[name]).double().eval()
    x = torch.randn(4, 6, WIDTH, dtype=torch.float64)
    swap = Swap(model, ADAPTER, "eager", "", ())
    for one, wanted in zip(results(model, swap, x), results(model, model, x), strict=True):
        torch.testing.assert_close(one, wanted, rtol=0, atol=1e-11)
    with torch.inference_mode():
        torch.testing.assert_close(swap(x), model(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", FUSED)
def test_attention_is_one_op(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Scores) -> Tensor:
        raise AssertionError("computed")

    monkeypatch.setattr(Scores, "tensor", never)
    model = Written(FUSED[name]).double().eval()
    Swap(model, ADAPTER, "eager", "", ())(torch.randn(4, 6, WIDTH, dtype=torch.float64))


def test_dropout_that_acts_runs_as_it_did() -> None:
    model = Written(_swin).double().train()
    model.drop.p = 0.5
    x = torch.randn(4, 6, WIDTH, dtype=torch.float64)
    torch.manual_seed(3)
    wanted = model(x)
    torch.manual_seed(3)
    got = Swap(model, ADAPTER, "eager", "", ())(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)


def test_modes_end_with_the_forward() -> None:
    model = Written(_whole_values)
    swap = Swap(model, ADAPTER, "eager", "", ())
    with pytest.raises(RuntimeError):
        swap(torch.randn(5, 5))
    assert type(torch.randn(2, 2, 2, 2) @ torch.randn(2, 2, 2, 2)) is Tensor
    with Routed(swap, model):
        left = torch.randn(2, 2, 2, 2) @ torch.randn(2, 2, 2, 2)
    assert type(left) is Scores
    assert torch.add(left, 1.0).shape == (2, 2, 2, 2)  # what escapes is a tensor where it counts


def test_compiled_attention_is_traced_as_it_is_written() -> None:
    model = Written(_swin).eval()
    x = torch.randn(4, 6, WIDTH)
    wanted = model(x)
    model.__dict__["forward"] = Swap(model, ADAPTER, "eager", "", ())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), wanted)
    vitkern.unpatch(model)


def test_products_are_counted_where_they_run() -> None:
    model = Written(_swin).eval()
    x = torch.randn(4, 6, WIDTH)
    swap = Swap(model, ADAPTER, "eager", "", ())
    assert count_products(lambda: swap(x)).total == count_products(lambda: model(x)).total
