"""Marks of tests that need what a machine may lack: where it does, they are skipped and say why."""

from __future__ import annotations

import pytest

from vitkern._build import find_compiler, find_nvcc
from vitkern.ops import _cpu


def _present(why_not: object) -> pytest.MarkDecorator:
    """A mark that skips where a reason is given why the thing is missing."""
    return pytest.mark.skipif(isinstance(why_not, str), reason=str(why_not))


library = _present(_cpu.missing())
"""The compiled library, and with it the ``cpu`` backend."""
compiler = _present(find_compiler())
"""A C++ compiler. (For Inductor's there is the fixture ``inductor``.)"""
nvcc = _present(find_nvcc())
"""The CUDA compiler, which compiles nothing without a C++ compiler beside it."""
