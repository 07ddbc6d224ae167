from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dispatch.toy import ToyCall, double
from vitkern.dispatch import OPERATORS, Operator


@pytest.fixture
def toy() -> Iterator[Operator[ToyCall]]:
    """The toy op, registered for one test."""
    double.LOG.clear()
    yield Operator("toy", ToyCall, "tests.dispatch.toy")
    del OPERATORS["toy"]
