"""What the commands about training share."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkern.cli import _errors
from vitkern.cli._arguments import positive
from vitkern.cli._errors import Failure, Usage

if TYPE_CHECKING:
    from rich.table import Table

    from vitkern.training.build import Run
    from vitkern.training.offline import FileOutputs
    from vitkern.training.recipe import Recipe

_NEEDED = (
    "accelerate", "timm", "torchmetrics", "torchvision", "yaml", "sklearn", "matplotlib",
    "pycocotools", "scipy",
)  # fmt: skip


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn what users can mend into one line."""
    try:
        with _errors.user_errors():
            yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in (*_NEEDED, "pydicom", "pyarrow", "ray"):
            raise
        extra = "ray" if package == "ray" else "train"
        hint = f'pip install "vitkern[{extra}]"'
        raise Failure(f"the package {error.name} is not installed: {hint}") from error
    except (ValueError, TypeError, RuntimeError) as error:
        from vitkern.training import CheckpointError, NonFiniteLoss

        if isinstance(error, RuntimeError) and not isinstance(error, NonFiniteLoss):
            raise
        ended = isinstance(error, (CheckpointError, NonFiniteLoss))
        raise (Failure if ended else Usage)(" ".join(str(error).split())) from error


def say(text: str) -> None:
    """A line for people, on the error stream."""
    print(text, file=sys.stderr, flush=True)


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE, values in YAML, as a mapping.

    Raises:
        Usage: no "=", or no YAML after it.
    """
    import yaml

    values = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise Usage(f"--set: {pair!r} is not NAME=VALUE")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise Usage(f"--set: {text!r} is no value") from error
    return values


def data_options(value: str) -> dict[str, Any]:
    """The settings that a --data stands for: the name of a data set, or a folder."""
    from vitkern.data.sources import SOURCES

    if value in SOURCES and not Path(value).is_dir():
        return {"data.name": value}
    if not Path(value).is_dir():
        raise Usage(f"--data: {value!r} is no folder, and none of {', '.join(SOURCES)}")
    return {"data.name": "folder", "data.path": value}


def recipe(path: str | None, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe in a file, or of flags alone.

    Raises:
        Usage: neither a file, nor a model and data.
    """
    from vitkern.training.recipe import Recipe, override

    if path is not None:
        return Recipe.from_yaml(Path(path), overrides)
    if not {"model.name", "data.name"} <= set(overrides):
        raise Usage("train: RECIPE, or --model and --data, are required")
    return Recipe.from_dict(override({}, overrides))


def train(recipe: Recipe, folder: Path, *, resume: bool) -> dict[str, Any] | None:
    """Trains, measures the test split, and writes summary.json; None in all processes but one."""
    import torch

    from vitkern.training import build, files

    splits = build.load_data(recipe)
    main = int(os.environ.get("RANK", "0")) == 0  # Accelerate starts with the trainer
    tell = say if main else lambda text: None
    for note in splits.notes[:20]:
        tell(note)
    if len(splits.notes) > 20:
        tell(f"and {len(splits.notes) - 20} more")
    trainer = build.build_trainer(recipe, splits, folder, report=tell)
    begun = time.monotonic()
    result = trainer.fit(resume=resume)
    seconds = time.monotonic() - begun
    if trainer.accelerator.num_processes > 1:
        trainer.accelerator.end_training()
    if not main:
        return None
    best = build.load_run(folder, patch=recipe.train.patch)
    best.model.to(trainer.accelerator.device)
    report = trainer.patch_report
    summary = {
        "folder": str(folder),
        "recipe": recipe.to_dict(),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "patched_modules": 0 if report is None else len(report.patched),
        "steps": result.steps,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "valid": result.best,
        "test": measure(best, splits.test),
        "notes": splits.notes,
    }
    files.write_json(folder / "summary.json", summary)
    return summary


def measure(run: Run, split: Any) -> dict[str, Any]:
    """The metrics of a run's best weights on a split."""
    config = run.recipe.train
    return run.task.evaluate(
        run.model,
        split,
        batch_size=config.batch_size,
        device=next(run.model.parameters()).device,
        precision=config.precision,
    )


def open_run(name: str, *, patch: bool, task: str | None = None) -> Run:
    """The run in a folder, on the device that training would take.

    Args:
        name: the folder, or its best.safetensors.
        patch: run the model on the kernels.
        task: what it must have been trained for, if that matters.

    Raises:
        FileNotFoundError: there is none.
        Usage: it was trained for something else.
        ValueError: it is damaged.
    """
    from accelerate import PartialState

    from vitkern.training.build import load_run

    run = load_run(Path(name), patch=patch)
    if task not in (None, run.recipe.task):
        fitting = "detect" if run.recipe.task == "detection" else "predict or embed"
        raise Usage(
            f"{name} was trained for {run.recipe.task}: use vitkern {fitting}, or vitkern eval"
            " without other options than --split"
        )
    run.model.to(PartialState().device)
    return run


def image_paths(names: Sequence[str]) -> list[Path]:
    """The image files that files and folders name.

    Raises:
        Usage: a name that is neither, or no image in them.
    """
    from vitkern.data.folder import find_images

    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            paths += find_images(path)
        elif path.is_file():
            paths.append(path)
        else:
            raise Usage(f"{name!r} is neither a file nor a folder")
    if not paths:
        raise Usage(f"no image in {', '.join(names)}")
    return paths


def image_files(run: Run, names: Sequence[str], max_pixels: int | None) -> Any:
    """The images that files and folders name, as the run's model takes them.

    Raises:
        Usage: a name that is neither, or no image in them.
        Failure: none of them can be read.
    """
    from vitkern.data.folder import FileImages
    from vitkern.data.images import MAX_PIXELS

    mode, transform = run.files()
    data = FileImages(
        image_paths(names), None, transform, mode=mode, max_pixels=max_pixels or MAX_PIXELS
    )
    _tell_skipped(data)
    return data


def outputs(arguments: argparse.Namespace, features: bool = False) -> tuple[Run, FileOutputs]:
    """A classifier's outputs for the images that a command names, here or on Ray's workers.

    Raises:
        Usage: what :func:`open_run` and :func:`image_paths` say.
        Failure: no image can be read; or Ray is not installed, or fails.
    """
    from vitkern.data.images import MAX_PIXELS
    from vitkern.training.offline import compute, compute_on_ray, features_of

    patch = not arguments.no_patch
    run = open_run(arguments.folder, patch=patch, task="classification")
    if features:
        features_of(run.model)  # says at once where it has none
    options = {
        "batch_size": arguments.batch_size,
        "features": features,
        "max_pixels": arguments.max_pixels or MAX_PIXELS,
    }
    paths = image_paths(arguments.images)
    if arguments.ray is None:
        found = compute(run, paths, **options)
    else:
        folder = Path(arguments.folder)
        try:
            found = compute_on_ray(folder, paths, workers=arguments.ray, patch=patch, **options)
        except RuntimeError as error:
            raise Failure(" ".join(str(error).split())) from error
    _tell_skipped(found)
    return run, found


def add_inference(parser: argparse.ArgumentParser) -> None:
    """The arguments that :func:`outputs` looks at, but for the run and the images."""
    parser.add_argument("--batch-size", metavar="N", type=positive, default=32)
    parser.add_argument("--max-pixels", metavar="N", type=positive, help="of an image")
    parser.add_argument(
        "--ray",
        metavar="WORKERS",
        type=positive,
        help="on so many processes of Ray Data, on CPUs (pip install 'vitkern[ray]')",
    )
    parser.add_argument("--no-patch", action="store_true", help="on plain PyTorch")
    parser.add_argument("--json", action="store_true", help="print JSON")


def skipped(found: Any) -> list[dict[str, str]]:
    """The files that could not be read, for JSON."""
    return [{"image": str(path), "reason": reason} for path, reason in found.skipped]


def counted(number: int, noun: str) -> str:
    """ "1 image", "2 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _tell_skipped(found: Any) -> None:
    for path, reason in found.skipped:
        say(f"skipped {path}: {reason}")
    if not found.paths:
        raise Failure(f"no image could be read: {counted(len(found.skipped), 'file')} skipped")


_COLUMNS = {
    "classification": (("accuracy", "accuracy", "{:.2%}"), ("weighted F1", "f1", "{:.4f}"),
                       ("AUC", "auc", "{:.4f}")),
    "detection": (("objects", "objects", "{}"), ("mAP", "map", "{:.4f}"),
                  ("mAP at 0.5", "map_50", "{:.4f}"), ("mAP at 0.75", "map_75", "{:.4f}")),
}  # fmt: skip


def table(task: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Metrics of splits for people."""
    from rich.table import Table

    columns = (("images", "images", "{}"), ("loss", "loss", "{:.4f}"), *_COLUMNS[task])
    result = Table("split", *(title for title, _, _ in columns))
    for name, row in rows.items():
        shown = ["-" if row[key] is None else form.format(row[key]) for _, key, form in columns]
        result.add_row(name, *shown)
    return result
