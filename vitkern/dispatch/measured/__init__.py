"""Automatic choice that was measured: which backend was fastest for a call like this one, here.

Without measurements each call takes the first backend, in a fixed order, that does not refuse it
(:class:`~vitkern.dispatch.Operator`). In a ``measuring`` block, which ``vitkern.tune`` is one of,
the first call of each kind is timed on every backend that takes it, eager included, and the winner
is remembered, on disk as well. Outside of such a block nothing is ever timed; what was remembered
is used, in later processes too, and calls of a kind that was not measured take the fixed order.

A decision holds for the same op, shapes, dtypes, layout, values, device, number of threads and
wanted gradients (``key.py``), on the same machine with the same torch, vitkern and library
(``environment.py``). It can only choose a backend that does not refuse the call. A backend that is
asked for by name is never overruled. Code that torch.compile makes takes the fixed order: what was
timed is not what it would run.

What the measurement cannot know: a call that is timed alone finds its weights in the cache, and has
no neighbours.
"""

from vitkern.dispatch.measured.measuring import (
    Measurement,
    Use,
    choice,
    fastest,
    measures,
    measures_forms,
    measuring,
)
from vitkern.dispatch.measured.store import STORE, Decision

__all__ = [
    "STORE",
    "Decision",
    "Measurement",
    "Use",
    "choice",
    "fastest",
    "measures",
    "measures_forms",
    "measuring",
]
