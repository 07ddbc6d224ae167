"""Detectors in the trainer: losses by name, average precision, resuming, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_resume import Interrupted, interrupt, same_runs
from vitkern._library import load
from vitkern.data.scenes import digits_on_photographs
from vitkern.models import DETR
from vitkern.models.detr import Detections
from vitkern.training import Detection, NonFiniteLoss, TrainConfig, Trainer, build
from vitkern.training.checkpoint import read_state
from vitkern.training.detection import average_precision, detections_of
from vitkern.training.recipe import Recipe

TINY: dict[str, Any] = {
    "model": {
        "name": "detr_resnet50",
        "arguments": {
            "backbone": "resnet18",
            "backbone_arguments": {
                "out_indices": [2], "layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16],
                "stem_width": 8,
            },
            "frozen_batch_norm": False, "num_queries": 5, "embed_dim": 16, "encoder_depth": 1,
            "decoder_depth": 2, "num_heads": 2, "mlp_dim": 32, "drop_rate": 0.1,
        },
    },
    "data": {"name": "digits-on-photographs", "size": 64, "train": 20, "valid": 6, "test": 6},
    "train": {
        "epochs": 2, "batch_size": 4, "accumulate": 2, "lr": 1e-3, "monitor": "loss", "ema": 0.9,
        "checkpoint_every": 2,
    },
}  # fmt: skip


def trainer(folder: Path, **changes: Any) -> Trainer:
    recipe = Recipe.from_dict({**TINY, **changes})
    return build.build_trainer(recipe, build.load_data(recipe), folder, report=pytest.fail)


def test_losses_by_name_and_precision(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    assert made.patch_report is not None
    assert bool(made.patch_report.patched) == load().available
    result = made.fit()
    step, epoch = (
        next(line for line in result.history if line["kind"] == kind) for kind in ("step", "epoch")
    )
    parts = {
        name: step[name] for name in step if name.startswith(("loss_class", "loss_bbox", "loss_gi"))
    }
    assert len(parts) == 6  # of two decoder layers
    weights = {"loss_class": 1, "loss_bbox": 5, "loss_giou": 2}
    total = sum(weights[name.removesuffix("_0")] * value for name, value in parts.items())
    assert step["loss"] == pytest.approx(total, rel=1e-5)
    assert all(math.isfinite(value) for value in parts.values())
    assert epoch["valid"]["objects"] == sum(
        len(one["labels"]) for one in digits_on_photographs(**options()).valid.targets
    )
    assert 0 <= epoch["valid"]["map"] <= epoch["valid"]["map_50"] <= 1
    assert {"best.safetensors", "curves.png", "precision.png"} <= {
        path.name for path in tmp_path.iterdir()
    }


def options() -> dict[str, Any]:
    return {name: value for name, value in TINY["data"].items() if name != "name"}


def test_interrupted_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer(tmp_path / "whole").fit()
    with monkeypatch.context() as patch:
        interrupt(patch, after=4)  # in the second epoch
        with pytest.raises(Interrupted):
            trainer(tmp_path / "parts").fit()
    trainer(tmp_path / "parts").fit(resume=True)
    same_runs(tmp_path / "whole", tmp_path / "parts")


def test_the_model_is_told_what_is_padding() -> None:

    class TwoSizes(torch.utils.data.Dataset[Any]):
        def __init__(self, sizes: list[tuple[int, int]]) -> None:
            self.sizes = sizes

        def __len__(self) -> int:
            return len(self.sizes)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
            generator = torch.Generator().manual_seed(sum(self.sizes[index]))
            return torch.randn(3, *self.sizes[index], generator=generator), {
                "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]]),
                "labels": torch.tensor([0]),
                "size": torch.tensor(self.sizes[index]),
            }

    model = build.build_model(Recipe.from_dict(TINY), 10, 3).eval()
    both = [(32, 64), (64, 32)]
    masks = []
    model.register_forward_pre_hook(lambda module, inputs: masks.append(inputs[1]))
    for sizes in (both, [both[0]]):
        detections_of(model, TwoSizes(sizes), batch_size=2, device=torch.device("cpu"))
    assert masks[0].sum((1, 2)).tolist() == [64 * 64 // 2] * 2
    assert masks[1] is None


def perfect(targets: list[Any], classes: int) -> Detections:
    """Detections of two queries that see every object, or nothing."""
    logits = torch.full((len(targets), 2, classes + 1), -9.0)
    logits[..., -1] = 9
    boxes = torch.full((len(targets), 2, 4), 0.5)
    for image, target in enumerate(targets):
        for query, (label, box) in enumerate(zip(target["labels"], target["boxes"], strict=True)):
            logits[image, query, label], logits[image, query, -1] = 9, -9
            boxes[image, query] = box
    return {"pred_logits": logits, "pred_boxes": boxes}


def test_average_precision() -> None:
    """All found is 1; a class that is always taken for another is 0, and absent ones are None."""
    size = torch.tensor([40, 80])
    targets: list[Any] = [
        {"labels": torch.tensor([0, 2]), "size": size,
         "boxes": torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.4]])},
        {"labels": torch.tensor([2]), "size": size,
         "boxes": torch.tensor([[0.4, 0.4, 0.5, 0.5]])},
        {"labels": torch.zeros(0, dtype=torch.int64), "size": size, "boxes": torch.zeros(0, 4)},
    ]  # fmt: skip
    found = average_precision(perfect(targets, 4), targets, 4)
    assert found["map"] == pytest.approx(1)
    assert found["map_by_class"] == [pytest.approx(1), None, pytest.approx(1), None]
    assert found["objects"] == 3
    wrong = perfect(targets, 4)
    wrong["pred_logits"][0, 0, [0, 1]] = wrong["pred_logits"][0, 0, [1, 0]]
    found = average_precision(wrong, targets, 4)
    assert found["map_by_class"] == [0, None, pytest.approx(1), None]
    assert found["map"] == pytest.approx(0.5)
    # Boxes moved by a quarter of their width have an IoU of 0.6: right at three of ten thresholds.
    moved = perfect(targets, 4)
    moved["pred_boxes"][..., 0] += moved["pred_boxes"][..., 2] / 4
    found = average_precision(moved, targets, 4)
    assert found["map_50"] == pytest.approx(1)
    assert found["map_75"] == 0
    assert found["map"] == pytest.approx(0.3, abs=0.11)  # 0.6 itself is within rounding
    nothing = [targets[2]]
    assert average_precision(perfect(nothing, 4), nothing, 4)["map"] is None


def test_not_finite_stops_with_the_batch_saved(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.model.class_head.bias.data.fill_(math.nan)
    with pytest.raises(NonFiniteLoss, match="the loss is nan") as stop:
        made.fit()
    assert stop.value.path is not None
    batch = read_state(stop.value.path)["batches"][0]
    assert batch["images"].shape == (4, 3, 64, 64)
    assert batch["padding_mask"] is None
    assert [set(one) for one in batch["targets"]] == [{"boxes", "labels", "size"}] * 4


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train": {**TINY["train"], "monitor": "accuracy"}}, "monitor must be one of .*map_50"),
        ({"train": {**TINY["train"], "layer_decay": 0.5}}, "layer_decay and lr_groups are for"),
        ({"augment": {"mixup": 0.8}}, "augment: not for detection"),
        ({"class_weights": "balanced"}, "class_weights: not for detection"),
        ({"detection": {"weight_box": 1}}, "did you mean weight_bbox"),
        ({"detection": {"weight_bbox": -1}}, "detection.weight_bbox must be at least 0"),
        ({"model": {"name": "vit_tiny_patch16_224"}}, "have boxes, and need a detr"),
        ({"data": {"name": "digits"}, "detection": {}}, "detection: not for classification"),
    ],
)
def test_wrong_recipes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_fewer_queries_than_objects(tmp_path: Path) -> None:
    model = {**TINY["model"], "arguments": {**TINY["model"]["arguments"], "num_queries": 2}}
    with pytest.raises(ValueError, match="num_queries must be at least 3"):
        trainer(tmp_path, model=model)


def test_wrong_boxes_stop_it_before_it_starts(tmp_path: Path) -> None:
    splits = digits_on_photographs(**options())
    splits.train.targets[3]["boxes"][0, 2] = math.nan
    model = build.build_model(Recipe.from_dict(TINY), 10, 3)
    assert isinstance(model, DETR)
    with pytest.raises(ValueError, match="box 0 of image 3 of the training split is not finite"):
        Trainer(
            model, splits.train, splits.valid, config=TrainConfig(monitor="map"),
            folder=tmp_path / "run", task=Detection(splits.classes),
        )  # fmt: skip
    with pytest.raises(TypeError, match="either num_classes or a task"):
        Trainer(model, splits.train, config=TrainConfig(), folder=tmp_path / "run")
