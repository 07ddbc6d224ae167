"""The family of Triton's kernels, and their registered operators."""

from __future__ import annotations

from vitkern.ops._family import Family
from vitkern.ops._triton import availability
from vitkern.ops._triton.recorder import recording

TRITON = Family(
    "triton",
    ("CUDA", "CPU") if availability.interpreted() else ("CUDA",),
    availability.missing,
    recording=recording,
)
operator = TRITON.operator
