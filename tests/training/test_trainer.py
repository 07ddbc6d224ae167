"""What the trainer computes, and what it refuses."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from tests.training import toy
from vitkern._library import load
from vitkern.training import CrossEntropy, NonFiniteLoss, TrainConfig, Trainer
from vitkern.training.checkpoint import read_state
from vitkern.training.history import read_history
from vitkern.training.parameters import parameter_groups
from vitkern.training.sampling import batches, share, steps_per_epoch, windows
from vitkern.training.schedule import factor


@pytest.mark.parametrize("model", [toy.vit, toy.swin])
def test_it_learns_and_keeps_what_it_says(tmp_path: Path, model: Any) -> None:
    result = toy.trainer(tmp_path, model(), epochs=12, lr=5e-3, label_smoothing=0.0).fit()
    assert result.best["accuracy"] > 0.8
    assert result.steps == 12 * 6
    assert {"best.safetensors", "curves.png", "confusion.png", "history.jsonl"} <= {
        path.name for path in tmp_path.iterdir()
    }
    best = read_state(tmp_path / "best.safetensors")
    assert best["valid"] == result.best
    assert best["epoch"] == result.best_epoch
    assert read_history(tmp_path / "history.jsonl") == result.history
    assert [line["epoch"] for line in result.history if line["kind"] == "epoch"] == list(range(12))
    assert json.loads(json.dumps(result.best)) == result.best


def test_patched_by_default_and_the_losses_are_eagers(tmp_path: Path) -> None:
    losses = []
    for patch in (True, False):
        trainer = toy.trainer(tmp_path / str(patch), toy.swin(), epochs=4, patch=patch)
        assert (trainer.patch_report is not None) is patch
        history = trainer.fit().history
        losses.append([line["loss"] for line in history if line["kind"] == "step"])
    assert (losses[0] != losses[1]) == load().available  # the kernels do compute
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=2e-4, atol=1e-5)


def test_accumulation_is_one_large_batch_and_the_last_part_counts(tmp_path: Path) -> None:
    """45 images in batches of 10, two a step: 20, 20 and 5, as in batches of 20."""
    found = []
    for size, accumulate in ((20, 1), (10, 2), (5, 4)):
        trainer = toy.trainer(
            tmp_path / str(size),
            toy.vit(proj_drop_rate=0.0),
            batch_size=size,
            accumulate=accumulate,
            train=toy.Images(jitter=False),
        )
        found.append((trainer.fit(), toy.weights(trainer.model)))
    assert [result.steps for result, _ in found] == [6, 6, 6]
    for _, weights in found[1:]:
        for name, value in weights.items():
            torch.testing.assert_close(value, found[0][1][name], rtol=1e-4, atol=1e-5)


def test_sampling() -> None:
    order = batches(45, 10, seed=3, epoch=0)
    assert [len(batch) for batch in order] == [10, 10, 10, 10, 5]
    assert sorted(index for batch in order for index in batch) == list(range(45))
    assert order == batches(45, 10, seed=3, epoch=0)
    assert order != batches(45, 10, seed=3, epoch=1)
    assert order != batches(45, 10, seed=4, epoch=0)
    assert [len(step) for step in windows(order, 2)] == [2, 2, 1]
    assert steps_per_epoch(45, 10, 2) == 3
    assert sorted(share(order[0], 0, 3) + share(order[0], 1, 3) + share(order[0], 2, 3)) == sorted(
        order[0]
    )


def test_schedule_is_by_step() -> None:
    rates = [factor(step, 100, 0.1, 0.01, True) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1
    assert rates[-1] == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    middle = 10 + 89 / 2
    half = (factor(math.floor(middle), 100, 0.1, 0.01, True) + rates[math.ceil(middle)]) / 2
    assert half == pytest.approx(0.505, abs=0.01)


def test_the_rates_that_were_used(tmp_path: Path) -> None:
    history = toy.trainer(tmp_path, epochs=5, lr=1e-3, warmup=0.2, min_lr=1e-6).fit().history
    rates = [line["lr"] for line in history if line["kind"] == "step"]
    assert len(rates) == 30
    assert rates[5] == pytest.approx(1e-3)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-6)


def test_plateau_and_early_stopping(tmp_path: Path) -> None:
    """A rate so small that nothing gets better: halved each epoch, then stopped."""
    result = toy.trainer(
        tmp_path, epochs=20, lr=1e-9, min_lr=1e-12, warmup=0, schedule="plateau",
        plateau_patience=0, patience=4, monitor="f1",
    ).fit()  # fmt: skip
    assert result.epochs == 5
    rates = [line["lr"] for line in result.history if line["kind"] == "step"][::6]
    assert rates == pytest.approx([1e-9, 1e-9, 5e-10, 2.5e-10, 1.25e-10])


def test_no_decay_on_biases_norms_and_embeddings() -> None:
    groups = parameter_groups(toy.swin(), toy.config())
    decayed = {n for group in groups if group["weight_decay"] for n in group["names"]}
    spared = {n for group in groups if not group["weight_decay"] for n in group["names"]}
    assert {name for name, _ in toy.swin().named_parameters()} == decayed | spared
    assert all(name.endswith("weight") for name in decayed)
    assert not any("norm" in name for name in decayed)
    assert any("norm" in name for name in spared)
    assert "layers.0.blocks.0.attn.relative_position_bias_table" in spared
    assert "pos_embed" in {
        n for g in parameter_groups(toy.vit(), toy.config()) if not g["weight_decay"]
        for n in g["names"]
    }  # fmt: skip


def test_layer_decay() -> None:
    def rates(model: nn.Module) -> dict[str, float]:
        groups = parameter_groups(model, toy.config(layer_decay=0.5))
        return {name: group["lr"] / 1e-3 for group in groups for name in group["names"]}

    vit = rates(toy.vit())
    assert vit["head.weight"] == vit["norm.bias"] == 1
    assert vit["blocks.1.mlp.fc1.weight"] == 0.5
    assert vit["blocks.0.attn.qkv.bias"] == 0.25
    assert vit["patch_embed.proj.weight"] == vit["cls_token"] == 0.125
    swin = rates(toy.swin())
    assert swin["layers.1.blocks.1.attn.qkv.weight"] == 0.5
    assert swin["layers.1.blocks.0.norm1.weight"] == swin["layers.1.downsample.norm.weight"] == 0.25
    assert swin["layers.0.blocks.0.mlp.fc1.weight"] == 0.5**4
    assert swin["patch_embed.proj.weight"] == 0.5**5


def test_three_groups_of_rates() -> None:
    groups = parameter_groups(toy.vit(), toy.config(lr_groups=[1e-5, 5e-5, 1e-4]))
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    assert rates["patch_embed.proj.weight"] == rates["blocks.0.mlp.fc1.bias"] == 1e-5
    assert rates["blocks.1.mlp.fc1.bias"] == 5e-5
    assert rates["head.weight"] == rates["norm.weight"] == 1e-4
    assert len(groups) == 6


def test_clipping(tmp_path: Path) -> None:
    """SGD would show it plainly; with AdamW, whose step knows no scale, in the gradients."""
    trainer = toy.trainer(tmp_path, epochs=1, clip=0.01)
    result = trainer.fit()
    assert all(line["gradient_norm"] > 0.01 for line in result.history if line["kind"] == "step")
    gradients = [p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]
    assert torch.stack(gradients).norm() == pytest.approx(0.01, rel=1e-3)


def test_ema_is_what_is_validated(tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path, ema=0.9, epochs=1)
    plain = toy.trainer(tmp_path / "plain", epochs=1)
    trainer.fit()
    plain.fit()
    toy.assert_same(toy.weights(trainer.model), toy.weights(plain.model))
    best = read_state(tmp_path / "best.safetensors")["model"]
    toy.assert_same(best, toy.weights(trainer.validated))
    assert not torch.equal(best["head.weight"], trainer.model.head.weight)


def test_soft_targets_reach_the_loss(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    class Watching(CrossEntropy):
        def forward(
            self, logits: torch.Tensor, targets: torch.Tensor, images: torch.Tensor
        ) -> torch.Tensor:
            seen.append(targets)
            return super().forward(logits, targets, images)

    mix = v2.MixUp(num_classes=toy.CLASSES, alpha=1.0)
    toy.trainer(tmp_path, epochs=1, mix=mix, loss=Watching()).fit()
    assert all(one.shape[1] == toy.CLASSES for one in seen)
    assert any(0.01 < value < 0.99 for one in seen for value in one.flatten().tolist())
    torch.testing.assert_close(seen[0].sum(1), torch.ones(8))


def test_bf16(tmp_path: Path) -> None:
    plain = toy.trainer(tmp_path / "fp32", toy.swin(), epochs=2).fit()
    result = toy.trainer(tmp_path / "bf16", toy.swin(), epochs=2, precision="bf16").fit()
    losses = [
        torch.tensor([line["loss"] for line in one.history if line["kind"] == "step"])
        for one in (plain, result)
    ]
    assert not torch.equal(*losses)
    torch.testing.assert_close(*losses, rtol=0.02, atol=0.0)


def test_gradient_checkpointing_of_ours(tmp_path: Path) -> None:
    """Patched, with dropout and drop paths: the same random numbers in both passes."""
    losses = []
    for wanted in (True, False):
        model = toy.swin(proj_drop_rate=0.1)
        done = toy.trainer(tmp_path / str(wanted), model, epochs=1, gradient_checkpointing=wanted)
        history = done.fit().history
        assert model.layers[1].blocks.grad_checkpointing is wanted
        losses.append([line["loss"] for line in history if line["kind"] == "step"])
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing(tmp_path: Path) -> None:
    import timm

    losses = []
    for wanted in (True, False):
        torch.manual_seed(0)
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, num_classes=3,
            embed_dim=16, depth=2, num_heads=2,
        )  # fmt: skip
        folder = tmp_path / str(wanted)
        done = toy.trainer(folder, model, epochs=1, gradient_checkpointing=wanted).fit()
        assert model.grad_checkpointing is wanted
        losses.append([line["loss"] for line in done.history if line["kind"] == "step"])
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="has no set_grad_checkpointing"):
        toy.trainer(tmp_path, nn.Flatten(), gradient_checkpointing=True)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_not_finite_stops_with_the_batch_saved(tmp_path: Path, where: str) -> None:
    data = toy.Images(jitter=False)
    model = toy.vit()
    if where == "loss":
        data.images[17, 0, 3, 3] = math.nan
    else:
        model.head.weight.register_hook(lambda gradient: gradient * math.inf)
    trainer = toy.trainer(tmp_path, model, train=data, epochs=3)
    before = toy.weights(model)
    pattern = "the loss is nan" if where == "loss" else "the norm of the gradients (inf|nan)"
    with pytest.raises(NonFiniteLoss, match=pattern) as stop:
        trainer.fit()
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert stop.value.path is not None
    saved = read_state(stop.value.path)
    images = saved["batches"][0]["images"]
    assert images.shape == (8, 1, 8, 8)
    assert saved["batches"][0]["targets"].shape == (8,)
    if where == "loss":
        assert images.isnan().sum() == 1
    else:
        toy.assert_same(before, toy.weights(model))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"epoch": 3}, "train has no setting 'epoch'; did you mean epochs"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"lr": 1e-7}, "min_lr must be at most lr"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"precision": "fp16"}, "precision must be one of 'fp32', 'bf16'"),
        ({"monitor": "acc"}, "monitor must be one of"),
        ({"warmup": 2}, "warmup must be at least 0 and at most 1"),
        ({"ema": 1}, "ema must be"),
        ({"lr": math.nan}, "lr must be"),
    ],
)
def test_wrong_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(values)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"epochs": 2.5}, "epochs must be an int"),
        ({"lr": "1e-3"}, r"lr must be a number, got '1e-3' \(in YAML .* 1.0e-3\)"),
        ({"patch": 1}, "patch must be true or false"),
        ({"betas": 0.9}, "betas must be two numbers"),
        ({"lr_groups": [1e-3]}, "lr_groups must be three numbers"),
    ],
)
def test_settings_of_wrong_types(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        TrainConfig.from_dict(values)


def test_wrong_data(tmp_path: Path) -> None:
    def start(train: Any, valid: Any = None) -> None:
        Trainer(
            toy.vit(), train, valid, config=toy.config(), folder=tmp_path, num_classes=toy.CLASSES
        )

    data = toy.Images()
    with pytest.raises(ValueError, match="valid must not be the training data"):
        start(data, data)
    with pytest.raises(ValueError, match="the validation split has no images"):
        start(data, toy.Images(0))
    with pytest.raises(ValueError, match="the training split has no image of class 2"):
        start(toy.Images(2))
    data.targets[5] = 3
    with pytest.raises(ValueError, match=r"must be 0 to 2: 1 are not, the first is 3 at image 5"):
        start(data)
    with pytest.raises(TypeError, match="config must be a TrainConfig"):
        # The wrong type is the point.
        Trainer(toy.vit(), data, config={}, folder=tmp_path, num_classes=3)  # type: ignore[arg-type]


def test_a_label_out_of_range_without_a_list_of_labels(tmp_path: Path) -> None:
    class Unlisted(toy.Images):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [*self.targets[:-1], 7]
            del self.targets

        def __len__(self) -> int:
            return len(self.hidden)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.images[index], self.hidden[index]

    with pytest.raises(ValueError, match="must be 0 to 2, got 7"):
        toy.trainer(tmp_path, train=Unlisted()).fit()
