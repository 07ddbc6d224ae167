"""Mistakes that are planted into the kernels' sources are caught."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cuda_emulation import runs
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._cuda.library import LaunchFailed
from vitkern.testing import build
from vitkern.testing.emulation import COPIES, EMULATED, ORDERS, kernels_of, load

Run = Callable[[CudaKernels], None]


@dataclass(frozen=True)
class Mistake:
    """``right`` becomes ``wrong`` in a file, and a run fails with a message that matches."""

    name: str
    file: str
    right: str
    wrong: str
    run: Run
    message: str


_BARRIER = "__syncthreads();"
_GEMM = "gemm.cuh"
_GROUPS = "warpgroups.cuh"
_ATTENTION = "attention_tiles.cuh"
MISTAKES = (
    Mistake(
        "no barrier before a scratch is used again", "numeric.cuh",
        f"sum += scratch[warp];\n  {_BARRIER}", "sum += scratch[warp];",
        runs.wide_rows, "race: a write of what was read",
    ),
    Mistake(
        "no barrier before a scratch is read", "numeric.cuh",
        f"= value;\n  {_BARRIER}", "= value;",
        runs.wide_rows, "that nobody wrote|race: a read of what was written",
    ),
    Mistake(
        "one column too many", "layer_norm.cu",
        "if (at >= width) continue;\n    load(values", "if (at > width) continue;\n    load(values",
        runs.short_rows, "not close",
    ),
    Mistake(
        "an array one too short", "column_sums.cu",
        "sums, SUM_STRIPES * SUM_COLUMNS)", "sums, SUM_STRIPES * SUM_COLUMNS - 1)",
        runs.sums, "out of bounds",
    ),
    Mistake(
        "threads that leave before a barrier", "column_sums.cu",
        "  sums[stripe", "  if (at >= p.width) return;\n  sums[stripe",
        runs.sums, "not all threads come to __syncthreads",
    ),
    Mistake(
        "a wait that is one group too weak", _GEMM,
        "wait_for_copies<Tiles::STAGES - 2>", "wait_for_copies<Tiles::STAGES - 1>",
        runs.product, "read while a copy to it is under way",
    ),
    Mistake(
        "no barrier between stages", _GEMM,
        f"{_BARRIER}  // all see this stage", "// all see this stage",
        runs.product, "under way|race",
    ),
    Mistake(
        "no barrier before the sums take the stages' place", _GEMM,
        f"{_BARRIER}  // all have read the last stage", "// all have read the last stage",
        runs.float32_product, "race",
    ),
    Mistake(
        "no barrier before the sums are read", _GEMM,
        f"result.leave(sums);\n  {_BARRIER}", "result.leave(sums);",
        runs.product, "race",
    ),
    Mistake(
        "copies that nobody waits for", _GEMM,
        "  wait_for_copies<0>();\n", "",
        runs.product, "copies that it did not wait for|under way",
    ),
    Mistake(
        "a copy to an address that is not aligned", _GEMM,
        "copy_async(tile + Tiles::place(row, in_row), ",
        "copy_async(tile.template as<T>() + (place_of(row, in_row) * Tiles::IN_CHUNK + 1), ",
        runs.product, "not aligned|out of bounds",
    ),
    Mistake(
        "no zeros beyond the end of k", _GEMM,
        "tile.template as<T>()[to] = there ? *from : from_float<T>(0.0f);",
        "if (there) tile.template as<T>()[to] = *from;",
        runs.scattered_product, "read that nobody wrote",
    ),
    Mistake(
        "a step of k too few", _GEMM,
        "static_cast<int>(ceil_div(k, Tiles::STEP)) - first_step",
        "static_cast<int>(k / Tiles::STEP) - first_step",
        runs.scattered_product, "not close",
    ),
    Mistake(
        "columns of a fragment exchanged", _GEMM,
        "multiply<M>(sum[i][j], left[i], pair[0], pair[1])",
        "multiply<M>(sum[i][j], left[i], pair[1], pair[0])",
        runs.product, "not close",
    ),
    Mistake(
        "a part of k that is not its own", _GEMM,
        "static_cast<int64_t>(first_step + step)", "static_cast<int64_t>(step)",
        runs.split_product, "not close",
    ),
    Mistake(
        "parts of k in one place", "split_gemm.cuh",
        "data + (turn * m + row)", "data + row",
        runs.split_product, "not close",
    ),
    Mistake(
        "no barrier between copies and products of groups", _GEMM,
        f"{_BARRIER}  // all see this stage", "// all see this stage",
        runs.warpgroup_product, "under way|race",
    ),
    Mistake(
        "copies that are not published", _GROUPS,
        "void publish() { publish_to_async_proxy(); }", "void publish() {}",
        runs.warpgroup_product, "did not publish",
    ),
    Mistake(
        "products of groups that nobody waits for", _GROUPS,
        "    wait_for_warpgroup_products(sums);\n", "",
        runs.warpgroup_product, "while a product that reads it is under way|did not wait for",
    ),
    Mistake(
        "sums that are not ready for products", _GROUPS,
        "    before_warpgroup_products(sums);\n", "",
        runs.warpgroup_product, "without wgmma.fence",
    ),
    Mistake(
        "a swizzle that is not the descriptor's", _GROUPS,
        "chunk ^ (row & 7)", "chunk ^ (row >> 1 & 3)",
        runs.warpgroup_product, "not close",
    ),
    Mistake(
        "rows of the other group", _GROUPS,
        "tile_descriptor(a + group * WARPGROUP_ROWS * Tiles::CHUNKS)", "tile_descriptor(a)",
        runs.warpgroup_product, "not close",
    ),
    Mistake(
        "a descriptor of other distances", "wgmma.cuh",
        "static_cast<uint64_t>(SWIZZLE_BYTES >> 4) << 32", "static_cast<uint64_t>(2048 >> 4) << 32",
        runs.warpgroup_product, "not close|beyond|under way",
    ),
    Mistake(
        "a slice of k too far", "wgmma.cuh",
        "DESCRIPTOR_SLICE = 32 / 16", "DESCRIPTOR_SLICE = 64 / 16",
        runs.warpgroup_product, "not close|beyond|under way",
    ),
    Mistake(
        "no barrier before deltas are read", "window_groups.cuh",
        f"{_BARRIER}  // all deltas are there", "// all deltas are there",
        runs.windows, "that nobody wrote|race",
    ),
    Mistake(
        "no barrier between tiles of keys", _ATTENTION,
        f"{_BARRIER}  // all see this stage", "// all see this stage",
        runs.attention, "under way|race",
    ),
    Mistake(
        "keys whose copies nobody waits for", _ATTENTION,
        "      wait_for_copies<0>();\n      __syncthreads", "      __syncthreads",
        runs.attention, "read while a copy to it is under way",
    ),
    Mistake(
        "a stage that is loaded while it is read", _ATTENTION,
        "step % COUNT * STAGE_BYTES", "0 * step",
        runs.attention, "under way|race",
    ),
    Mistake(
        "keys beyond the last", "attention_space.cuh",
        "if (j >= p.keys) score = -INFINITY;", "",
        runs.attention, "not close",
    ),
    Mistake(
        "sums that keep an old maximum", "attention_forward.cuh",
        "sums[d][e] *= correction[e / 2];", "sums[d][e] *= 1.0f;",
        runs.attention, "not close",
    ),
    Mistake(
        "threads that leave before a sum of their warp", "deformable_attention.cu",
        "worker_of<N>(p);\n  const T* value",
        "worker_of<N>(p);\n  if (!w.known) return;\n  const T* value",
        runs.points, "not all threads come to shuffle",
    ),
    Mistake(
        "left and right exchanged", "deformable_points.cuh",
        "corner % 2 == 0 ? 1.0f - x.share : x.share", "corner % 2 == 1 ? 1.0f - x.share : x.share",
        runs.points, "not close",
    ),
    Mistake(
        "a sum with the wrong sign", "deformable_values.cu",
        "static_cast<long long>(share", "static_cast<long long>(-share",
        runs.points, "not close",
    ),
)  # fmt: skip


def _files_of(run: Run) -> tuple[str, ...]:
    return {
        runs.wide_rows: ("layer_norm",),
        runs.short_rows: ("layer_norm",),
        runs.sums: ("column_sums",),
        runs.attention: ("attention_forward",),
        runs.windows: ("window_backward",),
        runs.points: ("deformable_attention", "deformable_values"),
    }.get(run, ("gemm", "gemm_sm90a"))


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "-"))
def test_a_mistake_is_caught(mistake: Mistake, tmp_path: Path) -> None:
    """In the first order of threads already: what is seen is the access, not its consequence."""
    sources = tmp_path / "cuda"
    shutil.copytree(build.SOURCES, sources)
    path = sources / mistake.file
    text = path.read_text(encoding="utf-8")
    assert text.count(mistake.right) == 1, f"{mistake.file} has moved on: {mistake.right!r}"
    path.write_text(text.replace(mistake.right, mistake.wrong), encoding="utf-8")
    names = {*_files_of(mistake.run), "column_sums"}
    library = build.build(tmp_path / "build", sources=sources, only=sorted(names), flags=["-O1"])
    family = "planted_" + mistake.name.replace(" ", "_").replace("'", "")
    with pytest.raises((LaunchFailed, AssertionError), match=mistake.message):
        mistake.run(kernels_of(library, family))


@pytest.mark.parametrize("order, copies", [*itertools.product(ORDERS, COPIES)])
@pytest.mark.parametrize("run", [*dict.fromkeys(one.run for one in MISTAKES)])
def test_without_a_mistake_nothing_is(run: Run, order: str, copies: str) -> None:
    load().set(order, copies)
    try:
        run(EMULATED)
    finally:
        load().set()
