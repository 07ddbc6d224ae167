"""The GPU of this machine, and the software that its results depend on."""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vitkern.bench.machine import package_version, version
from vitkern.ops._triton import availability
from vitkern.ops._triton.targets import TARGETS, Target

_NAMES = {
    "a100": "NVIDIA A100-SXM4-80GB",
    "h100": "NVIDIA H100 80GB HBM3",
    "h200": "NVIDIA H200",
    "b200": "NVIDIA B200",
    "rtx4090": "NVIDIA GeForce RTX 4090",
    "rtx5090": "NVIDIA GeForce RTX 5090",
}
"""The driver's names of the cards in the table. Others of these chips (PCIe, NVL) are slower."""


@dataclass(frozen=True)
class Card:
    """A GPU as its driver describes it. ``None`` is what cannot be known."""

    name: str
    capability: tuple[int, int] | None = None
    processors: int | None = None
    memory: int | None = None
    cache: int | None = None
    driver: str | None = None
    power_limit: str | None = None

    @property
    def slug(self) -> str:
        """A name for folders."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def target(self) -> Target | None:
        """Its data sheet's figures, where the card is in the table and whole (no slice of it)."""
        for key, name in _NAMES.items():
            if name == self.name and TARGETS[key].processors == self.processors:
                return TARGETS[key]
        return None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        target = self.target
        return {"slug": self.slug, **asdict(self), "data_sheet": target and target.name}


def missing() -> str | None:
    """Why there is no GPU to check, in a line, or None."""
    if availability.interpreted():
        return "TRITON_INTERPRET is set, which runs kernels on the CPU: unset it"
    if torch.version.cuda is None:
        return f"no GPU: PyTorch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "no GPU: PyTorch finds no CUDA device (nvidia-smi shows those that the driver has)"
    return availability.missing()


def describe(device: torch.device) -> Card:
    """The card, or the processor in place of one."""
    if device.type != "cuda":
        return Card("no GPU")
    properties = torch.cuda.get_device_properties(device)
    driver, power = smi("driver_version", "power.limit") or (None, None)
    return Card(
        properties.name, (properties.major, properties.minor), properties.multi_processor_count,
        properties.total_memory, properties.L2_cache_size, driver, power,
    )  # fmt: skip


def smi(*fields: str) -> list[str] | None:
    """What nvidia-smi says of the first card that PyTorch sees; None where it does not."""
    try:
        uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        query = [f"--id={uuid}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
        found = subprocess.run(
            ["nvidia-smi", *query],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, AttributeError, RuntimeError, AssertionError):
        return None
    values = [value.strip() for value in found.stdout.strip().split(",")]
    return values if len(values) == len(fields) else None


def software() -> dict[str, Any]:
    """What was measured: versions, the commit if known, and a digest of vitkern's sources."""
    return {
        "vitkern": version(),
        "commit": _commit(),
        "sources": _sources(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": package_version("triton"),
        "timm": package_version("timm"),
    }


def root() -> Path:
    """The folder that has the package, and in a checkout the tests."""
    return Path(__file__).resolve().parents[3]


def _commit() -> str | None:
    """None outside of a checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=root(), capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() if (root() / ".git").exists() else None


@functools.cache
def _sources() -> str:
    """Tells two working trees apart that have one commit, or none."""
    digest = hashlib.blake2b(digest_size=8)
    package = root() / "vitkern"
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
