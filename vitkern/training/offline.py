"""A trained classifier's outputs for many image files, in this process or on Ray's workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from vitkern.data.folder import FileImages
from vitkern.data.images import MAX_PIXELS
from vitkern.training.build import Run, load_run
from vitkern.training.evaluation import outputs_of

__all__ = ["FileOutputs", "compute", "compute_on_ray", "features_of"]


@dataclass(frozen=True)
class FileOutputs:
    """Outputs of image files.

    Attributes:
        paths: of the files that could be read, in the order that they were given in.
        values: (N, n) float32 on the host, a row a path.
        skipped: (path, reason) of the others.
    """

    paths: list[Path]
    values: torch.Tensor
    skipped: list[tuple[Path, str]]


def features_of(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """What goes into the head, (B, C, H, W) -> (B, channels), as timm's models and ours give it.

    Raises:
        ValueError: this model does not give it.
    """
    known: Any = model
    if not hasattr(model, "forward_features") or not hasattr(model, "forward_head"):
        raise ValueError(f"{type(model).__name__} gives no features: it has no forward_features")
    return lambda images: known.forward_head(known.forward_features(images), pre_logits=True)


def compute(
    run: Run,
    paths: Sequence[Path],
    *,
    batch_size: int,
    features: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> FileOutputs:
    """Outputs of a run's model, on the device that it is on.

    Args:
        run: of a classifier.
        paths: image files.
        batch_size: images at once.
        features: what goes into the head, in place of the logits.
        max_pixels: of an image; larger ones are skipped.

    Raises:
        ValueError: the model gives no features.
    """
    model = features_of(run.model) if features else run.model
    mode, transform = run.files()
    data = FileImages(paths, None, transform, mode=mode, max_pixels=max_pixels)
    if not len(data):
        return FileOutputs([], torch.zeros(0, 0), data.skipped)
    values, _ = outputs_of(
        model,
        data,
        batch_size=batch_size,
        device=next(run.model.parameters()).device,
        precision=run.recipe.train.precision,
    )
    return FileOutputs(data.paths, values, data.skipped)


def compute_on_ray(
    folder: Path,
    paths: Sequence[Path],
    *,
    workers: int,
    batch_size: int,
    patch: bool = True,
    features: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> FileOutputs:
    """The same on Ray Data: batches are shared out to processes with a model each, on CPUs.

    A batch has the images that it has in one process, where all can be read. A worker that dies is
    replaced, and what it had begun is done again. Without a cluster (``ray.init`` was not called,
    and ``RAY_ADDRESS`` names none) one of ``workers`` processors is started here, and ended.

    Args:
        folder: of the run, which every worker must find under this name, as the images.
        paths: image files.
        workers: processes.
        batch_size: images at once, of a worker.
        patch: run the model on vitkern's kernels.
        features: what goes into the head, in place of the logits.
        max_pixels: of an image; larger ones are skipped.

    Raises:
        ImportError: Ray is not installed.
        RuntimeError: an error in a worker other than its death.
    """
    from vitkern.training import ray_cluster

    # A worker has another working folder, so paths are whole; results name them as they were given.
    given = {str(path.resolve()): path for path in paths}
    names = [str(path.resolve()) for path in paths]
    starts = range(0, len(names), batch_size)
    options = {"features": features, "max_pixels": max_pixels, "batch_size": batch_size}
    found = ray_cluster.shared_out(
        Worker,
        {"folder": str(Path(folder).resolve()), "patch": patch, "options": options},
        [json.dumps(names[start : start + batch_size]) for start in starts],
        workers,
    )
    parts = [_read(content) for content in found]
    values = [part.values for part in parts if part.paths]
    return FileOutputs(
        [given[str(path)] for part in parts for path in part.paths],
        torch.cat(values) if values else torch.zeros(0, 0),
        [(given[str(path)], reason) for part in parts for path, reason in part.skipped],
    )


class Worker:
    """A model in a process of its own: paths of images, as JSON -> their outputs, as a file.

    Args:
        folder: of the run.
        patch: run it on vitkern's kernels.
        options: of :func:`compute`.
    """

    def __init__(self, folder: str, patch: bool, options: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        self.run = load_run(Path(folder), patch=patch)
        self.options = options

    def __call__(self, paths: str) -> bytes:
        found = compute(self.run, [Path(path) for path in json.loads(paths)], **self.options)
        values = found.values.contiguous()
        texts = {
            "paths": json.dumps([str(path) for path in found.paths]),
            "skipped": json.dumps([[str(path), reason] for path, reason in found.skipped]),
        }
        return save({"values": values}, texts)


def _read(content: bytes) -> FileOutputs:
    """What a worker gave."""
    size = int.from_bytes(content[:8], "little")
    texts = json.loads(content[8 : 8 + size])["__metadata__"]
    return FileOutputs(
        [Path(path) for path in json.loads(texts["paths"])],
        load(content)["values"],
        [(Path(path), reason) for path, reason in json.loads(texts["skipped"])],
    )
