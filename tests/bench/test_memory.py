"""Peak memory: the method finds what is known, and patched models need no more than eager ones."""

from __future__ import annotations

import mmap

import pytest

from tests import needs
from vitkern.bench import allocator, child, memory
from vitkern.bench.models import TARGETS

pytestmark = pytest.mark.skipif(memory.unavailable() is not None, reason=memory.unavailable() or "")

MIB = 1 << 20


def test_the_method_finds_what_is_known() -> None:
    found = child.call("memory", "measure_blocks", [8, 64], allocator.RETURN)
    for held, (peak, left) in zip((8, 64), found, strict=True):
        assert abs(peak - held * MIB) < MIB
        assert abs(left) < 4 * MIB


@pytest.mark.slow
@needs.library
def test_patched_models_need_no_more_memory_than_eager_ones() -> None:
    rows = [row for row in TARGETS if row.batch == 8 and row.mode == "eval"]
    assert [row.model for row in rows] == ["vit_small_patch16_224", "swin_tiny_patch4_window7_224"]
    for row, found in zip(rows, memory.measure(rows, repeats=1), strict=True):
        assert found.packed > 0
        # Scratch that the kernels keep is no way around the peak.
        assert found.patched + max(found.kept, 0) <= found.eager, row.label


def test_without_linux_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "is_glibc", lambda: False)
    with pytest.raises(RuntimeError, match="needs Linux with glibc"):
        memory.measure([])


def test_children_report_errors_in_a_line() -> None:
    with pytest.raises(child.ChildFailed, match="no attribute 'nothing'"):
        child.call("memory", "nothing", None, {})


def test_page_faults_are_counted() -> None:
    def touch() -> None:
        with mmap.mmap(-1, 64 * MIB) as memory:  # fresh pages, whatever the allocator has at hand
            for place in range(0, 64 * MIB, mmap.PAGESIZE):
                memory[place] = 1

    faults = allocator.page_faults(touch)
    assert faults is not None
    assert faults > 16
