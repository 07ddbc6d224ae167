"""State dicts from files, folders and the hub; nothing is unpickled but tensors."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

SAFETENSORS = ".safetensors"
PICKLED = (".pt", ".pth", ".bin")
_WRAPPERS = ("state_dict", "model")
_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""What a folder or a repository on the hub may hold, in the order of preference."""
_HUB_PREFIX = "hf-hub:"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")

StateDict = dict[str, torch.Tensor]


def read(
    source: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> StateDict:
    """The state dict of a checkpoint.

    Args:
        source: a file, a folder or a hub id, as :func:`load_checkpoint` takes them.
        cache_dir: of the hub's downloads; huggingface_hub's own if None.
        local_files_only: never ask the hub, use what is in the cache.

    Raises:
        FileNotFoundError, ImportError, ValueError: as :func:`load_checkpoint`.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        return _read_first(text, lambda name: _if_file(path / name))
    if not path.is_file() and _is_hub_id(text):
        return _read_hub(text.removeprefix(_HUB_PREFIX), cache_dir, local_files_only)
    if path.suffix not in (SAFETENSORS, *PICKLED):
        raise ValueError(
            f"checkpoint must end in {', '.join((SAFETENSORS, *PICKLED))}, or be a folder or a hub"
            f" id such as 'timm/vit_tiny_patch16_224.augreg_in21k', got {text!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {text!r} is not a file")
    return _read_file(path)


def _is_hub_id(text: str) -> bool:
    """Whether ``text`` is ``organisation/name`` or begins with ``hf-hub:``."""
    if text.startswith(_HUB_PREFIX):
        return True
    return _HUB_ID.fullmatch(text) is not None and not text.endswith((SAFETENSORS, *PICKLED))


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _read_hub(
    text: str, cache_dir: str | os.PathLike[str] | None, local_files_only: bool
) -> StateDict:
    """The state dict of ``organisation/name`` or ``organisation/name@revision``.

    Raises:
        FileNotFoundError, ImportError, ValueError: as :func:`load_checkpoint`.
    """
    if _HUB_ID.fullmatch(text) is None:
        raise ValueError(f"a hub id must be organisation/name or …@revision, got {text!r}")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise ImportError(
            f"checkpoint {text!r} is on the hub: pip install huggingface_hub"
        ) from error
    repository, _, revision = text.partition("@")

    def fetch(name: str) -> Path | None:
        try:
            return Path(
                hf_hub_download(
                    repository,
                    name,
                    revision=revision or None,
                    cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                    local_files_only=local_files_only,
                )
            )
        except EntryNotFoundError:  # not there, or neither in the cache nor within reach
            return None
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise FileNotFoundError(f"checkpoint {text!r} is not on the hub") from error

    return _read_first(text, fetch)


def _read_first(text: str, fetch: Callable[[str], Path | None]) -> StateDict:
    """The first of the known files that ``fetch`` finds, with its shards.

    Raises:
        FileNotFoundError: none, or a shard is missing.
        ImportError, ValueError: as :func:`load_checkpoint`.
    """
    for name in _FILES:
        path = fetch(name)
        if path is None:
            continue
        if not name.endswith(".json"):
            return _read_file(path)
        weights: StateDict = {}
        for shard in _shards(path):
            part = fetch(shard)
            if part is None:
                raise FileNotFoundError(f"checkpoint {text!r} has no {shard!r}, which it lists")
            weights.update(_read_file(part))
        return weights
    raise FileNotFoundError(
        f"checkpoint {text!r} has none of {', '.join(_FILES)}, or is not within reach"
    )


def _shards(index: Path) -> list[str]:
    """The files that an index lists.

    Raises:
        ValueError: not an index, or a shard outside its folder.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        plain = all(name == Path(name).name and name.endswith(SAFETENSORS) for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"checkpoint {str(index)!r} is not an index of shards") from error
    if not plain:
        raise ValueError(f"checkpoint {str(index)!r} must list safetensors files beside it")
    return names


def _read_file(path: Path) -> StateDict:
    """The state dict in one file.

    Raises:
        ImportError, ValueError: as :func:`load_checkpoint`.
    """
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint {str(path)!r} holds more than tensors, or is damaged: it is not unpickled,"
            " as that could run code"
        ) from error
    except Exception as error:  # a damaged pickle leads the unpickler to errors of every kind
        raise ValueError(f"checkpoint {str(path)!r} can't be read: {_first_line(error)}") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ValueError(
            f"checkpoint {str(path)!r} must hold a state dict, got {type(content).__name__}"
        )
    for key, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"checkpoint {str(path)!r} must hold a state dict of tensors,"
                f" got {type(value).__name__} under {key!r}"
            )
    return dict(content)


def _read_safetensors(path: Path) -> StateDict:
    """Raises ImportError, ValueError: as :func:`load_checkpoint`."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f"checkpoint {str(path)!r} needs the package safetensors: pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"checkpoint {str(path)!r} can't be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
