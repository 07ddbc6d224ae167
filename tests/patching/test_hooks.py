"""Hooks fire on patched modules and on the children that a fused forward would bypass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import vitkern
from tests.patching import zoo

# Modules that fused parents bypass, and modules that are patched themselves.
WATCHED = {
    "vit-qk-norm": [
        "patch_embed.proj", "blocks.0", "blocks.0.norm1", "blocks.0.attn", "blocks.0.attn.qkv",
        "blocks.0.attn.q_norm", "blocks.0.attn.attn_drop", "blocks.0.attn.proj_drop",
        "blocks.0.ls1", "blocks.0.drop_path1", "blocks.0.mlp", "blocks.0.mlp.act",
        "blocks.0.mlp.fc2", "norm", "head",
    ],
    "swin-not-divisible": [
        "patch_embed.norm", "layers.0.blocks.1", "layers.0.blocks.1.norm1",
        "layers.0.blocks.1.attn", "layers.0.blocks.1.attn.qkv", "layers.0.blocks.1.attn.softmax",
        "layers.0.blocks.1.mlp.fc1", "layers.1.downsample.norm", "layers.1.downsample.reduction",
        "head.fc",
    ],
    "our-swin": ["layers.0.blocks.1.attn", "layers.0.blocks.1.mlp.drop1", "layers.1.downsample"],
}  # fmt: skip
KINDS = ("forward", "forward_pre", "full_backward", "full_backward_pre")
PARAMS = [(model, child) for model, children in WATCHED.items() for child in children]


def _watch(model: nn.Module, child: str, kind: str, seen: list[Any]) -> Any:
    def hook(module: nn.Module, *values: Any) -> None:
        tensors = values[-1] if isinstance(values[-1], tuple) else (values[-1],)
        seen.append([t.detach().clone() for t in tensors if isinstance(t, torch.Tensor)])

    return getattr(model.get_submodule(child), f"register_{kind}_hook")(hook)


@pytest.mark.parametrize(("name", "child"), PARAMS)
def test_hooks_fire_as_often_and_see_the_same(name: str, child: str) -> None:
    if name == "vit-qk-norm" and child.endswith("attn_drop"):
        name = "vit-not-fused"  # timm calls its dropout in this mode only
    model, other, x = zoo.build(name), zoo.build(name), zoo.images(name)
    vitkern.patch(model, backend="eager")
    model(x)  # fused before there are hooks
    results = []
    for m in (other, model):
        seen: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        handles = [_watch(m, child, kind, seen[kind]) for kind in KINDS]
        results.append((zoo.run(m, x), seen))
        for handle in handles:
            handle.remove()
    (wanted, expected), (got, seen) = results
    zoo.assert_same(got, wanted)
    for kind in KINDS:
        assert expected[kind], f"the model never calls {child}"
        assert len(seen[kind]) == len(expected[kind]), kind
        for a, b in zip(seen[kind], expected[kind], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    assert all(
        module.forward._may_fuse() for module in model.modules() if "forward" in module.__dict__
    )


def test_hooks_can_change_results() -> None:
    model, other, x = zoo.build("vit"), zoo.build("vit"), zoo.images("vit")
    vitkern.patch(model, backend="eager")
    for m in (model, other):
        m.blocks[0].attn.proj.register_forward_hook(lambda _, __, y: 2 * y)
        m.blocks[1].mlp.register_forward_pre_hook(lambda _, args: (args[0] + 1,))
        m.blocks[1].register_forward_hook(lambda _, __, y: y - 1)
    zoo.assert_same(zoo.run(model, x), zoo.run(other, x))


def test_only_the_watched_path_is_unfused() -> None:
    model = zoo.build("vit")
    vitkern.patch(model, backend="eager")
    block = model.blocks[0]
    block.mlp.fc1.register_forward_hook(lambda *_: None)
    fused = [m for m in (block, block.attn, block.mlp, block.norm1) if m.forward._may_fuse()]
    assert fused == [block.attn, block.norm1]
    assert model.blocks[1].forward._may_fuse()


def test_hooks_on_all_modules_see_all() -> None:
    model, other, x = zoo.build("vit"), zoo.build("vit"), zoo.images("vit")
    vitkern.patch(model, backend="eager")
    counts = []
    for m in (other, model):
        seen: list[str] = []
        handle = register_module_forward_hook(
            lambda module, *_, seen=seen: seen.append(type(module).__name__)
        )
        try:
            m(x)
        finally:
            handle.remove()
        counts.append(seen)
    assert counts[0] == counts[1]


def test_a_replaced_forward_of_a_child_is_called() -> None:
    """The usual way to look at attention maps: another forward on the instance, at any time."""
    model, other, x = zoo.build("vit"), zoo.build("vit"), zoo.images("vit")
    vitkern.patch(model, backend="eager")
    for m in (model, other):
        attn = m.blocks[0].attn
        attn.forward = lambda y, attn=attn, **_: type(attn).forward(attn, 2 * y)
    zoo.assert_same(zoo.run(model, x), zoo.run(other, x))
    vitkern.unpatch(model)
    assert "forward" in model.blocks[0].attn.__dict__  # the user's, not ours to remove


def test_the_block_is_told_apart_from_its_forward() -> None:
    """Calling ``module.forward`` directly runs no hooks, patched or not."""
    model = zoo.build("vit")
    vitkern.patch(model, backend="eager")
    model.blocks[0].register_forward_hook(lambda *_: pytest.fail("called"))
    model.blocks[0].forward(torch.randn(1, 5, 48, dtype=torch.float64))
