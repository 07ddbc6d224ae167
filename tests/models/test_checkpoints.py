"""Checkpoints of other libraries: their weights give their logits, or every misfit is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm.models
import torch
import torchvision.models
import transformers
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import nn

from vitkern.models import (
    DETR,
    SwinTransformer,
    SwinTransformerV2,
    VisionTransformer,
    create_model,
    load_checkpoint,
)
from vitkern.models.layouts import huggingface

Make = Callable[[], nn.Module]

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
SWIN = {
    "img_size": 64,
    "embed_dim": 16,
    "depths": (2, 2, 1),
    "num_heads": (1, 2, 4),
    "window_size": 4,
}
# timm's Swin takes the same arguments; windows of 4 divide the maps of 16, 8 and 4.
HUGGING_FACE_SWIN = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2, 1],
    "num_heads": [1, 2, 4],
    "window_size": 4,
    "num_labels": 7,
}


def torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 3, 48, 192, num_classes=7)


def torchvision_swin(v2: bool) -> nn.Module:
    from torchvision.models import swin_transformer as theirs

    block = theirs.SwinTransformerBlockV2 if v2 else theirs.SwinTransformerBlock
    merging = theirs.PatchMergingV2 if v2 else theirs.PatchMerging
    return theirs.SwinTransformer(
        [4, 4], 16, [2, 2, 1], [1, 2, 4], [4, 4], num_classes=7, block=block,
        downsample_layer=merging,
    )  # fmt: skip


def hugging_face_vit() -> nn.Module:
    config = transformers.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=192,
        num_labels=7,
        layer_norm_eps=1e-6,
    )
    return transformers.ViTForImageClassification(config)


def hugging_face_swin() -> nn.Module:
    return transformers.SwinForImageClassification(transformers.SwinConfig(**HUGGING_FACE_SWIN))


def hugging_face_swin_v2() -> nn.Module:
    return transformers.Swinv2ForImageClassification(transformers.Swinv2Config(**HUGGING_FACE_SWIN))


OURS: dict[str, Make] = {
    "vit": partial(VisionTransformer, num_classes=7, **VIT),
    "swin": partial(SwinTransformer, num_classes=7, **SWIN),
    "swin_v2": partial(SwinTransformerV2, num_classes=7, **SWIN),
}
THEIRS: dict[str, tuple[str, Make]] = {
    "timm ViT": ("vit", partial(timm.models.VisionTransformer, num_classes=7, **VIT)),
    "timm Swin": ("swin", partial(timm.models.SwinTransformer, num_classes=7, **SWIN)),
    "torchvision ViT": ("vit", torchvision_vit),
    "torchvision Swin": ("swin", partial(torchvision_swin, v2=False)),
    "torchvision Swin V2": ("swin_v2", partial(torchvision_swin, v2=True)),
    "Hugging Face ViT": ("vit", hugging_face_vit),
    "Hugging Face Swin": ("swin", hugging_face_swin),
    "Hugging Face Swinv2": ("swin_v2", hugging_face_swin_v2),
}


def randomised(model: nn.Module) -> nn.Module:
    """In float64, every parameter far from its initial value."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.double().eval().parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter.copy_(0.2 * noise + (parameter if parameter.dim() == 1 else 0.0))
    return model


def logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model(images)
    return output if isinstance(output, torch.Tensor) else output.logits


def photographs(size: int) -> torch.Tensor:
    images = torch.stack([torch.from_numpy(i.copy()) for i in load_sample_images().images])
    images = images.permute(0, 3, 1, 2).double() / 255
    return nn.functional.interpolate((images - 0.45) / 0.225, (size, size), mode="bilinear")


@pytest.mark.parametrize("name", THEIRS)
def test_their_weights_give_their_logits(name: str, tmp_path: Path) -> None:
    kind, make = THEIRS[name]
    theirs, ours = randomised(make()), OURS[kind]().double().eval()
    save_file(
        {k: v.contiguous() for k, v in theirs.state_dict().items()}, tmp_path / "a.safetensors"
    )
    load_checkpoint(ours, tmp_path / "a.safetensors")
    size = ours.patch_embed.img_size[0]
    noise = torch.randn(2, 3, size, size, dtype=torch.float64)
    for images in (noise, photographs(size)):
        expected = logits(theirs, images)
        torch.testing.assert_close(logits(ours, images), expected, rtol=1e-9, atol=1e-9)
        assert (expected[0] - expected[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", [n for n in THEIRS if n.startswith("Hugging Face")])
def test_saved_pretrained_folders_load(name: str, tmp_path: Path) -> None:
    """As transformers writes them, with the keys of files on the hub; whole and in shards."""
    kind, make = THEIRS[name]
    theirs, images = randomised(make()), photographs(OURS[kind]().patch_embed.img_size[0])
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for folder in ("whole", "shards"):
        ours = OURS[kind]().double().eval()
        load_checkpoint(ours, tmp_path / folder)
        torch.testing.assert_close(
            logits(ours, images), logits(theirs, images), rtol=1e-9, atol=1e-9
        )


def test_a_detr_folder_loads(tmp_path: Path) -> None:
    config = transformers.DetrConfig(
        backbone_config={
            "model_type": "timm_backbone",
            "backbone": "test_resnet",
            "features_only": True,
            "use_pretrained_backbone": False,
            "out_indices": [1, 2, 3, 4],
        },
        num_labels=4,
        num_queries=5,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
    )
    theirs = transformers.DetrForObjectDetection(config).double().eval()
    theirs.save_pretrained(tmp_path)
    ours = DETR(
        "test_resnet", 4, num_queries=5, embed_dim=16, encoder_depth=1, decoder_depth=1,
        num_heads=2, mlp_dim=24,
    ).double().eval()  # fmt: skip
    load_checkpoint(ours, tmp_path)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(
        ours(images)["pred_logits"], theirs(images).logits, rtol=1e-9, atol=1e-9
    )


def test_a_base_model_loads_into_one_without_a_head(tmp_path: Path) -> None:
    base = randomised(transformers.ViTModel(hugging_face_vit().config))
    base.save_pretrained(tmp_path)
    ours = VisionTransformer(num_classes=0, **VIT).double().eval()
    load_checkpoint(ours, tmp_path)
    images = photographs(32)
    with torch.no_grad():
        expected = base(images).last_hidden_state[:, 0]
    torch.testing.assert_close(logits(ours, images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["swin", "swin_v2"])
def test_the_layout_of_swins_authors_loads(kind: str, tmp_path: Path) -> None:
    """Patch merging at the end of a stage, a plain head, and constants among the weights."""
    source = OURS[kind]()
    weights = {}
    for key, value in source.state_dict().items():
        if ".downsample." in key:
            stage = int(key.split(".")[1])
            key = key.replace(f"layers.{stage}.", f"layers.{stage - 1}.")
        weights[key.replace("head.fc.", "head.")] = value
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(16, 16, 16)
    weights["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16).long()
    torch.save({"model": weights}, tmp_path / "swin.pth")
    ours = OURS[kind]()
    load_checkpoint(ours, tmp_path / "swin.pth")
    for key, value in source.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


def hub_cache(root: Path, repository: str, source: Path, revision: str = "main") -> None:
    """What a download of ``source`` as model.safetensors leaves in the hub's cache."""
    folder = root / ("models--" + repository.replace("/", "--"))
    snapshot = folder / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / revision).write_text(snapshot.name)
    shutil.copy(source, snapshot / "model.safetensors")


def test_a_cached_hub_repository_loads_offline(tmp_path: Path, monkeypatch: Any) -> None:
    source = VisionTransformer(num_classes=7, **VIT)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    hub_cache(tmp_path / "cache", "timm/tiny.in1k", tmp_path / "weights.safetensors")
    for name in ("timm/tiny.in1k", "hf-hub:timm/tiny.in1k", "timm/tiny.in1k@main"):
        ours = VisionTransformer(num_classes=7, **VIT)
        load_checkpoint(ours, name, cache_dir=tmp_path / "cache", local_files_only=True)
        assert torch.equal(ours.norm.bias, source.norm.bias)
        assert torch.equal(ours.head.weight, source.head.weight)
    missing = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    with pytest.raises(FileNotFoundError, match=r"'timm/other' has none of model.safetensors"):
        load_checkpoint(ours, "timm/other", **missing)
    with pytest.raises(ValueError, match="a hub id must be organisation/name"):
        load_checkpoint(ours, "hf-hub:nothing", **missing)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    small = {key: value for key, value in VIT.items() if key != "num_classes"}
    created = create_model(
        "vit_tiny_patch16_224", checkpoint="timm/tiny.in1k", num_classes=7, **small
    )
    assert torch.equal(created.head.weight, source.head.weight)


def test_misfits_of_a_converted_checkpoint_are_listed_under_our_keys(tmp_path: Path) -> None:
    weights = torchvision_vit().state_dict()
    del weights["encoder.ln.bias"]
    weights["class_token"] = torch.zeros(1, 2, 48)
    weights["conv_proj.bias"] = torch.zeros(48, dtype=torch.int8)
    weights["extra"] = torch.zeros(3)
    torch.save(weights, tmp_path / "a.pt")
    ours = OURS["vit"]()
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"layout of torchvision. does not fit this Vision"
    ) as caught:
        load_checkpoint(ours, tmp_path / "a.pt")
    assert str(caught.value).splitlines()[1:] == [
        "  shape: cls_token is (1, 2, 48) in the checkpoint and (1, 1, 48) in the model",
        "  dtype: patch_embed.proj.bias is torch.int8 in the checkpoint and torch.float32 in the"
        " model",
        "  missing: norm.bias (48,)",
        "  unexpected: extra (3,)",
    ]
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in before.items())


def test_bad_files_leave_the_model_unchanged(tmp_path: Path) -> None:
    ours = OURS["vit"]()
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    good = tmp_path / "good.safetensors"
    save_file(ours.state_dict(), good)
    torch.save({"cls_token": OURS["vit"]()}, tmp_path / "module.pt")
    torch.save(ours.state_dict(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:5000])
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:5000])
    (tmp_path / "empty.pt").touch()
    weights = hugging_face_vit().state_dict()
    del weights["vit.layers.0.attention.k_proj.weight"]
    torch.save(weights, tmp_path / "no_key.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "outside").mkdir()
    index = {"weight_map": {"cls_token": "../good.safetensors"}}
    (tmp_path / "outside" / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "lost").mkdir()
    index = {"weight_map": {"cls_token": "model-1.safetensors"}}
    (tmp_path / "lost" / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, error, message in (
        ("module.pt", ValueError, "holds more than tensors"),
        ("cut.pt", ValueError, "can't be read"),
        ("cut.safetensors", ValueError, "can't be read"),
        ("empty.pt", ValueError, "can't be read"),
        ("no_key.pt", ValueError, "does not convert: q, k and v must all be there"),
        ("folder", FileNotFoundError, "has none of model.safetensors"),
        ("outside", ValueError, "must list safetensors files beside it"),
        ("lost", FileNotFoundError, "has no 'model-1.safetensors', which it lists"),
        ("nothing.bin", FileNotFoundError, "is not a file"),
        ("weights.npz", ValueError, "checkpoint must end in .safetensors, .pt, .pth, .bin"),
    ):
        with pytest.raises(error, match=message):
            load_checkpoint(ours, tmp_path / name)
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in before.items())
    with torch.device("meta"):
        meta = OURS["vit"]()
    with pytest.raises(ValueError, match="model must not be on the meta device"):
        load_checkpoint(meta, good)


def test_two_keys_that_become_one_are_named() -> None:
    weights = {"vit.layernorm.bias": torch.zeros(1), "layernorm.bias": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"'vit.layernorm.bias' and 'layernorm.bias' both become"):
        huggingface.vit(weights)
