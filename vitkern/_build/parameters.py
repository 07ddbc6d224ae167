"""The parameters of the build, in one place.

Environment variables (all that vitkern reads; none changes what a backend computes). First those
of the build:

``VITKERN_BUILD_CPU``
    ``auto`` (default): build the CPU library if a C++ compiler and torch are there, else install
    pure Python and say in one line what was missing. ``1``: anything missing or failing is an
    error. ``0``: pure Python.
``VITKERN_BUILD_CUDA``
    The same for the CUDA library, which needs ``nvcc`` and neither a GPU nor torch. The default is
    ``auto`` for wheels. In a source tree (``make build``, editable installs), where it would take
    minutes of every first build, it is ``0`` until ``VITKERN_BUILD_CUDA=1 make build`` asked for it
    once.
``VITKERN_CUDA_ARCHITECTURES``
    What the CUDA library is compiled for, such as ``80;90`` (default: one for each generation that
    the installed torch has code for, without torch all of 80, 90, 100 and 120). PTX of the oldest
    is added, for all others and for cards to come.
``CUDA_HOME``, ``CUDA_PATH``
    The folder of the CUDA toolkit (default: that of the ``nvcc`` on the path, or /usr/local/cuda).
``VITKERN_BUILD_CXXFLAGS``
    Extra flags for every C++ file and for the link, after all others (``-fsanitize=address``).
    ``CXXFLAGS`` itself is ignored: tools often set it to ``-march=...``, and the library has to
    run on any machine of its architecture.
``CXX``
    The C++ compiler (default: the first of ``c++``, ``g++``, ``clang++`` on the path).
``MAX_JOBS``
    Compiler processes at a time (default: one per core this process may use).
``SOURCE_DATE_EPOCH``
    The date recorded in the build information, for reproducible builds.

At run time (vitkern/_host.py):

``VITKERN_CACHE_DIR``
    The folder for what ``vitkern tune`` measured and ``vitkern build`` compiled (default:
    ``vitkern`` in the user's cache folder).
``XDG_CACHE_HOME``
    The user's cache folder (default: ``~/.cache``).

torch has to be in the build environment for the kernels to be built, which means
``pip install --no-build-isolation``. The library uses torch's stable ABI only: one binary serves
torch >= 2.10 and every Python >= 3.10.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = [
    "BASE_FLAGS",
    "BUILD_INFO_NAME",
    "CUDA_ARCHITECTURES",
    "CUDA_BUILD_INFO_NAME",
    "CUDA_LIBRARY_NAME",
    "EXTENSION_NAME",
    "HOST_FLAGS",
    "ISAS",
    "LIBRARY_NAME",
    "MINIMUM_CUDA",
    "MINIMUM_TORCH",
    "NVCC_FLAGS",
    "OWN_ARCHITECTURES",
    "Isa",
    "build_mode",
    "extra_flags",
    "isas_for",
    "job_count",
]

EXTENSION_NAME = "vitkern._C"
LIBRARY_NAME = "_C.abi3.so"
BUILD_INFO_NAME = "_C.build.json"
CUDA_LIBRARY_NAME = "_cuda.so"
CUDA_BUILD_INFO_NAME = "_cuda.build.json"

MINIMUM_TORCH = (2, 10)
"""The oldest torch that the library serves; its stable ABI is the one compiled against."""

CXX_STANDARD = "-std=c++20"

BASE_FLAGS = (
    CXX_STANDARD,
    "-O3",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-Wall",
    "-Wno-unknown-warning-option",  # clang knows not all of these; gcc ignores such names
    "-Wno-psabi",  # vector arguments: of functions that are inlined, never across files
    "-Wno-restrict",  # false alarms of gcc 12 in std::string (gcc bug 105651)
    "-Wno-maybe-uninitialized",  # and in its own avx512fintrin.h (gcc bug 105593)
)
"""For every file. Never -ffast-math (it changes NaN and infinity), never -march=native."""

HOST_FLAGS = (f"-DTORCH_TARGET_VERSION=0x{MINIMUM_TORCH[0]:02x}{MINIMUM_TORCH[1]:02x}{0:012x}",)
"""Additionally for the host files, the only ones that include torch's (stable) headers."""

MINIMUM_CUDA = (12, 0)

CUDA_ARCHITECTURES = (80, 90, 100, 120)
"""The first of each generation that there are kernels for."""

OWN_ARCHITECTURES = (90,)
"""Those with files of their own, whose code runs on no other: ``csrc/cuda/*_sm90a.cu``."""

NVCC_FLAGS = (
    "-std=c++17",
    "-O3",
    "-cudart=static",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "-diag-suppress=20012",  # defaulted functions need no __device__
)
"""Never --use_fast_math: it changes NaN, infinity and denormals."""

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (
    "-mavx512f",
    "-mavx512bw",
    "-mavx512vl",
    "-mavx512dq",
    "-mfma",
    "-mf16c",
    "-mprefer-vector-width=512",
)
_BF16 = ("-mavx512bf16", "-mavx512vnni")


@dataclass(frozen=True)
class Isa:
    """An instruction set. Its kernels are in ``csrc/cpu/isa/<name>.cpp``."""

    name: str
    flags: tuple[str, ...]
    x86_only: bool = True
    test_only: bool = False  # built in place only, never into a wheel

    @property
    def macro(self) -> str:
        """Defined while the host files are compiled if the library has this instruction set."""
        return f"VITKERN_ISA_{self.name.upper()}"


ISAS = (
    Isa("generic", (), x86_only=False),
    Isa("avx2", _AVX2),
    # The AVX-512 tiling with 16-wide vector types that the compiler lowers to AVX2, so that
    # machines without AVX-512 can test it.
    Isa("avx512_emulated", _AVX2, test_only=True),
    Isa("avx512", _AVX512),
    Isa("avx512_bf16", (*_AVX512, *_BF16)),
    Isa("amx", (*_AVX512, *_BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16")),
)


def isas_for(machine: str, *, test_isas: bool = True) -> tuple[Isa, ...]:
    """The instruction sets of an architecture (as ``platform.machine()`` names it)."""
    x86 = machine.lower() in ("x86_64", "amd64")
    return tuple(
        isa for isa in ISAS if (x86 or not isa.x86_only) and (test_isas or not isa.test_only)
    )


def build_mode(kind: str, *, optional: bool = False) -> str:
    """The value of VITKERN_BUILD_CPU or VITKERN_BUILD_CUDA: ``auto``, ``0`` or ``1``.

    ``optional``: CUDA kernels are built only if they are asked for.
    """
    name = f"VITKERN_BUILD_{kind}"
    default = "0" if kind == "CUDA" and optional else "auto"
    value = os.environ.get(name, "").strip().lower() or default
    if value not in ("auto", "0", "1"):
        raise ValueError(f"{name}={value!r}: expected auto, 0 or 1")
    return value


def not_wanted(kind: str) -> str:
    """Why a library is not built where :func:`build_mode` is ``0``."""
    name = f"VITKERN_BUILD_{kind}"
    if os.environ.get(name, "").strip():
        return f"{name}=0"
    return f"a source tree has none unless {name}=1"


def extra_flags() -> tuple[str, ...]:
    """VITKERN_BUILD_CXXFLAGS, split."""
    import shlex

    return tuple(shlex.split(os.environ.get("VITKERN_BUILD_CXXFLAGS", "")))


def job_count() -> int:
    """How many compiler processes to run at a time."""
    value = os.environ.get("MAX_JOBS", "")
    if value.isdigit() and int(value) > 0:
        return int(value)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
