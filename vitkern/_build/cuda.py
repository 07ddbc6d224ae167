"""Compiles csrc/cuda into the CUDA library, which has no torch in it: no GPU is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import parameters
from .units import BuildUnavailable, Log, Progress, Unit, compile_stale, digest, link, locked, say

__all__ = [
    "Nvcc",
    "build_cuda_library",
    "cuda_flags",
    "cuda_requirements",
    "cuda_sources_digest",
    "find_nvcc",
]

_TOOLKITS = ("CUDA_HOME", "CUDA_PATH")


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler with its toolkit."""

    home: Path
    release: tuple[int, int]

    @property
    def path(self) -> Path:
        return self.home / "bin" / "nvcc"

    @property
    def version(self) -> str:
        return ".".join(map(str, self.release))

    def complaint(self) -> str | None:
        """Why it cannot compile anything, or None: it needs a C++ compiler beside it."""
        command = [str(self.path), "-E", "-x", "cu", os.devnull]
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
        lines = result.stderr.strip().splitlines() or ["it says nothing"]
        return lines[0] if result.returncode else None

    def architectures(self) -> tuple[int, ...]:
        """Numbers of the architectures that it compiles for."""
        result = subprocess.run(
            [str(self.path), "--list-gpu-code"], capture_output=True, text=True, check=False
        )
        return tuple(int(number) for number in re.findall(r"^sm_(\d+)$", result.stdout, re.M))


def find_nvcc() -> Nvcc | str:
    """The CUDA compiler, or one line that says why there is none.

    The toolkit is known by its headers: ``nvcc`` on the path may be a script that lies elsewhere.
    """
    named = [Path(value) for name in _TOOLKITS if (value := os.environ.get(name, "").strip())]
    found = shutil.which("nvcc")
    beside = [Path(found).resolve().parents[1]] if found else []
    homes = [*named, *beside, Path("/usr/local/cuda")]
    for home in homes:
        if (home / "include" / "cuda_runtime.h").is_file() and (home / "bin" / "nvcc").is_file():
            break
    else:
        return "no CUDA toolkit (include/cuda_runtime.h and bin/nvcc in CUDA_HOME)"
    try:
        result = subprocess.run(
            [str(home / "bin" / "nvcc"), "--version"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        return f"nvcc does not run ({error})"
    release = re.search(r"release (\d+)\.(\d+)", result.stdout)
    if result.returncode != 0 or release is None:
        return f"nvcc does not run ({home / 'bin' / 'nvcc'} --version)"
    if (int(release[1]), int(release[2])) < parameters.MINIMUM_CUDA:
        wanted = ".".join(map(str, parameters.MINIMUM_CUDA))
        return f"CUDA {release[1]}.{release[2]} is too old (needs {wanted} or newer)"
    return Nvcc(home, (int(release[1]), int(release[2])))


def build_cuda_library(
    root: Path,
    build_dir: Path,
    *,
    version: str,
    architectures: Sequence[int] = (),
    progress: Progress | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Bring the library in ``build_dir`` up to date and return it with the build information.

    ``root`` is the folder that holds ``csrc``; ``architectures`` overrides what is built for. The
    object files are in ``build_dir / "objects"``. Raises BuildUnavailable or BuildFailed.
    """
    nvcc, architectures = cuda_requirements(root, architectures)
    sources = root / "csrc" / "cuda"
    build_dir.mkdir(parents=True, exist_ok=True)
    with locked(build_dir / "lock"):
        log, started = Log(build_dir / "build.log"), time.perf_counter()
        units = _units(sources, build_dir / "objects", nvcc, architectures)
        compiled = compile_stale(units, log, "CUDA kernels: 3 minutes on 2 cores", progress)
        library = build_dir / parameters.CUDA_LIBRARY_NAME
        objects = [str(unit.object) for unit in units]
        command = (str(nvcc.path), "-shared", "-cudart=static", *objects)
        link(units, library, command, log, force=bool(compiled))
        if compiled:
            seconds = time.perf_counter() - started
            say(f"compiled {compiled} of {len(units)} CUDA files in {seconds:.1f} s")
    info = {
        "kernels": True,
        "vitkern": version,
        "cuda": nvcc.version,
        "architectures": _named(architectures),
        "flags": list(cuda_flags(architectures)),
        "sources": cuda_sources_digest(root),
    }
    return library, info


def cuda_requirements(
    root: Path, architectures: Sequence[int] = ()
) -> tuple[Nvcc, tuple[int, ...]]:
    """What a build needs, and the architectures that it is for.

    Raises:
        BuildUnavailable: something is missing.
    """
    if os.name != "posix" or sys.platform == "darwin":
        raise BuildUnavailable(f"no CUDA on this platform ({sys.platform})")
    if not (root / "csrc" / "cuda" / "library.cu").is_file():
        raise BuildUnavailable("no CUDA sources (csrc/cuda)")
    nvcc = find_nvcc()
    if isinstance(nvcc, str):
        raise BuildUnavailable(nvcc)
    unknown = set(architectures) - set(nvcc.architectures())
    if unknown:
        names = ", ".join(map(str, sorted(unknown)))
        raise BuildUnavailable(f"CUDA {nvcc.version} does not know architectures {names}")
    architectures = tuple(sorted(architectures)) or _architectures(nvcc)
    complaint = nvcc.complaint()
    if complaint is not None:
        raise BuildUnavailable(f"nvcc has no C++ compiler that it can use ({complaint})")
    return nvcc, architectures


def cuda_sources_digest(root: Path) -> str | None:
    """A digest of csrc/cuda; None where the sources are not there."""
    files = sorted((root / "csrc" / "cuda").glob("*.cu*"))
    contents = [f"{file.name}\0{file.read_text(encoding='utf-8')}" for file in files]
    return digest(*contents)[:16] if contents else None


def _architectures(nvcc: Nvcc) -> tuple[int, ...]:
    """Those asked for; else those of the torch that is here; else all that there are kernels for.

    Of a generation only the first: its code runs on the others.
    """
    known = nvcc.architectures()
    asked = os.environ.get("VITKERN_CUDA_ARCHITECTURES", "").replace(",", ";")
    wanted = tuple(int(one) for one in asked.split(";") if one.strip().isdigit())
    if asked.strip() and not wanted:
        raise BuildUnavailable(f"VITKERN_CUDA_ARCHITECTURES={asked!r}: expected such as 80;90")
    if not wanted:
        generations: dict[int, int] = {}
        for number in sorted(_of_torch() or parameters.CUDA_ARCHITECTURES):
            if number >= parameters.CUDA_ARCHITECTURES[0]:
                generations.setdefault(number // 10, number)
        wanted = tuple(generations.values())
    chosen = tuple(sorted(number for number in wanted if number in known))
    left_out = [str(number) for number in wanted if number not in known]
    if left_out:
        say(f"CUDA {nvcc.version} does not know architectures {', '.join(left_out)}")
    if not chosen:
        raise BuildUnavailable(f"CUDA {nvcc.version} knows none of the wanted architectures")
    return chosen


def _of_torch() -> tuple[int, ...]:
    """The architectures of the torch in the build environment, if there is one for CUDA."""
    code = "import torch; print(*torch.cuda.get_arch_list())"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    return tuple(int(number) for number in re.findall(r"\bsm_(\d+)\b", result.stdout))


def _named(architectures: Sequence[int]) -> str:
    """As the library says it: ``80+PTX;90``."""
    oldest, *others = map(str, architectures)
    return ";".join([f"{oldest}+PTX", *others])


def cuda_flags(architectures: Sequence[int]) -> tuple[str, ...]:
    """For nvcc. One front end's work for all architectures, but for files of one's own."""
    oldest = architectures[0]
    codes = ",".join([*(f"sm_{n}" for n in architectures), f"compute_{oldest}"])
    own = (f"-DVITKERN_SM{n}A" for n in architectures if n in parameters.OWN_ARCHITECTURES)
    return (*parameters.NVCC_FLAGS, *own, f"-gencode=arch=compute_{oldest},code=[{codes}]")


def _flags_of(source: Path, architectures: Sequence[int]) -> tuple[str, ...] | None:
    """For a file: ``x_sm90a.cu`` has code for that architecture only. None: it is left out."""
    flags = cuda_flags(architectures)
    own = re.search(r"_sm(\d+)a$", source.stem)
    if own is None:
        return flags
    number = own[1]
    if int(number) not in architectures:
        return None
    return (*flags[:-1], f"-gencode=arch=compute_{number}a,code=sm_{number}a")


def _units(sources: Path, objects: Path, nvcc: Nvcc, architectures: Sequence[int]) -> list[Unit]:
    macro = f'-DVITKERN_ARCHITECTURES="{_named(architectures)}"'
    units = []
    # The largest files take the longest to compile, so they start first.
    for source in sorted(sources.glob("*.cu"), key=lambda file: -file.stat().st_size):
        flags, target = _flags_of(source, architectures), objects / f"{source.stem}.o"
        if flags is None:
            continue
        own = (macro,) if source.stem == "library" else ()
        command = (
            str(nvcc.path), *flags, *own, f"-I{sources}",
            "-MMD", "-MF", str(target.with_suffix(".d")), "-c", str(source), "-o", str(target),
        )  # fmt: skip
        label = f"csrc/cuda/{source.name}"
        units.append(Unit(source, target, command, label, digest(*command, nvcc.version)))
    return units
