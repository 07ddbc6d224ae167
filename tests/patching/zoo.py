"""Small models of every kind that is patched, and how a run of one is compared with another."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import timm.models
import torch
from timm.layers import activations
from torch import nn

from vitkern import models

Build = Callable[[], nn.Module]

_VIT: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 10,
}
_SWIN: dict[str, Any] = {
    "img_size": 56,
    "embed_dim": 24,
    "depths": (2, 2),
    "num_heads": (2, 3),
    "num_classes": 10,
    "drop_path_rate": 0.0,
}


def _not_fused(build: Build) -> nn.Module:
    model = build()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


_vit = partial(timm.models.VisionTransformer, **_VIT)
_swin = partial(timm.models.SwinTransformer, **_SWIN)
_our_vit = partial(models.VisionTransformer, **_VIT)
_our_swin = partial(models.SwinTransformer, **_SWIN)

# name -> (builder, shape of an input)
MODELS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "vit": (_vit, (2, 3, 32, 32)),
    "vit-layer-scale": (partial(_vit, init_values=0.1), (2, 3, 32, 32)),
    "vit-qk-norm": (partial(_vit, qk_norm=True), (2, 3, 32, 32)),
    "vit-no-class-token": (partial(_vit, class_token=False, global_pool="avg"), (2, 3, 32, 32)),
    "vit-registers": (partial(_vit, reg_tokens=3, no_embed_class=True), (2, 3, 32, 32)),
    "vit-dynamic-size": (partial(_vit, dynamic_img_size=True), (2, 3, 40, 24)),
    "vit-dynamic-pad": (
        partial(_vit, dynamic_img_size=True, dynamic_img_pad=True),
        (1, 3, 30, 41),
    ),
    "vit-pre-norm": (
        partial(_vit, pre_norm=True, act_layer=activations.QuickGELU, qkv_bias=False),
        (2, 3, 32, 32),
    ),
    "vit-scale-norms": (
        partial(_vit, scale_attn_norm=True, scale_mlp_norm=True, proj_bias=False),
        (2, 3, 32, 32),
    ),
    "vit-embed-norm": (
        partial(_vit, embed_norm_layer="layernorm", act_layer="gelu_tanh", norm_layer=nn.LayerNorm),
        (2, 3, 32, 32),
    ),
    "vit-map-pool": (partial(_vit, global_pool="map", class_token=False), (2, 3, 32, 32)),
    "vit-not-fused": (partial(_not_fused, partial(_vit, qk_norm=True)), (2, 3, 32, 32)),
    "vit-no-head": (partial(_vit, num_classes=0), (2, 3, 32, 32)),
    "vit-empty-batch": (_vit, (0, 3, 32, 32)),
    "deit-distilled": (
        partial(timm.models.deit.VisionTransformerDistilled, **_VIT),
        (2, 3, 32, 32),
    ),
    "swin": (_swin, (2, 3, 56, 56)),
    "swin-non-square": (partial(_swin, img_size=(56, 84)), (2, 3, 56, 84)),
    "swin-not-divisible": (partial(_swin, img_size=(72, 44)), (2, 3, 72, 44)),
    "swin-odd-merging": (partial(_swin, img_size=(60, 52)), (1, 3, 60, 52)),
    "swin-dynamic-size": (partial(_swin, dynamic_img_size=True), (1, 3, 72, 60)),
    "swin-shrunk-window": (partial(_swin, img_size=(28, 56)), (2, 3, 28, 56)),
    "swin-no-bias": (partial(_swin, qkv_bias=False, img_size=(72, 44)), (1, 3, 72, 44)),
    "swin-window-4x6": (partial(_swin, window_size=(4, 6), img_size=(72, 60)), (1, 3, 72, 60)),
    "swin-not-fused": (partial(_not_fused, _swin), (1, 3, 56, 56)),
    "swin-head-dim": (partial(_swin, head_dim=8), (1, 3, 56, 56)),
    "our-vit": (_our_vit, (2, 3, 32, 32)),
    "our-vit-options": (
        partial(
            _our_vit, init_values=0.1, qk_norm=True, class_token=False, global_pool="avg"
        ),
        (2, 3, 32, 32),
    ),
    "our-swin": (_our_swin, (2, 3, 56, 56)),
    "our-swin-not-divisible": (partial(_our_swin, img_size=(72, 44)), (1, 3, 72, 44)),
}  # fmt: skip


def build(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The model in evaluation mode, with every parameter far from where it starts."""
    model = MODELS[name][0]().to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    for key, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        centre = 1.0 if parameter.dim() == 1 and key.endswith(("weight", "gamma")) else 0.0
        spread = 0.2 if parameter.dim() <= 1 or parameter.shape[0] == 1 else 0.15
        parameter.data.copy_(centre + spread * noise)
    return model


def images(name: str, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    """An input of the model."""
    generator = torch.Generator().manual_seed(seed)
    shape = MODELS[name][1]
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def run(
    model: nn.Module, x: torch.Tensor, *, seed: int = 0, forward: Callable[..., Any] | None = None
) -> dict[str, torch.Tensor]:
    """Output, and the gradient of the input and of every parameter (zeros where there is none)."""
    x = x.detach().clone().requires_grad_()
    named = dict(model.named_parameters())
    torch.manual_seed(seed)
    y = (model if forward is None else forward)(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    grads = torch.autograd.grad((y * weights).sum(), [x, *named.values()], allow_unused=True)
    results = {"output": y.detach()}
    for name, value, grad in zip(["input", *named], [x, *named.values()], grads, strict=True):
        results[f"d{name}"] = torch.zeros_like(value) if grad is None else grad
    return results


def assert_same(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Equal but for rounding in float64."""
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype, name
        scale = max(1.0, value.abs().max().item()) if value.numel() else 1.0
        torch.testing.assert_close(
            got[name], value, rtol=0, atol=1e-10 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


# Through a whole model one tensor's error is partly chance: measured on these models, a gradient
# of 16 values has up to 2.5 times eager's; the geometric mean over a model's tensors is 0.64 to
# 1.35 for one input (its tensors' errors go together), and 0.85 to 1.08 over eight. So single
# tensors get some units in the last place, and the mean over several inputs hardly anything.
UNITS = 16.0
MEAN_RATIO = 1.2


def assert_as_accurate(
    got: dict[str, torch.Tensor],
    eager: dict[str, torch.Tensor],
    truth: dict[str, torch.Tensor],
) -> list[float]:
    """Each error at most twice eager's and some roundings; returns the logarithms of its ratios."""
    ratios = []
    for name, exact in truth.items():
        assert got[name].dtype == eager[name].dtype, name
        if exact.numel() == 0:
            continue
        error, allowed = (_largest(run[name], exact) for run in (got, eager))
        size = exact.abs().max().item()
        vanishes = size < 1e-9  # in exact arithmetic, as of a bias that all keys share
        size = 1.0 if vanishes else max(size, 1e-3)
        bound = 2 * allowed + UNITS * torch.finfo(got[name].dtype).eps * size
        assert error <= bound, f"{name}: error {error:.3g} > {bound:.3g} (size {size:.3g})"
        if allowed > 0.0 and error > 0.0 and not vanishes:
            ratios.append(math.log(error / allowed))
    return ratios


def assert_no_worse_on_average(ratios: list[float]) -> None:
    """The geometric mean of the errors over several inputs is hardly above eager's."""
    assert ratios, "nothing was compared"
    mean = math.exp(sum(ratios) / len(ratios))
    assert mean <= MEAN_RATIO, f"errors are {mean:.2f} times eager's on average"


def _largest(value: torch.Tensor, exact: torch.Tensor) -> float:
    return (value.double() - exact).abs().max().item()


def twin(model: nn.Module) -> nn.Module:
    """A copy to compare with; its own parameters."""
    return copy.deepcopy(model)


def state_of(model: nn.Module) -> list[tuple[str, list[tuple[str, int]]]]:
    """Every module's ``__dict__``: its keys in order, and the identity of what they hold."""
    return [
        (name, [(key, id(value)) for key, value in module.__dict__.items()])
        for name, module in model.named_modules()
    ]
