"""The files of quantized models: format, checks of what is in one, and whole files only."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import torch

FORMAT = "vitkern.quantized"
VERSION = 2  # 1 had a checksum of the tensors only
LARGEST = torch.finfo(torch.float32).max

Entries = dict[str, dict[str, Any]]
"""Of each layer in int8: ``low`` and ``high`` of its input or None, whether it is ``paired``, and
the ``dtype`` of its weight."""


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str], Entries]:
    """Tensors, metadata, and what it says of the layers in int8."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} is not a file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{str(path)!r} is no file of vitkern.save_quantized")
            if metadata.get("version") != str(VERSION):
                raise ValueError(
                    f"{str(path)!r} is of version {metadata.get('version')} of its format, from"
                    f" vitkern {metadata.get('vitkern')}; this vitkern reads version {VERSION}"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if metadata.pop("checksum", None) != checksum(tensors, metadata):
            raise ValueError(f"{str(path)!r} is damaged: its checksum is that of other contents")
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is damaged or no safetensors file: {error}") from error
    try:
        entries: Entries = json.loads(metadata["layers"])
        for entry in entries.values():
            ends = entry["low"], entry["high"]
            if ends != (None, None) and not (
                all(isinstance(end, float) for end in ends)
                # Kernels hold both ends and what lies between them in float32.
                and -LARGEST <= ends[0] <= ends[1] <= LARGEST
                and ends[1] - ends[0] <= LARGEST
            ):
                raise ValueError(f"{ends} is no range")
            if not isinstance(entry["paired"], bool) or not isinstance(entry["dtype"], str):
                raise ValueError(f"{entry} is no layer")
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged: its metadata has no layers") from error
    return tensors, metadata, entries


def write(tensors: dict[str, torch.Tensor], metadata: dict[str, str], path: Path) -> None:
    """All of the file, on the disk, or nothing."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if not path.parent.is_dir():
        raise FileNotFoundError(f"{str(path.parent)!r} is not a directory")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory")
    metadata = {key: text for key, text in metadata.items() if key != "checksum"}
    metadata["checksum"] = checksum(tensors, metadata)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            save_file(tensors, beside, metadata)
        except SafetensorError as error:
            raise OSError(f"{str(path)!r} cannot be written: {error}") from error
        _flush(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    _flush(path.parent)


def checksum(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """Of names, shapes, dtypes, contents and metadata. Against damage, not against intent."""
    found = hashlib.blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=16)
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        found.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _flush(path: Path) -> None:
    """Waits until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keys(name: str) -> tuple[str, str]:
    """The entries of a layer's values and scales."""
    prefix = f"{name}." if name else ""
    return f"{prefix}weight", f"{prefix}weight_scale"
