"""What was measured on: processor, threads, instruction set, versions, compiler.

Nothing here names the host, its user or its folders, so that results can be shared.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vitkern import _host
from vitkern._library import load
from vitkern.dispatch.measured import STORE
from vitkern.ops import _cpu

__all__ = ["Machine", "describe", "package_version", "version"]


@dataclass(frozen=True)
class Machine:
    """A machine and the software on it. ``None`` is what cannot be known here.

    Attributes:
        cpu: as the processor names itself.
        cpu_id: vendor's family, model and stepping, which tell generations of one name apart.
        cores: processors that this process may use.
        threads: that PyTorch uses in an op.
        isa: instruction set that vitkern's kernels use; None without the library.
        compiler: of the library.
        choices: how many kinds of calls take another backend than the fixed order gives, because
            ``vitkern.tune`` has measured that here: what runs is then not what runs elsewhere.
    """

    cpu: str
    cpu_id: str | None
    architecture: str
    cores: int
    threads: int
    isa: str | None
    system: str
    python: str
    torch: str
    vitkern: str
    compiler: str | None
    choices: int = 0

    @property
    def title(self) -> str:
        """For tables: processor, threads, instruction set, choices."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        title = f"{self.cpu}, {threads}, {self.isa or 'no library'}"
        if self.choices:
            title += f", {self.choices} choice{'s' * (self.choices != 1)} as measured by tune"
        return title

    @property
    def slug(self) -> str:
        """A name for files: processor, cores, instruction set."""
        words = re.sub(r"\((r|tm|c)\)|\bcpu\b|\bprocessor\b|@.*", " ", self.cpu, flags=re.I)
        parts = [words]
        if self.cpu_id is not None:
            parts.append(self.cpu_id.partition(" stepping")[0])
        parts += [f"{self.cores} core{'s' * (self.cores != 1)}", self.isa or "no library"]
        return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the slug is in it."""
        return {"slug": self.slug, **asdict(self)}


def describe() -> Machine:
    """The machine that this process runs on."""
    status = load()
    cpu, cpu_id = _processor()
    return Machine(
        cpu=cpu,
        cpu_id=cpu_id,
        architecture=platform.machine(),
        cores=_host.cores(),
        threads=torch.get_num_threads(),
        isa=str(torch.ops.vitkern_cpu.isa()) if _cpu.missing() is None else None,
        system=f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        python=platform.python_version(),
        torch=torch.__version__,
        vitkern=version(),
        compiler=status.build.get("compiler") if status.available else None,
        choices=STORE.overruled(),
    )


def version() -> str:
    """vitkern's version, also from a source tree that was never installed."""
    return _host.version() or str(load().build.get("vitkern", "unknown"))


def package_version(name: str) -> str | None:
    """The version of what ``import name`` imports, or None where it is missing."""
    if importlib.util.find_spec(name) is None:
        return None
    distribution = next(iter(importlib.metadata.packages_distributions().get(name, ())), name)
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _processor() -> tuple[str, str | None]:
    """The name of the first processor, and its identity."""
    found = _host.first_processor()
    return parse_cpuinfo(found) if found else (_host.processor(), None)


def parse_cpuinfo(text: str) -> tuple[str, str | None]:
    """Name and identity in Linux's ``/proc/cpuinfo`` of x86 and Arm machines."""
    first = text.strip().split("\n\n")[0]
    fields = {
        key.strip(): value.strip()
        for key, colon, value in (line.partition(":") for line in first.splitlines())
        if colon
    }
    name = fields.get("model name") or fields.get("Hardware") or platform.machine()
    if "cpu family" in fields:
        return name, (
            f"family {fields['cpu family']} model {fields.get('model', '?')}"
            f" stepping {fields.get('stepping', '?')}"
        )
    if "CPU part" in fields:
        return name, f"implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    return name, None
