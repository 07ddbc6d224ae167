"""create_model, list_models and checkpoints."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from vitkern.models import SwinTransformer, VisionTransformer, create_model, list_models

SMALL = {"img_size": 32, "embed_dim": 48, "depth": 1}


@pytest.fixture
def small():
    """A small ViT under a registered name."""

    def make(**overrides):
        return create_model("vit_tiny_patch16_224", **{**SMALL, "num_classes": 7, **overrides})

    return make


TIMM_NAMES = [name for name in list_models() if timm.is_model(name)]


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_every_configuration_has_timms_state_dict(name):
    with torch.device("meta"):
        ours, theirs = create_model(name), timm.create_model(name, num_classes=1000)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    assert ours.patch_embed.img_size == theirs.patch_embed.img_size
    stages = zip(getattr(ours, "layers", []), getattr(theirs, "layers", []), strict=True)
    for our_stage, their_stage in stages:
        for block, expected in zip(our_stage.blocks, their_stage.blocks, strict=True):
            assert block.window_size == expected.window_size
            assert block.shift_size == expected.shift_size
            assert block.attn.num_heads == expected.attn.num_heads


def test_list_models_filters_by_pattern():
    assert list_models("swin_base_*") == [
        "swin_base_patch4_window12_384",
        "swin_base_patch4_window7_224",
    ]
    assert list_models("resnet*") == []
    families = ("vit", "deit", "swin", "swinv2", "detr", "adaptive_vit", "medical_vit")
    counts = [len(list_models(f"{family}_*")) for family in families]
    assert all(counts)
    assert sum(counts) == len(list_models())


def test_create_model_takes_overrides():
    vit = create_model("vit_tiny_patch16_224", num_classes=0, **SMALL)
    assert type(vit) is VisionTransformer
    assert vit(torch.randn(1, 3, 32, 32)).shape == (1, 48)
    swin = create_model(
        "swin_tiny_patch4_window7_224", num_classes=3, img_size=64, depths=(1, 1), num_heads=(3, 6)
    )
    assert type(swin) is SwinTransformer
    assert swin(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_an_unknown_name_gets_near_matches_in_one_line():
    with pytest.raises(ValueError, match="unknown model 'vit_smal_patch16_224'; ") as caught:
        create_model("vit_smal_patch16_224")
    assert "vit_small_patch16_224" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"unknown model 'zzz'; list_models\(\) lists all names"):
        create_model("zzz")


def test_an_unknown_argument_is_named():
    with pytest.raises(TypeError, match="window_size"):
        create_model("vit_tiny_patch16_224", window_size=7)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_loads_a_pickled_state_dict(tmp_path, small, suffix, wrapper):
    source = small()
    weights = source.state_dict()
    path = tmp_path / f"weights{suffix}"
    torch.save(weights if wrapper is None else {wrapper: weights, "epoch": 3}, path)
    assert_equal_weights(small(checkpoint=path), source)


def test_loads_safetensors_of_timm(tmp_path, small):
    source = timm.create_model("vit_tiny_patch16_224", num_classes=7, **SMALL)
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    assert_equal_weights(small(checkpoint=str(path)), source)


def assert_equal_weights(model, source):
    expected = source.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_a_checkpoint_is_cast_to_the_models_dtype(tmp_path, small):
    path = tmp_path / "weights.pt"
    torch.save(small().half().state_dict(), path)
    assert all(p.dtype == torch.float32 for p in small(checkpoint=path).parameters())


def test_every_misfit_is_listed(tmp_path, small):
    weights = small().state_dict()
    del weights["norm.bias"], weights["blocks.0.attn.proj.weight"]
    weights["extra"] = torch.zeros(2)
    path = tmp_path / "weights.pt"
    torch.save(weights, path)
    with pytest.raises(ValueError, match="does not fit this VisionTransformer") as caught:
        small(num_classes=5, checkpoint=path)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: blocks.0.attn.proj.weight (48, 48)",
        "  missing: norm.bias (48,)",
        "  shape: head.weight is (7, 48) in the checkpoint and (5, 48) in the model",
        "  shape: head.bias is (7,) in the checkpoint and (5,) in the model",
        "  unexpected: extra (2,)",
    ]


def test_bad_checkpoint_files_are_named(tmp_path, small):
    with pytest.raises(FileNotFoundError, match=r"missing\.pt"):
        small(checkpoint=tmp_path / "missing.pt")
    with pytest.raises(ValueError, match=r"checkpoint must end in \.safetensors, \.pt, \.pth"):
        small(checkpoint=tmp_path / "weights.npz")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a state dict, got list"):
        small(checkpoint=tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    with pytest.raises(ValueError, match="state dict of tensors, got int under 'epoch'"):
        small(checkpoint=tmp_path / "epoch.pt")
