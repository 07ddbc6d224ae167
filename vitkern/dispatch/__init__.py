"""WHO computes an op: backend registry, refusal reasons, choice of backend, gradient wrapper."""

from vitkern.dispatch.backend import Backend
from vitkern.dispatch.errors import UnknownBackend, UnsupportedInput
from vitkern.dispatch.measured import measuring
from vitkern.dispatch.operator import OPERATORS, Operator
from vitkern.dispatch.override import active_backend, check_backend_name, use_backend

__all__ = [
    "OPERATORS",
    "Backend",
    "Operator",
    "UnknownBackend",
    "UnsupportedInput",
    "active_backend",
    "check_backend_name",
    "measuring",
    "use_backend",
]
