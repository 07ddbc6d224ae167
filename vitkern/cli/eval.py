"""The metrics of a trained run's best weights on a split of its data, or on a folder of images."""

from __future__ import annotations

import argparse
from pathlib import Path

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
        trained = _training.open_run(arguments.folder, patch=not arguments.no_patch)
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
    out.print(_training.table({name: found}))
    for label, sensitivity, specificity in zip(
        trained.classes, found["sensitivity"], found["specificity"], strict=True
    ):
        shown = ["-" if v is None else f"{v:.2%}" for v in (sensitivity, specificity)]
        out.print(f"{label}: sensitivity {shown[0]}, specificity {shown[1]}", markup=False)
    return 0


def _split(trained: object, name: str) -> object:
    from vitkern.training.build import Run, load_data

    assert isinstance(trained, Run)
    return load_data(trained.recipe)[name]


def _folder(trained: object, path: str) -> object:
    from vitkern.cli._training import say
    from vitkern.data.folder import image_folder
    from vitkern.training.build import Run

    assert isinstance(trained, Run)
    mode, transform = trained.files()
    data, _ = image_folder(Path(path), transform, classes=trained.classes, mode=mode)
    for file, reason in data.skipped:
        say(f"skipped {file}: {reason}")
    return data
