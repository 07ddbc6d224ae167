"""Recipes: a whole training as plain data, from YAML, checked before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vitkern.data.sources import SOURCES, options_of
from vitkern.training import _check
from vitkern.training.config import TrainConfig

__all__ = ["Recipe"]

_DISTILL = {"teacher": None, "temperature": 3.0, "alpha": 0.5, "hard": False, "init": False}
_TRANSFER = {"weights": None, "freeze": 0.0}
_AUGMENT = {"mixup": 0.0, "cutmix": 0.0}
_DEEPEST, _MOST = 20, 10_000
_DETECTION = {
    "weight_class": 1.0,
    "weight_bbox": 5.0,
    "weight_giou": 2.0,
    "no_object_weight": 0.1,
    "cost_class": 1.0,
    "cost_bbox": 5.0,
    "cost_giou": 2.0,
}
_MODEL: dict[str, Any] = {"name": None, "arguments": {}}


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, and how.

    Attributes:
        model: "name" of ``vitkern.models`` or timm ("timm:" before it asks for timm's), and
            "arguments" beside the number of classes and of channels, which the data set tells.
        data: "name" of a source, and its options.
        train: of :class:`TrainConfig`.
        augment: "mixup" and "cutmix", their alphas; 0 for none.
        transfer: "weights", a file, a run's folder or a timm name, and "freeze", the share of the
            backbone that learns nothing.
        distill: "teacher", a run's folder, "temperature", "alpha", "hard" labels, and "init":
            begin with the teacher's weights.
        class_weights: "balanced" or "none".
        detection: weights of :class:`~vitkern.models.SetCriterion`'s losses and of
            :class:`~vitkern.models.HungarianMatcher`'s costs, for data with boxes; their defaults
            where left out. Such data take no ``augment``, ``transfer``, ``distill`` and
            ``class_weights``.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    train: TrainConfig = field(default_factory=TrainConfig)
    augment: dict[str, Any] = field(default_factory=lambda: dict(_AUGMENT))
    transfer: dict[str, Any] | None = None
    distill: dict[str, Any] | None = None
    class_weights: str = "none"
    detection: dict[str, Any] | None = None

    @property
    def task(self) -> str:
        """ "classification" or "detection", as the data set says."""
        return SOURCES[self.data["name"]].task

    @classmethod
    def from_dict(cls, values: Any) -> Recipe:
        """A checked recipe.

        Raises:
            TypeError: a section or setting of another type.
            ValueError: an unknown name, with near matches, a missing one, or a value out of range.
        """
        _mapping("a recipe", values)
        _check.known("a recipe", values, (one.name for one in fields(cls)))
        for name in ("model", "data"):
            if name not in values:
                raise ValueError(f"a recipe must have a section {name!r}")
        model = _section("model", values["model"], _MODEL)
        if not isinstance(model["name"], str):
            raise TypeError(f"model.name must be a name, got {model['name']!r}")
        _mapping("model.arguments", model["arguments"])
        weights = values.get("class_weights", "none")
        _check.choice("class_weights", weights, ("none", "balanced"))
        train = values.get("train") or {}
        _mapping("train", train)
        recipe = cls(
            model,
            _data(values["data"]),
            TrainConfig.from_dict(train),
            _augment(values.get("augment")),
            _transfer(values.get("transfer")),
            _distill(values.get("distill")),
            weights,
            _detection(values.get("detection")),
        )
        _check_task(recipe)
        return recipe

    @classmethod
    def from_yaml(cls, path: Path, overrides: Mapping[str, Any]) -> Recipe:
        """The recipe in a file, with some settings replaced.

        Args:
            path: the file.
            overrides: values by dotted names, such as "train.lr".

        Raises:
            OSError: it cannot be read.
            TypeError: as :meth:`from_dict`, or what JSON does not have, such as a date or a set.
            ValueError: as :meth:`from_dict`, no YAML, or too much of it.
        """
        import yaml

        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError:
            raise
        except Exception as error:  # what PyYAML's constructors run into, of any kind
            raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
        _plain(str(path), values)
        return cls.from_dict(override(values, overrides))

    def to_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` takes it."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["train"] = self.train.to_dict()
        return values


def override(values: Any, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested mappings with values under dotted names replaced or added."""
    _mapping("a recipe", values)
    result = dict(values)
    for dotted, value in overrides.items():
        head, _, rest = dotted.partition(".")
        if rest:
            result[head] = override(result.get(head) or {}, {rest: value})
        else:
            result[head] = value
    return result


def _data(values: Any) -> dict[str, Any]:
    _mapping("data", values)
    name = values.get("name")
    if not isinstance(name, str):
        raise TypeError(f"data.name must be a name, got {name!r}")
    _check.choice("data.name", name, SOURCES)
    options = [one for one in values if one != "name"]
    _check.known(f"data (name: {name})", options, options_of(name))
    return dict(values)


def _augment(values: Any) -> dict[str, Any]:
    section = _section("augment", values or {}, _AUGMENT)
    for name, value in section.items():
        _check.number(f"augment.{name}", value, 0)
    return section


def _transfer(values: Any) -> dict[str, Any] | None:
    if values is None:
        return None
    section = _section("transfer", values, _TRANSFER)
    _check.number("transfer.freeze", section["freeze"], 0, 1)
    if section["weights"] is not None and not isinstance(section["weights"], str):
        raise TypeError(f"transfer.weights must be a file or name, got {section['weights']!r}")
    return section


def _distill(values: Any) -> dict[str, Any] | None:
    if values is None:
        return None
    section = _section("distill", values, _DISTILL)
    if not isinstance(section["teacher"], str):
        raise TypeError(f"distill.teacher must be a run's folder, got {section['teacher']!r}")
    _check.number("distill.temperature", section["temperature"], 0, above=True)
    _check.number("distill.alpha", section["alpha"], 0, 1)
    _check.flag("distill.hard", section["hard"])
    _check.flag("distill.init", section["init"])
    return section


def _detection(values: Any) -> dict[str, Any] | None:
    if values is None:
        return None
    section = _section("detection", values, _DETECTION)
    for name, value in section.items():
        _check.number(f"detection.{name}", value, 0)
    return section


def _check_task(recipe: Recipe) -> None:
    """Sections are for the task that the data set is of."""
    given = {
        "augment": any(recipe.augment.values()),
        "transfer": recipe.transfer is not None,
        "distill": recipe.distill is not None,
        "class_weights": recipe.class_weights != "none",
    }
    if recipe.task == "classification":
        given = {"detection": recipe.detection is not None}
    wrong = [name for name, there in given.items() if there]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)}: not for {recipe.task}, which data {recipe.data['name']!r} are of"
        )


def _section(name: str, values: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    _mapping(name, values)
    _check.known(name, values, defaults)
    return {**defaults, **values}


def _plain(name: str, values: Any) -> None:
    """``values`` can be written as JSON, and is no more than a recipe needs.

    Aliases of YAML can make a value that is part of itself, or a few lines billions of values.

    Raises:
        TypeError: another kind of value.
        ValueError: nested too deeply, or too many values.
    """
    count = 0

    def check(value: Any, depth: int) -> None:
        nonlocal count
        count += 1
        if depth > _DEEPEST or count > _MOST:
            raise ValueError(
                f"{name} has values in more than {_DEEPEST} levels, or more than {_MOST} of them"
            )
        if isinstance(value, dict):
            for key, one in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{name} has the name {key!r}, which is no text")
                check(one, depth + 1)
        elif isinstance(value, list):
            for one in value:
                check(one, depth + 1)
        elif not (value is None or isinstance(value, (bool, int, float, str))):
            raise TypeError(f"{name} has {value!r}, which is a {type(value).__name__}")

    check(values, 0)


def _mapping(name: str, values: Any) -> None:
    if not isinstance(values, Mapping):
        raise TypeError(f"{name} must be names with values, got {values!r}")
