"""Writes the tables of README.md and docs/benchmarks.md from benchmarks/results.

``python docs/tables.py`` after new results are stored; a test says so where it was forgotten.
A table stands between the comments ``<!-- table: NAME -->`` and ``<!-- end of table -->``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

MODELS = {
    "vit_small_patch16_224": "ViT-S/16",
    "vit_base_patch16_224": "ViT-B/16",
    "swin_tiny_patch4_window7_224": "Swin-T",
}
AVX2 = "amd-epyc-family-25-model-1-2-cores-avx2"
AVX512 = "amd-epyc-family-25-model-17-2-cores-avx512-bf16"
MACHINES = {
    AVX2: "Zen 3 (AVX2)",
    AVX512: "Zen 4 (AVX-512 BF16)",
    "intel-xeon-family-6-model-167-2-cores-amx": "Xeon (AMX), model 167",
    "intel-xeon-family-6-model-207-2-cores-amx": "Xeon (AMX), model 207",
}
"""What machines are called here; others by their folder's name."""

IN_PRECISION = {"fp32": "", "bf16": " bf16", "int8": " int8"}
"""How the names of peers end that run in a precision."""


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


def _label(row: dict[str, Any]) -> str:
    mode = {"eval": "forward", "train": "forward and backward"}[row["mode"]]
    return f"{MODELS.get(row['model'], row['model'])}, {mode} | {row['batch']}"


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _shares(row: dict[str, Any]) -> str:
    ours, eager = (_percent(row[side]["of_moment"]) for side in ("patched_share", "eager_share"))
    return f"{ours} ({eager})"


def readme() -> Iterator[str]:
    """Eager and patched on one machine."""
    machine = "2 cores of an AMD EPYC 9004"
    yield (
        f"| float32, {machine} | batch | eager ms | patched ms | speed-up"
        " | share of the FMA peak (eager's) |"
    )
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in _rows(RESULTS / AVX512 / "models.json"):
        times = [_milliseconds(row[side]["median"]) for side in ("eager", "patched")]
        yield _line(_label(row["row"]), *times, f"{row['speedup']['median']:.2f}×", _shares(row))


def models() -> Iterator[str]:
    """The same on two machines."""
    yield (
        "| model | batch | Zen 4 (AVX-512), eager → patched ms | speed-up | without page faults"
        " | share of peak (eager's) | Zen 3 (AVX2), eager → patched ms | speed-up |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    others = {str(row["row"]): row for row in _rows(RESULTS / AVX2 / "models.json")}
    for row in _rows(RESULTS / AVX512 / "models.json"):
        cells = []
        for one in (row, others[str(row["row"])]):
            times = [_milliseconds(one[side]["median"]) for side in ("eager", "patched")]
            cells += [" → ".join(times), f"{one['speedup']['median']:.2f}×"]
        without = f"{row['speedup_without_faults']['median']:.2f}×"
        yield _line(_label(row["row"]), *cells[:2], without, _shares(row), *cells[2:])


def peers() -> Iterator[str]:
    """The fastest peer's time over ours, by machine, model and precision."""
    yield "| machine | model, batch | float32 | bfloat16 | int8 |"
    yield "| --- | --- | --- | --- | --- |"
    for path in sorted(RESULTS.glob("*/peers*.json")):
        for result in _rows(path):
            row = result["row"]
            cells = [_against(result["against"], precision) for precision in IN_PRECISION]
            machine = MACHINES.get(path.parent.name, path.parent.name)
            name = f"{MODELS.get(row['model'], row['model'])}, {row['batch']}"
            yield _line(machine, name, *cells)


def _against(found: list[dict[str, Any]], precision: str) -> str:
    """The ratio to a peer that runs in that precision itself."""
    ending = IN_PRECISION[precision]
    for one in found:
        peer = one["peer"]
        if one["precision"] != precision or one["ratio"] is None:
            continue
        own = next((end for end in IN_PRECISION.values() if end and peer.endswith(end)), "")
        if own == ending:
            return f"{one['ratio']['median']:.2f} ({peer.removesuffix(ending)})"
    return "no peer"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "readme": readme,
    "models": models,
    "peers": peers,
}
PAGES = ("README.md", "docs/benchmarks.md")
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.S)


def written(text: str) -> str:
    """A page with its tables as the results are."""
    return _PLACE.sub(
        lambda found: f"{found[1]}\n" + "".join(f"{line}\n" for line in TABLES[found[2]]())
        + f"\n{found[3]}",
        text,
    )  # fmt: skip


def main() -> None:
    """Write the pages that are not as they should be."""
    for name in PAGES:
        page = ROOT / name
        new = written(page.read_text())
        if new != page.read_text():
            temporary = page.with_suffix(".tmp")
            temporary.write_text(new)
            os.replace(temporary, page)
            print(f"{name}: written")


if __name__ == "__main__":
    main()
