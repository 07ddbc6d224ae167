"""Fixtures of all tests."""

from __future__ import annotations

import pytest

# Inductor imports it, which fails where pip was imported first (Python < 3.12).
import setuptools  # noqa: F401
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of one test's own."""
    return torch.Generator().manual_seed(1)
