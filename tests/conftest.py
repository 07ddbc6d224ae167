"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

# Inductor imports it, which fails where pip was imported first (Python < 3.12).
import setuptools  # noqa: F401
import torch

from vitkern.dispatch.measured import STORE


@pytest.fixture(autouse=True, scope="session")
def _no_decisions_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What was measured on this machine chooses no backend in tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITKERN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        STORE.forget()
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture
def inductor() -> None:
    """What torch.compile does by default: skips where it has no C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes seconds
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("Inductor has no C++ compiler")


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of one test's own."""
    return torch.Generator().manual_seed(1)
