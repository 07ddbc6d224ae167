"""``rotary_attention``: it is timm's, wherever PyTorch or a kernel does what comes first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.layers import LayerNorm, RmsNorm
from timm.models.eva import EvaAttention
from timm.models.vision_transformer import Attention

from tests.ops import harness
from vitkern import ops
from vitkern.dispatch import UnknownBackend

HEADS, DIM, LENGTH, PREFIX = 3, 48, 21, 2
HEAD_DIM = DIM // HEADS


def _module(norm: type | None, *, half: bool, rope: bool) -> torch.nn.Module:
    if not rope:
        made: torch.nn.Module = Attention(
            DIM, num_heads=HEADS, qkv_bias=True, qk_norm=True, norm_layer=norm
        )
    else:
        made = EvaAttention(
            DIM, HEADS, num_prefix_tokens=PREFIX, norm_layer=norm, qk_norm=norm is not None,
            scale_norm=False, rotate_half=half,
        )  # fmt: skip
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def _ours(module: Any, x: torch.Tensor, rope: torch.Tensor | None, backend: str) -> torch.Tensor:
    bias = module.qkv.bias
    if bias is None:
        bias = torch.cat((module.q_bias, module.k_bias, module.v_bias))
    qkv = torch.nn.functional.linear(x, module.qkv.weight, bias)
    q, k, v = qkv.unflatten(-1, (3, HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4).unbind(0)
    norm = {LayerNorm: "layer", RmsNorm: "rms"}.get(type(module.q_norm))
    sin, cos = (None, None) if rope is None else rope.chunk(2, -1)
    out = ops.rotary_attention(
        q, k, v, norm=norm,
        q_weight=getattr(module.q_norm, "weight", None),
        q_bias=getattr(module.q_norm, "bias", None),
        k_weight=getattr(module.k_norm, "weight", None),
        k_bias=getattr(module.k_norm, "bias", None),
        eps=getattr(module.q_norm, "eps", 1e-6), sin=sin, cos=cos,
        interleaved=not getattr(module, "rotate_half", False), backend=backend,
    )  # fmt: skip
    projected: torch.Tensor = module.proj(out.transpose(1, 2).flatten(2))
    return projected


FORMS = {
    "layer": (LayerNorm, False, False),
    "rms": (RmsNorm, False, False),
    "interleaved": (None, False, True),
    "halves": (None, True, True),
    "layer-interleaved": (LayerNorm, False, True),
    "rms-halves": (RmsNorm, True, True),
}


def _results(
    run: Callable[..., torch.Tensor], module: torch.nn.Module, x: torch.Tensor, rope: Any
) -> dict[str, torch.Tensor]:
    """The output, and the gradients of the input, the table and all parameters."""
    leaves = {"x": x.detach().requires_grad_(), **dict(module.named_parameters())}
    if rope is not None:
        rope = leaves["rope"] = rope.detach().requires_grad_()
    out = run(leaves["x"], rope)
    generator = torch.Generator().manual_seed(3)
    upstream = torch.randn(out.shape, generator=generator).to(out.dtype)
    grads = torch.autograd.grad(out, list(leaves.values()), upstream)
    return {"out": out.detach(), **dict(zip(leaves, grads, strict=True))}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", ["eager", *harness.backends("attention")])
def test_is_timm_s(form: str, backend: str) -> None:
    norm, half, with_rope = FORMS[form]
    module = _module(norm, half=half, rope=with_rope)
    x = torch.randn(2, LENGTH, DIM)
    angles = torch.randn(LENGTH - PREFIX, HEAD_DIM) * 2
    rope = torch.cat((angles.sin(), angles.cos()), -1) if with_rope else None

    def theirs(x: torch.Tensor, rope: torch.Tensor | None) -> torch.Tensor:
        out: torch.Tensor = module(x) if rope is None else module(x, rope=rope)
        return out

    eager = _results(theirs, module, x, rope)
    got = _results(partial(_ours, module, backend=backend), module, x, rope)
    module.double()
    truth = _results(theirs, module, x.double(), None if rope is None else rope.double())
    for name, value in got.items():
        harness.compare(name, value, [eager[name]], truth[name])


def _call(**changes: Any) -> dict[str, Any]:
    q, k, v = (torch.randn(2, 3, 7, 8) for _ in range(3))
    return {"q": q, "k": k, "v": v} | changes


TABLE = torch.zeros(5, 8)
ERRORS = [
    ({"norm": "batch"}, ValueError, "norm must be None, 'layer' or 'rms', got 'batch'"),
    ({"q_weight": torch.ones(8)}, ValueError, "q_weight must be None where norm is None"),
    (
        {"norm": "rms", "k_bias": torch.ones(8)}, ValueError,
        "k_bias must be None where norm is 'rms'",
    ),
    ({"norm": "rms", "q_weight": torch.ones(7)}, ValueError, "q_weight must have shape (8,)"),
    (
        {"norm": "rms", "q_weight": torch.ones(8, dtype=torch.float64)}, TypeError,
        "q_weight is torch.float64 but q is torch.float32",
    ),
    ({"norm": "rms", "eps": -1.0}, ValueError, "eps must be finite and at least 0, got -1.0"),
    ({"sin": TABLE}, ValueError, "sin and cos must be given together, got no cos"),
    ({"sin": torch.zeros(8, 8), "cos": TABLE}, ValueError, "M of at most 7, got shape (8, 8)"),
    ({"sin": torch.zeros(2, 5, 8), "cos": TABLE}, ValueError, "got shape (2, 5, 8)"),
    ({"sin": TABLE, "cos": TABLE[:4]}, ValueError, "cos must have shape (5, 8)"),
    ({"sin": TABLE, "cos": TABLE.double()}, TypeError, "cos is torch.float64 but sin is"),
    ({"sin": TABLE.half(), "cos": TABLE.half()}, TypeError, "sin is torch.float16 but q is"),
    ({"sin": TABLE, "cos": TABLE, "interleaved": 1}, TypeError, "interleaved must be True or"),
    ({"q": torch.randn(2, 3, 7)}, ValueError, "q must have 4 dimensions"),
]  # fmt: skip


@pytest.mark.parametrize("changes, kind, message", ERRORS, ids=[e[2][:24] for e in ERRORS])
def test_errors(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        ops.rotary_attention(**_call(**changes))
    assert message in str(caught.value)


def test_an_odd_head_is_not_rotated() -> None:
    odd = {name: torch.randn(1, 1, 3, 5) for name in "qkv"}
    with pytest.raises(ValueError, match="even head_dim to be rotated, got \\(1, 1, 3, 5\\)"):
        ops.rotary_attention(**odd, sin=torch.zeros(3, 5), cos=torch.zeros(3, 5))


def test_an_unknown_backend() -> None:
    with pytest.raises(UnknownBackend):
        ops.rotary_attention(**_call(), norm="rms", backend="cpi")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=harness.short)
def test_float32_parameters_and_tables_beside_half_precision(dtype: torch.dtype) -> None:
    """As timm keeps them; what they make has q's dtype."""
    case = next(c for c in harness.cases("rotary_attention") if c.name == "everything")
    wide = harness.make("rotary_attention", case)._replace(key_padding_mask=None, dropout_p=0.0)
    halves = {name: getattr(wide, name).to(dtype) for name in ("q", "k", "v", "bias")}
    mixed = wide._replace(**halves)
    out = harness.public("rotary_attention")(mixed)
    assert out.dtype == dtype
    exact = harness.public("rotary_attention", "eager")(harness.convert(mixed, torch.Tensor.double))
    assert (out.double() - exact).abs().max() < 8 * torch.finfo(dtype).eps * exact.abs().max()
