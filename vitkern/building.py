"""Compiles the kernels that an installation lacks, when the user says so.

The libraries go into the cache folder (``VITKERN_CACHE_DIR``) and serve every later process with
the same sources; nothing is ever compiled at an op's first use. Parameters and builder are those of
``pip install`` (vitkern/_build).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitkern import _host, _library
from vitkern._build import BuildUnavailable, build_cached, parameters, plan_cpu, plan_cuda
from vitkern._build.units import say
from vitkern.dispatch.measured import STORE
from vitkern.ops._cuda import device

__all__ = ["build_cpu", "build_cuda"]


def build_cuda(architectures: Sequence[int] | None = None, *, force: bool = False) -> Path:
    """Compile the CUDA kernels, which takes minutes, and use them from now on.

    Needs ``nvcc`` (CUDA 12 or newer, found by ``CUDA_HOME`` or the path) and a C++ compiler, and no
    GPU. Progress is told on the error stream. Where the library is there already nothing is done.
    Several processes may call it at once: one compiles, the others wait. Code that
    ``torch.compile`` made before keeps the backends that it has.

    Args:
        architectures: to compile for, as compute capabilities without the point: ``[80, 90]``. PTX
            of the oldest is added, for all others and for cards to come. The default is that of an
            installation: ``VITKERN_CUDA_ARCHITECTURES``, else those of the installed PyTorch.
        force: compile though a library is there, such as one for other cards, or a damaged one.
            What is compiled is used instead of it from now on, also of one that was installed.

    Returns:
        The path of the library.

    Raises:
        TypeError: architectures that are not ints, a force that is no bool.
        ValueError: architectures that there are no kernels for.
        BuildError: something is missing, or does not compile; one line says what.
    """
    chosen = _checked(architectures)
    if type(force) is not bool:
        raise TypeError(f"force must be a bool, got {force!r}")
    there = _library.cuda_location()
    if not force and there.reason is None and (chosen is None or not there.cached):
        if chosen is not None:
            raise BuildUnavailable(
                f"architectures: the library that was installed is used ({there.path}, for"
                f" {there.build.get('architectures')}): install with VITKERN_CUDA_ARCHITECTURES,"
                " or build by force"
            )
        say(f"the CUDA library is there: {there.path}")
        return there.path
    plan = plan_cuda(_root(), _version(), chosen or ())
    path = build_cached(_cache(), plan, force=force) / plan.kind.library
    device.look_again()
    STORE.reopen()  # what was measured without these kernels decides nothing now
    say(f"CUDA kernels: {path}")
    return path


def build_cpu() -> Path:
    """Compile the CPU kernels, which takes minutes; processes that start from now on use them.

    Needs a C++20 compiler. Otherwise as :func:`build_cuda`.

    Returns:
        The path of the library.

    Raises:
        BuildError: something is missing, or does not compile; one line says what.
    """
    there = _library.load()
    if there.available:
        say(f"the CPU library is there: {there.path}")
        return there.path
    if (_library.PACKAGE / parameters.LIBRARY_NAME).is_file():
        raise BuildUnavailable(f"the library that was installed is in its place: {there.reason}")
    plan = plan_cpu(_root(), _version())
    path = build_cached(_cache(), plan) / plan.kind.library
    say(f"CPU kernels, for processes that start from now on: {path}")
    return path


def _checked(architectures: Sequence[int] | None) -> tuple[int, ...] | None:
    if architectures is None:
        return None
    oldest = parameters.CUDA_ARCHITECTURES[0]
    what = f"architectures must be ints of at least {oldest}, as [80, 90]"
    if isinstance(architectures, (str, bytes)) or not isinstance(architectures, Sequence):
        raise TypeError(f"{what}, got {architectures!r}")
    if not all(type(one) is int for one in architectures):
        raise TypeError(f"{what}, got {architectures!r}")
    if not architectures or min(architectures) < oldest:
        raise ValueError(f"{what}, got {list(architectures)}")
    return tuple(sorted(set(architectures)))


def _root() -> Path:
    root = _library.sources_root(_library.PACKAGE)
    if root is None:
        raise BuildUnavailable(f"no sources of kernels ({_library.PACKAGE / 'csrc'})")
    return root


def _cache() -> Path:
    cache = _host.cache_folder()
    if cache is None:
        raise BuildUnavailable("no folder for it: set VITKERN_CACHE_DIR")
    return cache


def _version() -> str:
    return _host.version() or "unknown"
