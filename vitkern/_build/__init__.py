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
from .cached import CPU, CUDA, Kind, Plan, build_cached, find_cached, plan_cpu, plan_cuda, sources_root
from .cuda import build_cuda_library, cuda_sources_digest, find_nvcc
from .toolchain import Compiler, TorchInstallation, find_compiler, find_torch
from .units import BuildError, BuildFailed, BuildUnavailable

__all__ = [
    "CPU",
    "CUDA",
    "BuildError",
    "BuildFailed",
    "BuildUnavailable",
    "Compiler",
    "Kind",
    "Plan",
    "TorchInstallation",
    "build_cached",
    "build_cpu_library",
    "build_cuda_library",
    "cuda_sources_digest",
    "find_cached",
    "find_compiler",
    "find_nvcc",
    "find_torch",
    "parameters",
    "plan_cpu",
    "plan_cuda",
    "read_build_info",
    "schemas_digest",
    "sources_root",
    "write_build_info",
]
