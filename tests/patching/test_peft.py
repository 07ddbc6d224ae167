"""Adapters of peft on patched models: outputs, their gradients, merged and not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import vitkern
from tests.patching import zoo
from tests.patching.families import FAMILIES

peft = pytest.importorskip("peft")

TARGETS = {"timm": ["qkv", "fc1"], "hf": ["q_proj", "v_proj", "fc1"]}


def build(library: str) -> tuple[nn.Module, torch.Tensor]:
    """A ViT with LoRA that is not at its start, where its second factor is zero."""
    torch.manual_seed(0)
    model = zoo.build("vit") if library == "timm" else FAMILIES["hf-vit"].build()
    images = torch.randn(2, 3, *zoo.images("vit").shape[2:], dtype=torch.float64)
    config = peft.LoraConfig(r=2, target_modules=TARGETS[library], lora_dropout=0.0)
    adapted: nn.Module = peft.get_peft_model(model, config).double().eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    return adapted, images


def results(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """The output, and gradients of what is trained: the adapters."""
    y = model(images)
    y = y if isinstance(y, torch.Tensor) else y.logits
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    weights = torch.linspace(-1.0, 1.0, y.numel(), dtype=y.dtype).reshape(y.shape)
    gradients = torch.autograd.grad((y * weights).sum(), list(trained.values()))
    return y.detach(), dict(zip(trained, gradients, strict=True))


@pytest.mark.parametrize("library", TARGETS)
def test_adapters_are_honoured(library: str) -> None:
    model, images = build(library)
    wanted, gradients = results(model, images)
    report = vitkern.patch(model, backend="eager")
    assert any("attention" in entry.op for entry in report.patched) or library == "timm"
    found, ours = results(model, images)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    assert ours.keys() == gradients.keys()
    assert ours and all("lora_" in name for name in ours)
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("library", TARGETS)
def test_merged_and_disabled_adapters_take_effect_at_once(library: str) -> None:
    model, images = build(library)
    original = copy.deepcopy(model)
    vitkern.patch(model, backend="eager")
    with torch.no_grad():
        with model.disable_adapter(), original.disable_adapter():
            _assert_same(model(images), original(images))
        model.merge_adapter()
        _assert_same(model(images), original(images))
        model.unmerge_adapter()
        _assert_same(model(images), original(images))


@pytest.mark.parametrize("library", TARGETS)
def test_adapters_added_to_a_patched_model_are_noticed(library: str) -> None:
    model, images = build(library)
    bare = copy.deepcopy(model).unload()  # type: ignore[operator]
    vitkern.patch(bare, backend="eager")
    config = peft.LoraConfig(r=2, target_modules=TARGETS[library], lora_dropout=0.0)
    with pytest.warns(UserWarning, match="original forward") if library == "timm" else _nothing():
        adapted = peft.get_peft_model(bare, config).double().eval()
        state = {key: one for key, one in model.state_dict().items() if "lora_" in key}
        adapted.load_state_dict(state, strict=False)
        with torch.no_grad():
            _assert_same(adapted(images), model(images))


def _assert_same(found: Any, wanted: Any) -> None:
    pair = (one if isinstance(one, torch.Tensor) else one.logits for one in (found, wanted))
    torch.testing.assert_close(*pair, rtol=0, atol=1e-10)


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()
