"""From a recipe to a trainer, and from a run's folder back to its model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitkern.data.arrays import Splits
from vitkern.data.checks import labels_of
from vitkern.data.sources import SOURCES
from vitkern.data.transforms import batch_mix
from vitkern.models import DETR, HungarianMatcher, SetCriterion, create_model, list_models
from vitkern.training.checkpoint import read_state
from vitkern.training.classification import Classification
from vitkern.training.detection import Detection
from vitkern.training.distillation import DistillationLoss
from vitkern.training.losses import CrossEntropy, balanced_weights
from vitkern.training.recipe import Recipe
from vitkern.training.task import Task
from vitkern.training.trainer import Trainer
from vitkern.training.transfer import freeze_backbone, load_pretrained

__all__ = ["Run", "build_model", "build_task", "build_trainer", "load_data", "load_run"]


def load_data(recipe: Recipe) -> Splits:
    """The data set of a recipe.

    Raises:
        TypeError: an option of a wrong type.
        ValueError: an option out of range, or what is wrong with the data.
    """
    options = {name: value for name, value in recipe.data.items() if name != "name"}
    return SOURCES[recipe.data["name"]].load(**options)


def build_model(recipe: Recipe, num_classes: int, channels: int) -> nn.Module:
    """The model of a recipe, with fresh weights from the recipe's seed.

    Raises:
        TypeError: an argument that the model does not have.
        ValueError: no such model, or an argument out of range.
    """
    name, arguments = recipe.model["name"], dict(recipe.model["arguments"])
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    arguments = {"in_chans": channels, **arguments}
    torch.manual_seed(recipe.train.seed)
    if name in list_models():
        return create_model(name, num_classes=num_classes, **arguments)
    import timm

    plain = name.removeprefix("timm:")
    if not timm.is_model(plain):
        return create_model(name)  # says which names are near
    model: nn.Module = timm.create_model(
        plain, pretrained=False, num_classes=num_classes, **arguments
    )
    return model


def build_trainer(
    recipe: Recipe,
    splits: Splits,
    folder: Path,
    *,
    report: Callable[[str], None],
    progress: bool = True,
) -> Trainer:
    """Everything that a recipe asks for, put together and tried on one image.

    Args:
        recipe: the recipe.
        splits: its data, from :func:`load_data`.
        folder: of the run.
        report: is told what there is to know, a line each.
        progress: draw bars.

    Raises:
        FileNotFoundError: weights or a teacher that are not there.
        TypeError: an argument of a wrong type.
        ValueError: parts that do not fit together, or as :class:`Trainer`.
    """
    model = build_model(recipe, len(splits.classes), splits.channels)
    make = _detection if recipe.task == "detection" else _classification
    return Trainer(
        model,
        splits.train,
        splits.valid,
        config=recipe.train,
        folder=folder,
        task=make(recipe, splits, model, report),
        extra={"recipe": recipe.to_dict(), "classes": splits.classes, "channels": splits.channels},
        report=report,
        progress=progress,
    )


def build_task(recipe: Recipe, classes: Sequence[str]) -> Task:
    """What measures a model that a recipe trained, without what is for its training only."""
    if recipe.task == "detection":
        options = dict(recipe.detection or {})
        costs = {n: options.pop(n) for n in list(options) if n.startswith("cost_")}
        return Detection(classes, SetCriterion(len(classes), HungarianMatcher(**costs), **options))
    return Classification(classes)


def _detection(
    recipe: Recipe, splits: Splits, model: nn.Module, report: Callable[[str], None]
) -> Task:
    if not isinstance(model, DETR):
        raise ValueError(
            f"data {recipe.data['name']!r} have boxes, and need a detr_... of vitkern.models;"
            f" model.name is {recipe.model['name']!r}"
        )
    most = max(len(one["labels"]) for one in splits.train.targets)
    if model.num_queries < most:
        raise ValueError(
            f"model.arguments.num_queries must be at least {most}, as there are images with so many"
            f" objects; got {model.num_queries}"
        )
    _try(model, splits, "the model", _shape_of_detections)
    return build_task(recipe, splits.classes)


def _classification(
    recipe: Recipe, splits: Splits, model: nn.Module, report: Callable[[str], None]
) -> Task:
    classes = len(splits.classes)
    _try(model, splits, "the model")
    if recipe.transfer is not None:
        _transfer(model, recipe.transfer, report)
    weights = None
    if recipe.class_weights == "balanced":
        labels = labels_of(splits.train)
        if labels is None:
            raise ValueError("class_weights='balanced' needs data that list their labels")
        weights = balanced_weights(labels, classes)
    loss: nn.Module = CrossEntropy(recipe.train.label_smoothing, weights)
    if recipe.distill is not None:
        options = dict(recipe.distill)
        teacher = load_run(Path(options.pop("teacher")), patch=recipe.train.patch).model
        _try(teacher, splits, "the teacher")
        if options.pop("init"):
            from vitkern.training.teacher_init import init_from_teacher

            report(f"begins with the teacher's weights: {init_from_teacher(model, teacher)}")
        if callable(switch := getattr(model, "set_distilled_training", None)):
            switch(True)  # timm's models with a distillation token give both logits then
        loss = DistillationLoss(teacher, loss, **options)
    return Classification(splits.classes, loss, batch_mix(classes, **recipe.augment))


class Run:
    """A trained model and what it was trained as.

    Attributes:
        model: with the best weights, in evaluation mode.
        recipe: the training's.
        classes: names of its logits.
        valid: the validation of the best epoch.
        task: what it was trained for, to measure it with.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, state: dict[str, Any]) -> None:
        self.model, self.recipe = model, recipe
        self.classes: list[str] = state["extra"]["classes"]
        self.valid: dict[str, Any] = state["valid"]
        self.task = build_task(recipe, self.classes)

    def files(self) -> tuple[str, Callable[[Any], torch.Tensor]]:
        """Mode and transform of image files, as the training's images were."""
        options = {n: v for n, v in self.recipe.data.items() if n != "name"}
        return SOURCES[self.recipe.data["name"]].files(**options)


def load_run(folder: Path, *, patch: bool = True) -> Run:
    """The best model of a run.

    Args:
        folder: the run's, or its best.safetensors.
        patch: run it on vitkern's kernels.

    Raises:
        FileNotFoundError: no such run, or nothing of it yet.
        ValueError: its file is damaged, or of another kind.
    """
    import vitkern

    path = folder / "best.safetensors" if folder.is_dir() else folder
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no run: it has no best.safetensors")
    state = read_state(path)
    if "valid" not in state:
        raise ValueError(
            f"{path} is a checkpoint to go on from: give the run's folder, or its best.safetensors"
        )
    if "recipe" not in state["extra"]:
        raise ValueError(f"{path} does not say how to build its model")
    recipe = Recipe.from_dict(state["extra"]["recipe"])
    model = build_model(recipe, len(state["extra"]["classes"]), state["extra"]["channels"])
    model.load_state_dict(state["model"])
    model.eval()
    if patch:
        vitkern.patch(model)
    return Run(model, recipe, state)


def _transfer(model: nn.Module, section: dict[str, Any], report: Callable[[str], None]) -> None:
    if section["weights"] is not None:
        loaded = load_pretrained(model, section["weights"])
        fresh = f"; fresh: {', '.join(loaded.fresh)}" if loaded.fresh else ""
        report(f"{len(loaded.loaded)} tensors from {section['weights']}{fresh}")
    share = freeze_backbone(model, section["freeze"])
    report(f"{share:.2%} of the parameters learn")


def _try(
    model: nn.Module,
    splits: Splits,
    what: str,
    shape_of: Callable[[Any], tuple[int, ...]] = lambda logits: tuple(logits.shape),
) -> None:
    """One image through the model: sizes that do not fit are found before anything is trained."""
    if len(splits.valid) == 0:
        raise ValueError("the validation split has no images")
    image = splits.valid[0][0]
    mode = model.training
    try:
        with torch.no_grad():
            outputs = model.eval()(image[None])
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"{what} does not take images {tuple(image.shape)}: {error}") from error
    finally:
        model.train(mode)
    shape = shape_of(outputs)
    if shape != (1, len(splits.classes)):
        raise ValueError(f"{what} must give {len(splits.classes)} logits an image, got {shape[1:]}")


def _shape_of_detections(detections: Any) -> tuple[int, ...]:
    """As of a classifier: "no object" is no class, and queries do not matter."""
    images, _, logits = detections["pred_logits"].shape
    return images, logits - 1
