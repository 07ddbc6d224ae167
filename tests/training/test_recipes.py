"""Every recipe in examples/recipes runs, shortened, and learns something in two epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vitkern._library import load
from vitkern.training import TrainResult, build
from vitkern.training.recipe import Recipe

RECIPES = Path(__file__).resolve().parents[2] / "examples" / "recipes"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where short runs are."""
    return tmp_path_factory.mktemp("runs")


def short(name: str, runs: Path, told: list[str] | None = None, **changes: Any) -> TrainResult:
    """Two epochs of a recipe, whose own warm-up would take longer."""
    overrides = {"train.epochs": 2, "train.warmup": 0.1, **changes}
    recipe = Recipe.from_yaml(RECIPES / f"{name}.yaml", overrides)
    splits = build.load_data(recipe)
    tell = (told if told is not None else []).append
    trainer = build.build_trainer(recipe, splits, runs / name, report=tell)
    report = trainer.patch_report
    assert report is not None
    assert bool(report.patched) == load().available
    assert bool(report.skipped) != load().available
    return trainer.fit()


def learned(result: TrainResult) -> None:
    losses = [line["loss"] for line in result.history if line["kind"] == "step"]
    part = max(len(losses) // 5, 1)
    assert sum(losses[-part:]) < sum(losses[:part])


def needed(name: str, runs: Path) -> str:
    """The folder of a short run that another recipe builds on."""
    if not (runs / name / "best.safetensors").exists():
        short(name, runs)
    return str(runs / name)


@pytest.mark.parametrize("name", ["digits-vit", "digits-swin", "digits-student", "medical"])
def test_by_itself(name: str, tmp_path: Path) -> None:
    learned(short(name, tmp_path))


def test_transfer(runs: Path) -> None:
    told: list[str] = []
    learned(short("transfer", runs, told, **{"transfer.weights": needed("digits-vit", runs)}))
    assert any("fresh: head.weight, head.bias" in line for line in told)
    assert any("of the parameters learn" in line for line in told)


def test_detection(tmp_path: Path) -> None:
    """Few images; where objects are is what a detector learns first."""
    changes = {"data.train": 160, "data.valid": 16, "data.test": 1}
    result = short("detect-digits", tmp_path, **changes)
    learned(result)
    assert 0 <= result.best["map"] <= 1


def test_distillation(runs: Path) -> None:
    learned(short("digits-distill", runs, **{"distill.teacher": needed("digits-swin", runs)}))


def test_student_and_student_by_itself_are_trained_alike() -> None:
    """Else they could not be compared."""
    alone, taught = (
        Recipe.from_yaml(RECIPES / f"digits-{name}.yaml", {}) for name in ("student", "distill")
    )
    assert (alone.model, alone.data, alone.train) == (taught.model, taught.data, taught.train)


def test_no_recipe_is_left_out() -> None:
    names = {path.stem for path in RECIPES.glob("*.yaml")}
    assert names == {
        "digits-vit", "digits-swin", "digits-student", "digits-distill", "medical", "transfer",
        "detect-digits",
    }  # fmt: skip
