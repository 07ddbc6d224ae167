"""Tests of the CUDA kernels without a GPU.

Run by ``make cuda-check``, which sets ``VITKERN_TEST_CUDA_EMULATED=1``. With the same variable,
``pytest tests/ops -k cuda_emulated`` runs every test of an op on the kernels.
"""

from __future__ import annotations

import pytest

from tests.ops import harness


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if harness.EMULATED:
        return
    skip = pytest.mark.skip(reason="make cuda-check runs it, VITKERN_TEST_CUDA_EMULATED=1")
    for item in items:
        if "cuda_emulation" in item.path.parts:
            item.add_marker(skip)
