"""Custom kernels that make vision transformers fast."""

from vitkern import ops
from vitkern.dispatch import UnknownBackend, UnsupportedInput, measuring, use_backend
from vitkern.patching import CannotPatch, PatchReport, patch, patched, unpatch
from vitkern.tuning import TuneReport, tune

__all__ = [
    "CannotPatch",
    "PatchReport",
    "TuneReport",
    "UnknownBackend",
    "UnsupportedInput",
    "measuring",
    "ops",
    "patch",
    "patched",
    "tune",
    "unpatch",
    "use_backend",
]
