"""``window_attention`` with ``logit_scale``: scores are cosines, as in Swin V2."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer_v2 import SwinTransformerV2Block

from tests.ops import harness
from vitkern import ops

HEADS, WINDOW, SHIFT, DIM = 3, 5, 2, 48
NAMES = ("x", "qkv", "bias", "table", "logit_scale")


def _draw(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    values = {
        "x": torch.randn(2, 13, 17, DIM),
        "qkv": torch.randn(3 * DIM, DIM) * 0.3,
        "bias": torch.randn(3 * DIM),
        "table": torch.randn((2 * WINDOW - 1) ** 2, HEADS),
        "logit_scale": torch.rand(HEADS) * 20 + 5,
    }
    return {name: value.to(dtype) for name, value in values.items()}


def _ours(values: dict[str, torch.Tensor], backend: str | None = None) -> torch.Tensor:
    return ops.window_attention(
        F.linear(values["x"], values["qkv"], values["bias"]),
        values["table"],
        num_heads=HEADS,
        window_size=WINDOW,
        shift_size=SHIFT,
        logit_scale=values["logit_scale"],
        pad_value=values["bias"],
        backend=backend,
    )


class _Table(torch.nn.Module):
    """In place of the network that makes the bias: its result, before timm's 16 * sigmoid."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, offsets: torch.Tensor) -> torch.Tensor:
        return (self.table / 16).logit()


def _timms(values: dict[str, torch.Tensor]) -> torch.Tensor:
    block = SwinTransformerV2Block(DIM, (13, 17), HEADS, window_size=WINDOW, shift_size=SHIFT)
    block.to(values["x"].dtype)
    attn = block.attn
    q, k, v = values["bias"].chunk(3)
    attn.cpb_mlp = _Table(values["table"])
    attn.proj = torch.nn.Identity()
    for holder, name, value in (
        (attn, "q_bias", q), (attn, "v_bias", v), (attn.qkv, "weight", values["qkv"]),
        (attn, "logit_scale", values["logit_scale"].log().view(-1, 1, 1)),
    ):  # fmt: skip
        del holder._parameters[name]
        setattr(holder, name, value)
    attn.k_bias = k
    out: torch.Tensor = block._attn(values["x"])
    return out


def _with_gradients(
    function: Callable[[dict[str, torch.Tensor]], torch.Tensor], values: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    leaves = {name: values[name].detach().requires_grad_() for name in NAMES}
    out = function(leaves)
    generator = torch.Generator().manual_seed(3)
    upstream = torch.randn(out.shape, generator=generator).to(out.dtype)
    grads = torch.autograd.grad(out, list(leaves.values()), upstream)
    return {"out": out.detach(), **dict(zip(NAMES, grads, strict=True))}


def _positive(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A table that 16 * sigmoid can give."""
    return values | {"table": 1 + 14 * values["table"].sigmoid()}


def test_is_timm_s() -> None:
    values = _positive(_draw(torch.float64))
    ours = _with_gradients(lambda v: _ours(v, "eager"), values)
    timms = _with_gradients(_timms, values)
    for name, value in ours.items():
        torch.testing.assert_close(value, timms[name], rtol=0, atol=1e-11)


@pytest.mark.parametrize("backend", harness.backends("window_attention"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=harness.short)
def test_as_close_as_eager(backend: str, dtype: torch.dtype) -> None:
    values = _positive(_draw(dtype))
    truth = _with_gradients(_timms, {name: value.double() for name, value in values.items()})
    eager = _with_gradients(_timms, values)
    got = _with_gradients(lambda v: _ours(v, backend), values)
    for name, value in got.items():
        harness.compare(name, value, [eager[name]], truth[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zero_queries_and_keys_are_finite(dtype: torch.dtype) -> None:
    qkv = torch.zeros(1, 4, 4, 3 * 8, dtype=dtype, requires_grad=True)
    scale = torch.full((2,), 100.0, dtype=dtype)
    out = ops.window_attention(qkv, num_heads=2, window_size=2, logit_scale=scale)
    out.sum().backward()
    assert qkv.grad is not None
    assert out.isfinite().all()
    assert qkv.grad.isfinite().all()


def test_scores_do_not_depend_on_lengths() -> None:
    qkv = torch.randn(1, 4, 4, 3 * 8)
    longer = qkv * torch.tensor([3.0] * 8 + [0.01] * 8 + [1.0] * 8)
    scale = torch.tensor([4.0, 9.0])
    one, other = (
        ops.window_attention(x, num_heads=2, window_size=2, logit_scale=scale)
        for x in (qkv, longer)
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_autocast_and_compile() -> None:
    values = _draw()
    qkv, scale = F.linear(values["x"], values["qkv"]), values["logit_scale"]

    def run(qkv: torch.Tensor) -> torch.Tensor:
        return ops.window_attention(
            qkv, num_heads=HEADS, window_size=WINDOW, shift_size=SHIFT, logit_scale=scale
        )

    wanted = run(qkv)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(qkv)
    torch.testing.assert_close(compiled, wanted, rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        half = run(qkv)
    assert half.dtype == torch.bfloat16
    # Scores of up to 25 from q and k of 8 bits: measured 0.11 to 0.15 on values of up to 7 to 9.
    assert (half.float() - wanted).abs().max() < wanted.abs().max() / 32
