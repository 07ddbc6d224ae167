"""Inputs that decide what a patched module does: layouts, masks, buffers, sizes of maps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm.models
import torch
import torch.nn.functional as F
from torch import nn

import vitkern
from tests import needs
from tests.patching.families import FAMILIES, hf
from vitkern.bench.coverage import count_products

LAST = torch.channels_last


@needs.library
@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_convolution_is_ours_with_channels_last(bias: bool) -> None:
    layer = nn.Conv2d(128, 256, 1, bias=bias)
    own = copy.deepcopy(layer)
    vitkern.patch(layer)
    for memory_format, ours in ((LAST, True), (torch.contiguous_format, False)):
        x = torch.randn(2, 128, 16, 20).to(memory_format=memory_format)
        with torch.inference_mode():
            y, wanted = layer(x), own(x)
            share = count_products(lambda x=x: layer(x)).share
        assert y.stride() == wanted.stride()
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)
        assert share == float(ours)


@needs.library
def test_a_pointwise_convolution_follows_its_weight() -> None:
    layer = nn.Conv2d(128, 256, 1)
    vitkern.patch(layer)
    x = torch.randn(2, 128, 16, 20).to(memory_format=LAST)
    with torch.inference_mode():
        layer(x)
    for change in (
        lambda: layer.weight.mul_(2.0),
        lambda: setattr(layer.weight, "data", torch.randn(256, 128, 1, 1)),
        lambda: layer.weight.data.copy_(torch.randn(256, 128, 1, 1)),
        lambda: setattr(layer, "weight", nn.Parameter(torch.randn(256, 128, 1, 1))),
    ):
        with torch.no_grad():
            change()
            wanted = F.conv2d(x, layer.weight, layer.bias)
            torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)


def test_other_convolutions_are_neither_patched_nor_skipped() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1, stride=2), nn.Conv2d(8, 8, 1, groups=2),
        nn.Conv2d(8, 8, 1, padding=1), nn.Conv2d(8, 8, 2, 2),
    )  # fmt: skip
    report = vitkern.patch(model, backend="eager")
    assert not report.patched
    assert not report.skipped


class Standardized(nn.Conv2d):
    """A convolution that computes something else, as libraries have them."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """With a weight of mean zero."""
        return self._conv_forward(input, self.weight - self.weight.mean(), self.bias)


def test_subclasses_of_convolutions_are_neither_patched_nor_skipped() -> None:
    model = nn.Sequential(Standardized(8, 8, 1), nn.LayerNorm(8))
    x = torch.randn(1, 8, 8, 8).to(memory_format=LAST)
    wanted = model(x)
    report = vitkern.patch(model, backend="eager", strict=True)
    assert [entry.name for entry in report.patched] == ["1"]
    assert torch.equal(model(x), wanted)


def _swin() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.models.SwinTransformer(
        img_size=32, patch_size=2, embed_dim=16, depths=(2,), num_heads=(2,), window_size=4,
        num_classes=5,
    )  # fmt: skip
    return model.double().eval(), torch.randn(1, 3, 32, 32, dtype=torch.float64)


@pytest.mark.parametrize("buffer", ["mask", "index"])
def test_buffers_changed_in_place_are_noticed(buffer: str) -> None:
    model, x = _swin()
    block = model.layers[0].blocks[1]  # type: ignore[index, union-attr]
    block.attn.relative_position_bias_table.data.normal_()
    vitkern.patch(model, backend="eager")
    before = model(x)
    if buffer == "mask":
        block.attn_mask.mul_(0.01)
    else:
        block.attn.relative_position_index.copy_(block.attn.relative_position_index.flip(0))
    with pytest.warns(UserWarning, match="is not"):
        changed = model(x)
    vitkern.unpatch(model)
    torch.testing.assert_close(changed, model(x), rtol=0, atol=1e-10)
    assert not torch.allclose(changed, before)


def test_a_mask_of_another_map_raises_as_before() -> None:
    model, _ = _swin()
    block = model.layers[0].blocks[1]  # type: ignore[index, union-attr]
    x = torch.randn(1, 12, 16, 16, dtype=torch.float64)
    with pytest.raises(RuntimeError) as own:
        block(x)
    vitkern.patch(model, backend="eager")
    with pytest.raises(RuntimeError) as found:
        block(x)
    assert str(found.value) == str(own.value)


@pytest.mark.parametrize("layer", ["attention", "encoder"])
@pytest.mark.parametrize("masks", ["padding", "mask"])
def test_masks_of_batch_one_raise_as_before(layer: str, masks: str) -> None:
    attention = nn.MultiheadAttention(24, 3, batch_first=True)
    encoder = nn.TransformerEncoderLayer(24, 3, 40, batch_first=True, dropout=0.0)
    x = torch.randn(2, 6, 24)
    padding = torch.zeros(1, 6) if masks == "padding" else None
    mask = torch.zeros(3, 6, 6) if masks == "mask" else None
    module: nn.Module = attention if layer == "attention" else encoder

    def run() -> Any:
        if layer == "attention":
            return attention(x, x, x, key_padding_mask=padding, attn_mask=mask, need_weights=False)
        return encoder(x, src_mask=mask, src_key_padding_mask=padding)

    with pytest.raises((RuntimeError, AssertionError)) as own:
        run()
    vitkern.patch(module, backend="eager")
    with pytest.raises(type(own.value)):
        run()


def test_hugging_faces_swin_with_another_implementation_runs_its_own() -> None:
    torch.manual_seed(0)
    model = FAMILIES["hf-swin"].build().double().eval()
    x = torch.randn(2, 3, 52, 56, dtype=torch.float64)
    vitkern.patch(model, backend="eager")
    wanted = model(x).logits
    model.model.set_attn_implementation("eager")  # type: ignore[operator, union-attr]
    with pytest.warns(UserWarning, match="implementation is 'eager'"):
        found = model(x).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_hugging_faces_swin_gives_attentions_and_smaller_windows() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "image_size": 56, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 3],
        "drop_path_rate": 0.0, "window_size": 6,
    }  # fmt: skip
    model = hf("SwinConfig", "SwinModel", **options).double().eval()
    inner: Any = model.model
    x = torch.randn(1, 3, 56, 48, dtype=torch.float64)
    inner.set_attn_implementation("eager")
    wanted = inner(pixel_values=x, output_attentions=True)
    vitkern.patch(model, backend="eager")
    found = inner(pixel_values=x, output_attentions=True)
    assert len(found.attentions) == len(wanted.attentions) > 0
    for one, other in zip(found.attentions, wanted.attentions, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=1e-10)
