"""Custom kernels that make vision transformers fast."""

from vitkern import ops
from vitkern.dispatch import UnknownBackend, UnsupportedInput, use_backend

__all__ = ["UnknownBackend", "UnsupportedInput", "ops", "use_backend"]
