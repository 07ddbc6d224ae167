"""What decisions hold for: machine, versions, builds."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
from pathlib import Path
from typing import Any

import torch

from vitkern import _host
from vitkern._library import cuda_location, load

SCHEMA = 2
"""Raised when keys or files change their meaning."""

_FIELDS = "model name|cpu family|model|stepping|CPU implementer|CPU part|CPU variant|CPU revision"


def environment() -> dict[str, Any]:
    """What a decision depends on beside the call. Names neither the host nor its user."""
    status = load()
    return {
        "schema": SCHEMA,
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": _host.cores(),
        "torch": torch.__version__,
        "torch_build": _digest(torch.__config__.show().encode()),
        "vitkern": _host.version() or status.build.get("vitkern"),
        "triton": _host.version("triton"),
        "cuda_library": cuda_location().build.get("sources"),
        "library": _file_digest(status.path) if status.available else None,
        "isa": str(torch.ops.vitkern_cpu.isa()) if status.available else None,
    }


def file_name(found: dict[str, Any]) -> str:
    """The name of the file for an environment."""
    return f"decisions-{_digest(json.dumps(found, sort_keys=True).encode())}.json"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


@functools.cache
def _file_digest(path: Path) -> str:
    """Of the contents: dates and sizes do not tell two builds apart."""
    return _digest(path.read_bytes())


def _processor() -> str:
    """The first processor's name and generation."""
    found = re.findall(rf"^({_FIELDS})\s*: (.*)$", _host.first_processor(), re.M)
    return ", ".join(f"{name} {value}" for name, value in found) or _host.processor()
