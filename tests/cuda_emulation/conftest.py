"""Tests of the CUDA kernels without a GPU.

Run by ``make cuda-check``, which sets ``VITKERN_TEST_CUDA_EMULATED=1``. With the same variable,
``pytest tests/ops -k cuda_emulated`` runs every test of an op on the kernels. Without it nothing
here is so much as imported: that would give every other test one backend more.
"""

from __future__ import annotations

from tests.ops import harness

collect_ignore_glob = [] if harness.EMULATED else ["test_*.py"]
