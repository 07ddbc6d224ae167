"""What only some modules of a patched model see: dropout of their own mode, hooks, helpers."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torchvision.models.vision_transformer import MLPBlock

import vitkern
from tests import needs
from vitkern.patching import functional

pytestmark = needs.library


def encoder(dropout: float = 0.0) -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(32, 4, 64, dropout, batch_first=True).eval()


@pytest.mark.parametrize("make", [lambda: MLPBlock(16, 32, 0.5).eval(), lambda: encoder(0.5)])
def test_dropouts_that_train_alone_drop(make: Any) -> None:
    """As for Monte Carlo estimates: the parent is in evaluation."""
    module = make()
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.train()
    vitkern.patch(module, backend="cpu")
    x = torch.randn(2, 5, 16 if isinstance(module, MLPBlock) else 32)
    assert not torch.equal(module(x), module(x))


def test_helpers_that_were_replaced_are_called() -> None:
    layer, x = encoder(), torch.randn(2, 5, 32)
    # What users do to one instance, and what the types forbid.
    layer._ff_block = lambda x: x * 0  # type: ignore[method-assign]
    wanted = layer(x)
    vitkern.patch(layer, backend="cpu")
    torch.testing.assert_close(layer(x), wanted)


def written_out() -> tuple[nn.Module, torch.Tensor]:
    """Attention that is written out as products and a softmax."""
    torch.manual_seed(0)
    return timm.models.tnt.Attention(32, 32, 4).eval(), torch.randn(2, 9, 32)


def test_hooks_see_the_weights_of_attention() -> None:
    module, x = written_out()
    seen: list[Any] = []

    def halve(_: Any, __: Any, output: Any) -> Any:
        seen.append(type(output))
        return output * 0.5

    module.attn_drop.register_forward_hook(halve)
    wanted = module(x)
    vitkern.patch(module, backend="cpu")
    torch.testing.assert_close(module(x), wanted)
    assert seen == [torch.Tensor, torch.Tensor]


def test_children_of_other_classes_see_the_weights_of_attention() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
            return dy * 2

    class Doubling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = Twice.apply(x)
            return y

    module, x = written_out()
    module.attn_drop = Doubling()
    module(x).square().sum().backward()
    wanted = module.qk.weight.grad
    module.zero_grad()
    vitkern.patch(module, backend="cpu")
    module(x).square().sum().backward()
    assert module.qk.weight.grad is not None
    torch.testing.assert_close(module.qk.weight.grad, wanted)


def test_checkpointed_children_compute_again_as_before() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(256, 4, 64, 0.0, batch_first=True)
    layer.self_attn = checkpoint_wrapper(layer.self_attn)
    vitkern.patch(layer)
    x = torch.randn(2, 256, 256, requires_grad=True)
    layer(x, x[:, :2]).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_attention_that_gives_its_weights_is_told() -> None:
    layer = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.randn(2, 5, 32)
    wanted = layer(x, x, x)
    vitkern.patch(layer, backend="cpu")
    with pytest.warns(UserWarning, match="need_weights"):
        got = layer(x, x, x)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_patched_root_is_exported() -> None:
    layer = timm.layers.Mlp(16, 32).eval()
    x = torch.randn(2, 5, 16)
    wanted = layer(x)
    vitkern.patch(layer)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), wanted)


def test_a_bias_that_broadcasts_is_left_to_pytorch() -> None:
    x, weight = torch.randn(2, 5, 32), torch.randn(8, 32)
    for bias in (torch.randn(1), torch.randn(()), torch.randn(1, 8)):
        assert functional.linear("cpu", x, weight, bias) is NotImplemented
    assert functional.linear("cpu", x, weight, torch.randn(8)) is not NotImplemented


def _swin_v2_block(**changes: nn.Module) -> nn.Module:
    block = SwinTransformerV2Block(32, (8, 8), 4, window_size=4, shift_size=2).eval()
    for name, module in changes.items():
        block.attn.add_module(name, module) if name == "softmax" else block.add_module(name, module)
    return block


class _Means(nn.Module):
    """An MLP that mixes tokens, which timm gives it as (B, N, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.mean(1, keepdim=True)


@pytest.mark.parametrize(
    "changes, patched",
    [
        ({"norm1": nn.Identity()}, True),
        ({"norm1": nn.LayerNorm(32, elementwise_affine=False)}, True),
        ({"mlp": _Means()}, True),
        ({"softmax": nn.Softmax(-2)}, False),
        ({"softmax": nn.Identity()}, False),
    ],
)
def test_changed_swin_v2_blocks(changes: dict[str, nn.Module], patched: bool) -> None:
    block, x = _swin_v2_block(**changes), torch.randn(2, 8, 8, 32)
    with torch.inference_mode():
        wanted = block(x)
        report = vitkern.patch(block, backend="eager")
        assert ("" in {entry.name for entry in report.patched}) == patched
        torch.testing.assert_close(block(x), wanted)


def test_weights_of_attention_are_pytorchs_and_it_is_said() -> None:
    module = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.randn(2, 7, 32)
    with torch.inference_mode():
        wanted = module(x, x, x)
        vitkern.patch(module, backend="cpu")
        with pytest.warns(UserWarning, match="need_weights=True: PyTorch computes the attention"):
            got = module(x, x, x)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other)
