"""Temporary: lets an op's cpu backend refuse until its kernel is in the library."""

from __future__ import annotations

import torch

from vitkern.ops import _cpu


def pending(op: str) -> list[str]:
    """A reason to refuse where the schema has no kernel yet."""
    if _cpu.missing() is not None:
        return []
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"vitkern_cpu::{op}", "CPU"):
        return []
    return ["its kernel is not in the library yet"]
