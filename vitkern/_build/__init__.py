"""How the compiled library is built: parameters and builder, without any dependency.

``setup.py`` loads this package on its own (before vitkern can be imported, and without torch),
so it uses the standard library only and imports nothing from the rest of vitkern.
"""

from . import parameters
from .builder import (
    build_cpu_library,
    read_build_info,
    schemas_digest,
    write_build_info,
)
from .cuda import build_cuda_library, cuda_sources_digest, find_nvcc
from .toolchain import Compiler, TorchInstallation, find_compiler, find_torch
from .units import BuildError, BuildFailed, BuildUnavailable

__all__ = [
    "BuildError",
    "BuildFailed",
    "BuildUnavailable",
    "Compiler",
    "TorchInstallation",
    "build_cpu_library",
    "build_cuda_library",
    "cuda_sources_digest",
    "find_compiler",
    "find_nvcc",
    "find_torch",
    "parameters",
    "read_build_info",
    "schemas_digest",
    "write_build_info",
]
