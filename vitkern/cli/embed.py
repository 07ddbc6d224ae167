"""Features of a folder of images, by a trained run: what the model has before its head.

The file has "features" (images, channels) in float32 and the images' names: Parquet has a row an
image, safetensors has the names as JSON in its metadata, under "images".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vitkern.cli import _training
from vitkern.cli._errors import Usage

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
    _training.add_inference(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compute and write. Files that cannot be read are told and skipped."""
    from vitkern.cli._output import print_json, target, writing

    if Path(arguments.out).suffix not in (".parquet", ".safetensors"):
        raise Usage(f"--out: {arguments.out} ends in neither .parquet nor .safetensors")
    path = target("--out", arguments.out)
    assert path is not None
    with _training.user_errors():
        _, found = _training.outputs(arguments, features=True)
        names = [str(one) for one in found.paths]
        with writing("--out", path):
            _write(path, found.values, names)
    summary = {
        "out": str(path),
        "images": len(names),
        "channels": found.values.shape[1],
        "skipped": _training.skipped(found),
    }
    if arguments.json:
        print_json(summary)
    else:
        print(f"{path}: {_training.counted(len(names), 'image')}, {summary['channels']} channels")
    return 0


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
