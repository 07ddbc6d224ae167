"""The metrics of a trained run's best weights on a split of its data, or on a folder of images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitkern.training.build import Run

HELP = "metrics of a trained model on a split or a folder"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("folder", metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--split", choices=("train", "valid", "test"), default="test", help="(default test)"
    )
    parser.add_argument(
        "--data", metavar="FOLDER", help="images in a folder for each class, in place of a split"
    )
    parser.add_argument("--confusion", metavar="PNG", help="draw the confusion matrix there")
    parser.add_argument("--no-patch", action="store_true", help="on plain PyTorch")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print."""
    from vitkern.cli import _training
    from vitkern.cli._output import check_picture, console, print_json, target, writing

    check_picture(arguments.confusion)
    picture = target("--confusion", arguments.confusion)
    with _training.user_errors():
        needed = "classification" if arguments.data or picture else None
        trained = _training.open_run(arguments.folder, patch=not arguments.no_patch, task=needed)
        if arguments.data is None:
            name, split = arguments.split, _split(trained, arguments.split)
        else:
            name, split = arguments.data, _folder(trained, arguments.data)
        found = _training.measure(trained, split)
    if picture is not None:
        from vitkern.training.plots import plot_confusion

        with writing("--confusion", picture):
            plot_confusion(found["confusion"], trained.classes, picture)
    if arguments.json:
        print_json({"run": arguments.folder, "data": name, "classes": trained.classes, **found})
        return 0
    out = console()
    out.print(_training.table(trained.recipe.task, {name: found}))
    for label, line in zip(trained.classes, _by_class(trained.recipe.task, found), strict=True):
        out.print(f"{label}: {line}", markup=False)
    return 0


def _by_class(task: str, found: dict[str, Any]) -> list[str]:
    """A line for each class."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.2%}"

    if task == "detection":
        return [f"average precision {shown(value)}" for value in found["map_by_class"]]
    return [
        f"sensitivity {shown(sensitivity)}, specificity {shown(specificity)}"
        for sensitivity, specificity in zip(found["sensitivity"], found["specificity"], strict=True)
    ]


def _split(trained: Run, name: str) -> Any:
    from vitkern.training.build import load_data

    return load_data(trained.recipe)[name]


def _folder(trained: Run, path: str) -> Any:
    from vitkern.cli._training import say
    from vitkern.data.folder import image_folder

    mode, transform = trained.files()
    data, _ = image_folder(Path(path), transform, classes=trained.classes, mode=mode)
    for file, reason in data.skipped:
        say(f"skipped {file}: {reason}")
    return data
