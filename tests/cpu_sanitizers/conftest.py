"""The CPU kernels under sanitizers: ``make sanitize``, which sets ``VITKERN_TEST_SANITIZERS=1``.

Compiling every instruction set with instrumentation takes minutes, so nothing is run without it.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("VITKERN_TEST_SANITIZERS") == "1" else ["test_*.py"]
