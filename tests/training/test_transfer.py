"""Pretrained weights, frozen backbones, students cut from teachers."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.training import toy
from vitkern.models import VisionTransformer
from vitkern.training.teacher_init import init_from_teacher
from vitkern.training.transfer import freeze_backbone, load_pretrained, trainable_share


def vit(dim: int = 16, depth: int = 2, heads: int = 2, classes: int = 3) -> VisionTransformer:
    return VisionTransformer(8, 4, 1, classes, embed_dim=dim, depth=depth, num_heads=heads)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_from_a_file_with_another_head(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    source, path = vit(classes=7), tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": source.state_dict()}, path)
    else:
        save_file(source.state_dict(), path)
    model = vit()
    head = model.head.weight.clone()
    report = load_pretrained(model, path)
    assert report.fresh == ["head.weight", "head.bias"]
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    assert set(report.loaded) | set(report.fresh) == set(model.state_dict())


def test_weights_of_a_run(tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path, epochs=1)
    trainer.fit()
    model = toy.vit()
    torch.nn.init.zeros_(model.head.weight)
    report = load_pretrained(model, tmp_path)
    assert not report.fresh
    toy.assert_same(toy.weights(model), toy.weights(trainer.model))


def test_weights_of_timm_and_another_grid(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, in_chans=1, num_classes=3,
        embed_dim=16, depth=2, num_heads=2,
    )  # fmt: skip
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    model = vit()  # 2 × 2 patches instead of 4 × 4
    report = load_pretrained(model, tmp_path / "w.safetensors")
    assert report.resampled == ["pos_embed"]
    assert torch.equal(model.pos_embed[:, 0], theirs.pos_embed[:, 0])
    images = torch.randn(2, 1, 16, 16)
    same = VisionTransformer(16, 4, 1, 3, embed_dim=16, depth=2, num_heads=2).eval()
    load_pretrained(same, tmp_path / "w.safetensors")
    torch.testing.assert_close(same(images), theirs.eval()(images))


def test_what_does_not_fit_is_listed_and_changes_nothing(tmp_path: Path) -> None:
    save_file(vit(dim=32).state_dict(), tmp_path / "wide.safetensors")
    model = vit()
    before = toy.weights(model)
    with pytest.raises(ValueError, match=r"do not fit: .* is \(1, 1, 32\), not \(1, 1, 16\)"):
        load_pretrained(model, tmp_path / "wide.safetensors")
    save_file(vit(depth=3).state_dict(), tmp_path / "deep.safetensors")
    with pytest.raises(ValueError, match=r"unknown blocks\.2"):
        load_pretrained(model, tmp_path / "deep.safetensors")
    toy.assert_same(before, toy.weights(model))
    with pytest.raises(FileNotFoundError, match="are no file, no folder and no timm model"):
        load_pretrained(model, "no_such_model")


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_freezing(ratio: float) -> None:
    model = vit(depth=3)
    share = freeze_backbone(model, ratio)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert share == trainable_share(model)
    assert {"head.weight", "head.bias"} <= learning
    if ratio == 0:
        assert share == 1
    elif ratio == 1:
        assert learning == {"head.weight", "head.bias"}
    else:  # embeddings and one of three blocks
        assert not any(
            name.startswith(("patch_embed", "pos_embed", "blocks.0")) for name in learning
        )
        assert any(name.startswith("blocks.1") for name in learning)
    with pytest.raises(ValueError, match="ratio must be"):
        freeze_backbone(model, 1.5)


def test_a_frozen_backbone_stays_and_the_head_learns(tmp_path: Path) -> None:
    model = toy.vit()
    freeze_backbone(model)
    before = toy.weights(model)
    toy.trainer(tmp_path, model, epochs=1).fit()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is not name.startswith("head."), name


def test_a_student_of_the_teachers_size_is_the_teacher() -> None:
    for make in (toy.vit, toy.swin):
        teacher, student = make(), make()
        for parameter in teacher.parameters():
            torch.nn.init.normal_(parameter)
        init_from_teacher(student, teacher)
        toy.assert_same(toy.weights(student), toy.weights(teacher))


def test_layers_are_picked_and_widths_sliced() -> None:
    torch.manual_seed(0)
    teacher, student = vit(32, depth=5, heads=4), vit(16, depth=3, heads=2)
    told = init_from_teacher(student, teacher)
    assert told == "blocks [0, 2, 4]"
    ours, theirs = student.blocks[1], teacher.blocks[2]
    assert torch.equal(ours.mlp.fc1.weight, theirs.mlp.fc1.weight[:64, :16])
    # Query, key and value: the first two heads of each, not the first rows of all.
    assert torch.equal(ours.attn.qkv.weight[16:32], theirs.attn.qkv.weight[32:48, :16])
    assert torch.equal(ours.attn.qkv.bias[32:], theirs.attn.qkv.bias[64:80])
    assert torch.equal(student.pos_embed, teacher.pos_embed[..., :16])
    assert torch.equal(student.head.weight, teacher.head.weight[:, :16])


def test_students_that_cannot_be_cut() -> None:
    student = vit(32)
    before = toy.weights(student)
    with pytest.raises(ValueError, match="cannot be cut from its teacher"):
        init_from_teacher(student, vit(16))
    with pytest.raises(ValueError, match="3 blocks of 2"):
        init_from_teacher(vit(depth=3), vit(depth=2))
    with pytest.raises(ValueError, match=r"head\.weight"):
        init_from_teacher(student, vit(64, heads=4, classes=5))
    toy.assert_same(before, toy.weights(student))
