"""Features of a folder of images, by a trained run: what the model has before its head.

The file has "features" (images, channels) in float32 and the images' names: Parquet has a row an
image, safetensors has the names as JSON in its metadata, under "images".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkern.cli._arguments import positive
from vitkern.cli._errors import Failure, Usage

if TYPE_CHECKING:
    import torch

HELP = "features of a folder of images, as Parquet or safetensors"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("folder", metavar="RUN", help="the folder of a run")
    parser.add_argument("images", metavar="IMAGES", nargs="+", help="a folder, or files")
    parser.add_argument(
        "--out", metavar="FILE", required=True, help="ends in .parquet or .safetensors"
    )
    parser.add_argument("--batch-size", metavar="N", type=positive, default=32)
    parser.add_argument("--max-pixels", metavar="N", type=positive, help="of an image")
    parser.add_argument("--no-patch", action="store_true", help="on plain PyTorch")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compute and write. Files that cannot be read are told and skipped."""
    from vitkern.cli import _training
    from vitkern.cli._output import print_json, target, writing
    from vitkern.training.evaluation import outputs_of

    if Path(arguments.out).suffix not in (".parquet", ".safetensors"):
        raise Usage(f"--out: {arguments.out} ends in neither .parquet nor .safetensors")
    path = target("--out", arguments.out)
    assert path is not None
    with _training.user_errors():
        trained = _training.open_run(
            arguments.folder, patch=not arguments.no_patch, task="classification"
        )
        data = _training.image_files(trained, arguments.images, arguments.max_pixels)
        features, _ = outputs_of(
            _features(trained.model),
            data,
            batch_size=arguments.batch_size,
            device=next(trained.model.parameters()).device,
            precision=trained.recipe.train.precision,
        )
        names = [str(one) for one in data.paths]
        with writing("--out", path):
            _write(path, features, names)
    found = {
        "out": str(path),
        "images": len(names),
        "channels": features.shape[1],
        "skipped": [{"image": str(file), "reason": reason} for file, reason in data.skipped],
    }
    if arguments.json:
        print_json(found)
    else:
        print(f"{path}: {len(names)} images, {features.shape[1]} channels")
    return 0


def _features(model: Any) -> Any:
    """What goes into the head, as timm's models and ours give it."""
    if not hasattr(model, "forward_features") or not hasattr(model, "forward_head"):
        raise Failure(f"{type(model).__name__} gives no features: it has no forward_features")
    return lambda images: model.forward_head(model.forward_features(images), pre_logits=True)


def _write(path: Path, features: torch.Tensor, names: list[str]) -> None:
    from vitkern.training import files

    if path.suffix == ".safetensors":
        from safetensors.torch import save

        metadata = {"images": json.dumps(names)}
        files.write_bytes(path, save({"features": features.contiguous()}, metadata))
        return
    import pyarrow
    import pyarrow.parquet

    flat = pyarrow.array(features.flatten().numpy())
    rows = pyarrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"image": names, "features": rows}), buffer)
    files.write_bytes(path, buffer.getvalue().to_pybytes())
