"""What the tests of the models share: timm's models and ours with the same random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm.models
import torch
from torch import nn

from vitkern.models import SwinTransformer, SwinTransformerV2, VisionTransformer

Pair = tuple[nn.Module, nn.Module]

SMALL_VIT: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "num_classes": 10,
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 3,
}
SMALL_SWIN: dict[str, Any] = {
    "num_classes": 10,
    "embed_dim": 16,
    "depths": (2, 2, 2, 2),
    "num_heads": (1, 2, 4, 8),
}


def randomise(model: nn.Module) -> None:
    """Every parameter far from its initial value, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        centre = 1.0 if parameter.dim() == 1 and name.endswith(("weight", "gamma")) else 0.0
        spread = 0.5 if parameter.dim() <= 1 or parameter.shape[0] == 1 else 0.15
        parameter.data.copy_(centre + spread * noise)


def with_equal_weights(ours: nn.Module, theirs: nn.Module) -> Pair:
    """Loads timm's random weights into ours, and ours back into timm's."""
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours.eval(), theirs.eval()


@pytest.fixture
def vit_pair() -> Callable[..., Pair]:
    """Makes (our ViT, timm's ViT), small unless told otherwise."""

    def make(**overrides: Any) -> Pair:
        arguments = {**SMALL_VIT, **overrides}
        return with_equal_weights(
            VisionTransformer(**arguments), timm.models.VisionTransformer(**arguments)
        )

    return make


@pytest.fixture
def swin_pair() -> Callable[..., Pair]:
    """Makes (our Swin, timm's Swin), small unless told otherwise."""

    def make(**overrides: Any) -> Pair:
        arguments = {**SMALL_SWIN, **overrides}
        return with_equal_weights(
            SwinTransformer(**arguments), timm.models.SwinTransformer(**arguments)
        )

    return make


@pytest.fixture
def swinv2_pair() -> Callable[..., Pair]:
    """Makes (our Swin V2, timm's Swin V2), small unless told otherwise."""

    def make(**overrides: Any) -> Pair:
        arguments = {**SMALL_SWIN, **overrides}
        return with_equal_weights(
            SwinTransformerV2(**arguments),
            timm.models.swin_transformer_v2.SwinTransformerV2(**arguments),
        )

    return make


@pytest.fixture
def assert_same_outputs() -> Callable[..., None]:
    """Asserts equal features and logits, in float64 within 1e-11 and in float32 within 1e-5."""

    def compare(pair: Pair, *size: int, batch: int = 2) -> None:
        ours, theirs = pair
        images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
            ours.to(dtype)
            theirs.to(dtype)
            with torch.no_grad():
                features = ours.forward_features(images.to(dtype))
                expected = theirs.forward_features(images.to(dtype))
                torch.testing.assert_close(features, expected, rtol=tolerance, atol=tolerance)
                torch.testing.assert_close(
                    ours(images.to(dtype)),
                    theirs(images.to(dtype)),
                    rtol=tolerance,
                    atol=tolerance,
                )
                torch.testing.assert_close(
                    ours.forward_head(features, pre_logits=True),
                    theirs.forward_head(expected, pre_logits=True),
                    rtol=tolerance,
                    atol=tolerance,
                )

    return compare


@pytest.fixture
def assert_same_training_step() -> Callable[..., None]:
    """Asserts equal losses and gradients in training mode, with one seed for both."""

    def compare(pair: Pair, *size: int) -> None:
        images = torch.randn(4, 3, *size, dtype=torch.float64)
        gradients = []
        for model in pair:
            model.double().train()
            torch.manual_seed(2)
            loss = model(images).square().mean()
            loss.backward()
            gradients.append(
                {"loss": loss.detach()}
                | {name: parameter.grad for name, parameter in model.named_parameters()}
            )
        ours, theirs = gradients
        assert ours.keys() == theirs.keys()
        for name, gradient in theirs.items():
            assert gradient is not None, name
            torch.testing.assert_close(
                ours[name],
                gradient,
                rtol=1e-9,
                atol=1e-9,
                msg=lambda text, name=name: f"{name}: {text}",
            )

    return compare
