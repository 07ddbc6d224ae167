"""The kernels of csrc/cuda on GPUs: whether they can run here, and on which cards."""

from __future__ import annotations

import functools

import torch

from vitkern._library import cuda_location
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._cuda.library import CudaLibrary
from vitkern.ops._family import Family


@functools.cache
def load() -> CudaLibrary:
    """The library.

    Raises:
        OSError: it is not there, or does not load.
    """
    return CudaLibrary(cuda_location().path)


@functools.cache
def not_built() -> str | None:
    """Why the library is not there or does not load, or None."""
    reason = cuda_location().reason
    if reason is not None:
        return reason
    try:
        load()
    except (OSError, AttributeError) as error:
        return (
            f"the CUDA library does not load: {error}; to replace it: vitkern build --cuda --force"
        )
    return None


def missing() -> str | None:
    """Why no kernel can run on this machine, or None. Initialises no GPU."""
    return _missing()


@functools.cache
def _missing() -> str | None:
    reason = not_built()
    if reason is not None:
        return reason
    if torch.version.hip is not None:
        return "a ROCm build of PyTorch; takes NVIDIA's GPUs"
    if not torch.cuda.is_available():
        return "no CUDA device"
    runtime, driver = load().versions()
    if driver // 1000 < runtime // 1000:
        return (
            f"built with CUDA {_version(runtime)}, which the driver, of CUDA {_version(driver)},"
            " is too old for: a newer driver, or vitkern build --cuda --force with an older toolkit"
        )
    return None


def look_again() -> None:
    """Find the library anew, in this process too: it was built meanwhile."""
    for answer in (cuda_location, load, not_built, _missing):
        answer.cache_clear()


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def runs_on(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether a library with these has code for a card: machine code of its generation, or PTX."""
    for name in filter(None, architectures.split(";")):
        number = int(name.removesuffix("+PTX"))
        major, minor = divmod(number, 10)
        if major == capability[0] and minor <= capability[1]:
            return True
        if name.endswith("+PTX") and (major, minor) <= capability:
            return True
    return False


def of_device(device: torch.device) -> list[str]:
    """Reasons to refuse tensors on a device."""
    if device.type != "cuda":
        return [f"a tensor on {device}; takes tensors on cuda"]
    capability = _capability(device.index)
    architectures = load().architectures
    if not runs_on(architectures, capability):
        card = ".".join(map(str, capability))
        return [
            f"built for architectures {architectures}; the card has compute capability {card}:"
            " vitkern build --cuda --force"
        ]
    return []


@functools.cache
def _capability(index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


@functools.cache
def _processors(index: int | None) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


# What is compiled keeps the answers for the machine that it was compiled on.
missing._dynamo_marked_constant = True  # type: ignore[attr-defined]
of_device._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _tf32(operand: torch.Tensor) -> bool:
    """Whether the user lets float32 products on CUDA take operands of ten bits."""
    return operand.dtype is torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"


@functools.cache
def _warpgroups(device: torch.device) -> bool:
    """Hopper's instructions for groups of warps are its own: no card before or after has them."""
    return _capability(device.index) == (9, 0)


DEVICE = CudaKernels(
    Family("cuda", ("CUDA",), missing), load, of_device,
    lambda device: _processors(device.index), _tf32, _warpgroups,
)  # fmt: skip
