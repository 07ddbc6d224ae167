"""Bank conflicts of shared memory, as the emulation counts them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cuda_emulation.test_planted import _GEMM
from vitkern.ops._cuda import gemm
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._products import Epilogue
from vitkern.testing import Card, build, emulation
from vitkern.testing.emulation import EMULATED, EmulatedLibrary, kernels_of

MOST = 0.02
"""Conflicts for each access of 128 bytes."""


def _conflicts(kernels: CudaKernels, dtype: torch.dtype, library: EmulatedLibrary) -> float:
    a, b = torch.randn(128, 256).to(dtype), torch.randn(128, 256).to(dtype)
    c = torch.empty(128, 128, dtype=dtype)
    library.counters(reset=True)
    gemm.product(kernels, a, b, c, Epilogue(activation=3))
    counted = library.counters()
    assert counted.accesses > 1000
    return counted.conflicts / counted.accesses


@pytest.mark.parametrize("processors", [1, 2, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_have_none(dtype: torch.dtype, processors: int) -> None:
    with emulation(count_banks=True, card=Card(processors)) as library:
        assert _conflicts(EMULATED, dtype, library) <= MOST


def test_a_layout_that_has_them_is_seen(tmp_path: Path) -> None:
    import shutil

    sources = tmp_path / "cuda"
    shutil.copytree(build.SOURCES, sources)
    path, exchanged = sources / _GEMM, "(chunk ^ (row >> 1 & 3))"
    text = path.read_text(encoding="utf-8")
    assert text.count(exchanged) == 1
    path.write_text(text.replace(exchanged, "chunk"), encoding="utf-8")
    library = build.build(
        tmp_path / "build", sources=sources, only=["gemm", "gemm_sm90a"], flags=["-O1"]
    )
    kernels = kernels_of(library, "without_exchange")
    emulated = kernels.library()
    assert isinstance(emulated, EmulatedLibrary)
    emulated.set(count_banks=True)
    assert _conflicts(kernels, torch.bfloat16, emulated) > 10 * MOST
