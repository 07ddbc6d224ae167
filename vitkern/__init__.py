"""Custom kernels that make vision transformers fast."""

from vitkern import ops
from vitkern.dispatch import UnknownBackend, UnsupportedInput, use_backend
from vitkern.patching import CannotPatch, PatchReport, patch, patched, unpatch

__all__ = [
    "CannotPatch",
    "PatchReport",
    "UnknownBackend",
    "UnsupportedInput",
    "ops",
    "patch",
    "patched",
    "unpatch",
    "use_backend",
]
