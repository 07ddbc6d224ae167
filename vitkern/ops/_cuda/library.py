"""A shared library of csrc/cuda: its entry points, and launches of them.

The library knows nothing of torch: an entry point is a C function that takes a struct of
parameters, the number of a device and a stream. The struct is built here from the description that
the library gives of it, so that the two cannot differ.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from vitkern.ops._recorder import recorder

FORMATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""The numbers of dtypes: ``Format`` in csrc/cuda/numeric.cuh."""

_C_TYPES: dict[str, Any] = {
    "P": ctypes.c_void_p,
    "q": ctypes.c_int64,
    "i": ctypes.c_int32,
    "f": ctypes.c_float,
}

Field = torch.Tensor | float | None


class LaunchFailed(RuntimeError):
    """The library, or CUDA, refused a launch."""


class _Entry:
    """An entry point and its struct."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        describe = getattr(library, f"vitkern_{name}_fields")
        describe.restype = ctypes.c_char_p
        fields = [line.split(" ") for line in describe().decode().splitlines()]
        self.names = tuple(field for _, field in fields)
        self.function = getattr(library, f"vitkern_{name}")
        self.function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        self.struct: type[ctypes.Structure] = type(
            name, (ctypes.Structure,), {"_fields_": [(field, _C_TYPES[c]) for c, field in fields]}
        )

    def pack(self, name: str, fields: dict[str, Field]) -> ctypes.Structure:
        """The struct; a tensor is its address, None a null pointer.

        Raises:
            TypeError: not exactly the struct's fields.
        """
        if fields.keys() != set(self.names):
            missing, unknown = set(self.names) - fields.keys(), fields.keys() - set(self.names)
            raise TypeError(f"{name}: fields missing {sorted(missing)}, unknown {sorted(unknown)}")
        values = (fields[field] for field in self.names)
        return self.struct(
            *(value.data_ptr() if isinstance(value, torch.Tensor) else value for value in values)
        )


class CudaLibrary:
    """A library that is loaded.

    Attributes:
        architectures: such as ``"80+PTX;90;120"``.
    """

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises:
            OSError: it does not load.
        """
        self._library = ctypes.CDLL(str(path))
        self._entries: dict[str, _Entry] = {}
        self.symbol("vitkern_error").restype = ctypes.c_char_p
        self.symbol("vitkern_architectures").restype = ctypes.c_char_p
        self.architectures: str = self.symbol("vitkern_architectures")().decode()

    def symbol(self, name: str) -> Any:
        """A C function."""
        return getattr(self._library, name)

    def versions(self) -> tuple[int, int]:
        """Of the CUDA runtime in the library and of the driver (0: none): 13.1 is 13010."""
        runtime, driver = ctypes.c_int(), ctypes.c_int()
        self.symbol("vitkern_versions")(ctypes.byref(runtime), ctypes.byref(driver))
        return runtime.value, driver.value

    def run(self, name: str, device: torch.device, fields: dict[str, Field]) -> None:
        """Launch an entry point on the current stream of a device, without waiting.

        Raises:
            LaunchFailed: with the library's reason.
        """
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = _Entry(self._library, name)
        params = entry.pack(name, fields)
        with _on(device):
            stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
            self._launch(name, entry, params, device.index or 0, stream)
        writing = recorder()
        if writing is not None:
            places = writing.places(fields)

            def again(bases: Sequence[torch.Tensor], addresses: Sequence[int], stream: int) -> None:
                copy = entry.struct.from_buffer_copy(params)
                for field, place in places.items():
                    setattr(copy, field, addresses[place.base] + place.offset)
                self._launch(name, entry, copy, device.index or 0, stream)

            writing.steps.append(again)

    def _launch(
        self, name: str, entry: _Entry, params: ctypes.Structure, device: int, stream: int
    ) -> None:
        if entry.function(ctypes.byref(params), device, stream):
            raise LaunchFailed(f"{name}: {self.symbol('vitkern_error')().decode()}")


def _on(device: torch.device) -> Any:
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)
