"""Results of ``vitkern coverage`` as a table on the terminal, as Markdown, and as JSON."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkern.bench import report
from vitkern.bench.coverage import Coverage
from vitkern.bench.coverage_models import CHANNELS_LAST

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["document", "goals", "load", "markdown", "table", "write_markdown"]

GOAL = 0.9
KIND = "coverage"


def document(
    machine: dict[str, Any], results: Sequence[Coverage], date: str, graph: str | None = None
) -> dict[str, Any]:
    """What is written as JSON: rows, the libraries' versions, the machine.

    Args:
        machine: that it was measured on.
        results: of the models.
        date: of today.
        graph: where captured graphs were looked at, what compiled the rest.
    """
    return {
        "schema": report.SCHEMA,
        "kind": KIND,
        "date": date,
        "machine": machine,
        "libraries": _libraries(),
        "graph": graph,
        "rows": [one.to_dict() for one in results],
    }


def load(path: Path, machine: dict[str, Any], graph: str | None = None) -> list[Coverage]:
    """The results in a file that were made on this machine with these versions; else none.

    Raises:
        OSError: the file cannot be read; a missing one has no results.
    """
    try:
        found = report.read_json(path)
        wanted = (KIND, machine, _libraries(), graph)
        if (found["kind"], found["machine"], found["libraries"], found.get("graph")) != wanted:
            return []
        return [Coverage.from_dict(row) for row in found["rows"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def _libraries() -> dict[str, str]:
    """Versions of the libraries that models are of."""
    found = {}
    for name in ("timm", "torchvision", "transformers"):
        if importlib.util.find_spec(name) is not None:
            found[name] = metadata.version(name)
    return found


_COLUMNS = ("model", "outcome", "GFLOP", "FLOPs", "of products", "modules", "error", "time")


_GRAPH_COLUMNS = ("model", "outcome", "GFLOP", "FLOPs", "of products", "ops", "left", "error")


def _cells(one: Coverage, graph: str | None = None) -> tuple[str, ...]:
    """One row of either table."""
    products, worst = one.products, _worst(one)
    if products is None:
        return (one.name, one.outcome, "", "", "", "", "", "")
    if graph is not None:
        last = str(sum(one.patched.values())), str(sum(one.skipped.values())), worst
    else:
        time = f"{one.speedup.median:.2f}×" if one.speedup is not None else ""
        last = f"{100 * one.modules:.0f} %", worst, time
    return (
        one.name,
        one.outcome,
        f"{products.total / 1e9:.2f}",
        f"{100 * products.share:.0f} %",
        f"{100 * products.share_beside_convolutions:.0f} %",
        *last,
    )


def _worst(one: Coverage) -> str:
    """The largest error as a multiple of what is allowed."""
    ratios = [check.error / check.allowed for check in one.checks if check.allowed > 0]
    return f"{max(ratios):.2f}" if ratios else ""


def goals(results: Sequence[Coverage]) -> list[str]:
    """How far the goals are met, a line each. Only transformers that could be run count."""
    ran = [one for one in results if one.error is None]
    wrong = [one.name for one in ran if one.outcome == "wrong"]
    failed = [one.name for one in results if one.error is not None]
    transformers = [one for one in ran if one.transformer and one.products is not None]
    lines = [
        f"{len(ran)} models ran, {len(wrong)} wrong"
        + (f" ({', '.join(wrong)})" if wrong else "")
        + (f"; {len(failed)} failed ({', '.join(failed)})" if failed else ""),
    ]
    if transformers:
        everything = [one for one in transformers if one.products and one.products.share >= GOAL]
        products = [
            one
            for one in transformers
            if one.products and one.products.share_beside_convolutions >= GOAL
        ]
        lines.append(
            f"of {len(transformers)} transformers, {len(everything)} have at least {GOAL:.0%} of"
            f" all FLOPs on vitkern's kernels, {len(products)} of those of products"
        )
    timed = [one for one in ran if one.speedup is not None]
    if timed:
        slow = [f"{one.name} {one.speedup.median:.2f}×" for one in timed if one.speedup
                and one.speedup.high < 1.0]  # fmt: skip
        lines.append(
            f"{len(timed)} timed, {len(slow)} slower than eager in three quarters of the rounds"
            + (f" ({', '.join(slow)})" if slow else "")
        )
    return lines


def table(results: Sequence[Coverage], graph: str | None = None) -> Table:
    """For the terminal."""
    from rich.table import Table

    out = Table(title="vitkern coverage")
    for number, column in enumerate(_COLUMNS if graph is None else _GRAPH_COLUMNS):
        out.add_column(column, justify="left" if number < 2 else "right", no_wrap=number == 0)
    for one in results:
        style = {"wrong": "red", "failed": "yellow"}.get(one.outcome, "")
        out.add_row(*_cells(one, graph), style=style)
    return out


_ABOUT = """\
# Patch coverage

Written by `vitkern coverage --json {json} --table docs/coverage.md`, not by hand; `--time` adds
times, `--resume` goes on with what is in the JSON file.

Every model has random weights and is patched by `vitkern.patch(model)`, with no options.

- **outcome**: *right*: output, gradient of the input, and gradients of all parameters are at most
  twice as far from float64 as eager's are (plus a few units of the last place); *wrong*: they are
  not; *failed*: it could not be built, patched or run, and nothing is known.
- **FLOPs**: of all matrix products and convolutions in a forward (batch {batch}, no gradient), the
  share that vitkern's kernels compute. What they leave to PyTorch counts as PyTorch's, also in
  patched modules.
- **of products**: the same, where PyTorch's convolutions are left out of the count, if their
  windows overlap or their channels are in groups (others are products of matrices, and count).
- **modules**: of the modules with parameters, the share within patched ones.
- **error**: the largest error, 1 being what is allowed.
- **time**: eager's time over the patched model's, forward, in turns; threads: {threads}. Above 1 is
  a gain; empty where it was not measured.

Rows in italics are mostly convolutional; no goal is about them. These rows, and
{last}
get their images with channels last in memory, eager as well: so PyTorch's 1x1 convolutions are as
fast or faster, and an op computes them. Convolutions of overlapping windows stay PyTorch's: models
that have more than 10 % of their FLOPs in them cannot reach 90 % of all FLOPs.

"""


_ABOUT_GRAPH = """\
# Graph coverage

Written by `vitkern coverage --graph {rest} --json {json} --table docs/coverage-graph.md`, not by
hand; `--resume` goes on with what is in the JSON file.

Every model has random weights and is compiled by `torch.compile(model, backend="vitkern")`, with
`options={{"rest": "{rest}"}}`.

- **outcome**: *right*: output, gradient of the input, and gradients of all parameters are at most
  twice as far from float64 as eager's are (plus a few units of the last place); *wrong*: they are
  not; *failed*: it could not be built, compiled or run, and nothing is known.
- **FLOPs**: of all matrix products and convolutions in a forward (batch {batch}, no gradient), the
  share in ops that the captured graphs were given. What is computed between graphs counts as
  PyTorch's.
- **of products**: the same, where PyTorch's convolutions are left out of the count, if their
  windows overlap or their channels are in groups (others are products of matrices, and count).
- **ops**: how many ops the graphs were given; **left**: how many products, and norms of sums, were
  left as they are.
- **error**: the largest error, 1 being what is allowed.

Rows in italics are mostly convolutional; no goal is about them. These rows, and
{last}
get their images with channels last in memory, eager as well: so PyTorch's 1x1 convolutions are as
fast or faster, and an op computes them. Convolutions of overlapping windows stay PyTorch's: models
that have more than 10 % of their FLOPs in them cannot reach 90 % of all FLOPs.

"""


_LAST = ", ".join(sorted(CHANNELS_LAST))


def markdown(found: dict[str, Any]) -> str:
    """``docs/coverage.md`` or ``docs/coverage-graph.md``, from what :func:`document` made."""
    results = [Coverage.from_dict(row) for row in found["rows"]]
    machine, libraries = found["machine"], found["libraries"]
    versions = ", ".join(f"{name} {version}" for name, version in libraries.items())
    graph = found.get("graph")
    if graph is None:
        about = _ABOUT.format(json="coverage.json", batch=2, threads=machine["threads"], last=_LAST)
    else:
        about = _ABOUT_GRAPH.format(json="coverage-graph.json", batch=2, rest=graph, last=_LAST)
    columns = _COLUMNS if graph is None else _GRAPH_COLUMNS
    lines = [
        about,
        *(f"- {line}" for line in goals(results)),
        "",
        f"{found['date']}, {machine['cpu']} ({machine['cpu_id']}), {machine['isa']},"
        f" torch {machine['torch']}, {versions}.",
        "",
        "| " + " | ".join(columns) + " |",
        "| --- | --- |" + " ---: |" * (len(columns) - 2),
    ]
    for one in results:
        cells = list(_cells(one, graph))
        if not one.transformer:
            cells[0] = f"*{cells[0]}*"
        lines.append("| " + " | ".join(cells) + " |")
    lines += _details(results)
    return "\n".join(lines).rstrip() + "\n"


def _details(results: Sequence[Coverage]) -> list[str]:
    """Errors of failed models, checks that did not pass, and calls that fell back."""
    lines: list[str] = []
    for one in results:
        notes = [one.error] if one.error else []
        notes += [str(check) for check in one.checks if not check.passed]
        notes += list(one.fallbacks)
        lines += [f"- {one.name}: {note}" for note in notes]
    return ["", "## What failed, and what fell back", "", *lines] if lines else []


def write_markdown(path: Path, found: dict[str, Any]) -> None:
    """Writes the page whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with report.replacing(path) as temporary:
        temporary.write_text(markdown(found), encoding="utf-8")
