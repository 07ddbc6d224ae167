"""What happens to a model after it was patched: new weights, dtypes, children, parametrizations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm.layers
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import vitkern
from tests.patching import zoo

NAMES = ("vit-layer-scale", "swin-not-divisible", "our-vit-options", "our-swin")
FLOAT32 = {"rtol": 1e-4, "atol": 1e-4}


def _optimise(model: nn.Module, x: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def _load(model: nn.Module, *, assign: bool) -> None:
    state = {
        key: value * 1.1 if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state, assign=assign)


def _in_place(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9).add_(0.01)


def _swap_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.05


def _write_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(0.95)


def _new_parameters(model: nn.Module) -> None:
    for module in model.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, key, nn.Parameter(parameter.detach() * 0.9))


EDITS: dict[str, Callable[[nn.Module, torch.Tensor], object]] = {
    "optimizer step": _optimise,
    "load_state_dict": lambda model, x: _load(model, assign=False),
    "load_state_dict, assign": lambda model, x: _load(model, assign=True),
    "in place": lambda model, x: _in_place(model),
    "data swapped": lambda model, x: _swap_data(model),
    "written through data": lambda model, x: _write_data(model),
    "new parameters": lambda model, x: _new_parameters(model),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", NAMES)
def test_new_weights_take_effect_at_once(name: str, edit: str) -> None:
    """In inference, where packed weights are kept from call to call, and in training."""
    model, x = zoo.build(name, torch.float32), zoo.images(name, torch.float32)
    vitkern.patch(model)
    for _ in range(2):
        with torch.no_grad():
            model(x)  # keeps packed weights
        EDITS[edit](model, x)
        plain = zoo.twin(model)
        vitkern.unpatch(plain)
        with torch.no_grad():
            torch.testing.assert_close(model(x), plain(x), **FLOAT32)
        with torch.inference_mode():
            torch.testing.assert_close(model(x), plain(x), **FLOAT32)
        torch.testing.assert_close(model(x), plain(x), **FLOAT32)


@pytest.mark.parametrize("name", NAMES)
def test_dtype_may_change(name: str) -> None:
    model, x = zoo.build(name, torch.float32), zoo.images(name)
    vitkern.patch(model)
    model(x.float())
    plain = zoo.twin(model)
    vitkern.unpatch(plain)
    zoo.assert_same(zoo.run(model.double(), x), zoo.run(plain.double(), x))
    half = zoo.images(name, torch.bfloat16)
    truth = plain(half.double())
    eager = plain.bfloat16()(half).detach()
    zoo.assert_as_accurate(
        {"output": model.bfloat16()(half).detach()}, {"output": eager}, {"output": truth.detach()}
    )


def test_frozen_parameters_get_no_gradient() -> None:
    model, x = zoo.build("vit", torch.float32), zoo.images("vit", torch.float32)
    vitkern.patch(model)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in key or key == "blocks.1.mlp.fc2.weight")
    plain = zoo.twin(model)
    vitkern.unpatch(plain)
    for m in (model, plain):
        m(x).square().mean().backward()
    for (key, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), key
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, **FLOAT32)


def test_classifier_may_be_reset() -> None:
    model, x = zoo.build("vit"), zoo.images("vit")
    vitkern.patch(model, backend="eager")
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    names = {entry.name for entry in vitkern.patch(model, backend="eager").patched}
    assert "head" in names  # patched with the others now


def _weight_norm(block: Any) -> None:
    layer = parametrizations.weight_norm(block.mlp.fc1)
    layer.parametrizations.weight.original0.data.mul_(1.5)


class _Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class _Adapted(nn.Module):
    """LoRA as libraries add it: a module in the place of a Linear."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.low = nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
        self.high = nn.Linear(2, base.out_features, bias=False, dtype=base.weight.dtype)
        nn.init.constant_(self.low.weight, 0.1)
        nn.init.constant_(self.high.weight, 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.high(self.low(x))


CHANGES: dict[str, tuple[Callable[[Any], object], bool]] = {
    # change -> whether the fused forward can go on
    "parametrized": (
        lambda b: parametrize.register_parametrization(b.attn.qkv, "weight", _Twice()),
        False,
    ),
    "weight norm": (_weight_norm, False),
    "pruned": (lambda b: prune.l1_unstructured(b.mlp.fc2, "weight", 0.5), False),
    "low rank": (lambda b: setattr(b.attn, "qkv", _Adapted(b.attn.qkv)), False),
    "low rank projection": (lambda b: setattr(b.attn, "proj", _Adapted(b.attn.proj)), False),
    "other activation": (lambda b: setattr(b.mlp, "act", nn.Tanh()), False),
    "known activation": (lambda b: setattr(b.mlp, "act", nn.SiLU()), True),
    "tanh GELU": (lambda b: setattr(b.mlp, "act", nn.GELU(approximate="tanh")), True),
    "other norm": (
        lambda b: setattr(b, "norm1", nn.LayerNorm(48, dtype=torch.float64)),
        False,  # not patched itself: it is called
    ),
    "new layer scale": (
        lambda b: setattr(b, "ls1", timm.layers.LayerScale(48, 0.5, dtype=torch.float64)),
        True,
    ),
    "unknown layer scale": (lambda b: setattr(b, "ls2", _Twice()), False),
    "new MLP": (
        lambda b: setattr(b, "mlp", timm.layers.Mlp(48, 96).double().eval()),
        False,
    ),
}


@pytest.mark.filterwarnings("ignore:vitkern")
@pytest.mark.parametrize("change", CHANGES)
def test_changed_children_are_noticed(change: str) -> None:
    apply, still_fused = CHANGES[change]
    model, x = zoo.build("vit-layer-scale"), zoo.images("vit-layer-scale")
    plain = zoo.twin(model)
    vitkern.patch(model, backend="eager")
    wanted_before = model(x)
    for m in (model, plain):
        torch.manual_seed(0)
        apply(m.blocks[0])
    zoo.assert_same(zoo.run(model, x), zoo.run(plain, x))
    assert not torch.equal(model(x), wanted_before)
    assert model.blocks[0].forward._may_fuse() == still_fused
    assert model.blocks[1].forward._may_fuse()


def test_a_change_that_ends_fusion_is_said_once() -> None:
    model, x = zoo.build("vit"), zoo.images("vit")
    vitkern.patch(model, backend="eager")
    model.blocks[0].mlp.act = nn.Tanh()
    with pytest.warns(UserWarning, match="act is torch.Tanh") as caught:
        model(x)
        model(x)
    assert {str(w.message).split()[1] for w in caught} == {"blocks.0", "blocks.0.mlp"}
    assert len(caught) == 2
    model.blocks[0].mlp.act = nn.GELU()
    model(x)
    assert model.blocks[0].forward._may_fuse()


def test_dynamic_quantization_after_patching() -> None:
    pytest.importorskip("torch.ao.quantization")
    model, x = zoo.build("our-vit", torch.float32), zoo.images("our-vit", torch.float32)
    vitkern.patch(model, backend="eager")
    plain = zoo.twin(model)
    vitkern.unpatch(plain)
    results = []
    for m in (model, plain):
        try:
            q = torch.ao.quantization.quantize_dynamic(m, {nn.Linear}, dtype=torch.qint8)
        except (AttributeError, NotImplementedError, RuntimeError) as error:
            pytest.skip(f"no dynamic quantization here: {error}")
        with torch.no_grad():
            results.append(q(x))
    torch.testing.assert_close(results[0], results[1], **FLOAT32)


def test_functional_call_uses_the_given_parameters() -> None:
    model, x = zoo.build("vit"), zoo.images("vit")
    other = {key: value.detach() * 0.9 for key, value in model.named_parameters()}
    wanted = torch.func.functional_call(model, other, (x,))
    vitkern.patch(model, backend="eager")
    model(x)
    got = torch.func.functional_call(model, other, (x,))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    assert model.blocks[0].forward._may_fuse()
