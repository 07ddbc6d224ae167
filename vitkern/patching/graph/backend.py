"""``torch.compile(model, backend="vitkern")``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from vitkern.dispatch.override import check_backend_name
from vitkern.patching.graph.assumptions import Assuming, copied
from vitkern.patching.graph.report import GraphReport
from vitkern.patching.graph.rewriting import Rewriter

RESTS = ("inductor", "aot_eager", "eager")
_OURS = ("rest", "backend")
_LOG = logging.getLogger("vitkern.graph")

Compiled = Callable[..., Any]
Compiler = Callable[..., Compiled]


def compile_graph(
    module: fx.GraphModule,
    inputs: Sequence[torch.Tensor],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    report: Callable[[GraphReport], object] | None = None,
) -> Compiled:
    """What ``torch.compile(model, backend="vitkern")`` calls for each captured graph.

    Args:
        module: the graph; it is rewritten in place.
        inputs: of the graph, fake.
        mode: as of ``torch.compile``, for Inductor.
        options: "rest": what compiles what is left: "inductor" (default), "aot_eager" or "eager".
            "backend": the only one that ops run on (default: chosen automatically); what it
            refuses is left to the rest, and reported. All others are Inductor's.
        report: is called with what was done.

    Returns:
        What runs the graph.

    Raises:
        TypeError: options that are no mapping.
        ValueError: an unknown rest or backend; a mode or options for Inductor beside another rest.
        RuntimeError: the rest is Inductor's, and it finds no C++ compiler.
    """
    rest, backend, others = _checked(mode, options)
    captured = copied(module)
    rewriter = Rewriter(module, backend)
    rewriter.run()
    found = GraphReport(rewriter.replaced, rewriter.left, rest)
    _LOG.info("%s", found)
    if report is not None:
        report(found)
    compiled: Compiled = module
    if rest == "aot_eager":
        compiled = _lookup("aot_eager")(module, inputs)
    elif rest == "inductor":
        compiled = _inductor(module, inputs, mode, others)
    if not rewriter.assumed:
        return compiled
    inputs_of_graph = [node for node in module.graph.nodes if node.op == "placeholder"]
    assumed = {inputs_of_graph.index(node): value for node, value in rewriter.assumed.items()}
    return Assuming(compiled, captured, assumed)


def graph_backend(
    *,
    report: list[GraphReport] | Callable[[GraphReport], object] | None = None,
    rest: str = "inductor",
    backend: str | None = None,
) -> Compiler:
    """A backend for ``torch.compile(model, backend=graph_backend(...))`` that reports.

    Args:
        report: a list that the report of each captured graph is appended to, or what is called
            with it.
        rest: what compiles what is left: "inductor", "aot_eager" or "eager".
        backend: the only one that ops run on; what it refuses is left to the rest, and reported.
            None chooses automatically.

    Raises:
        TypeError: ``report`` is neither a list nor callable; ``backend`` is no string.
        ValueError: an unknown rest or backend.
    """
    if not (report is None or isinstance(report, list) or callable(report)):
        raise TypeError(f"report must be a list, callable or None, got {type(report).__name__}")
    ours = {"rest": rest, "backend": backend}
    _checked(None, ours)
    tell = report.append if isinstance(report, list) else report

    def vitkern(
        module: fx.GraphModule,
        inputs: Sequence[torch.Tensor],
        *,
        mode: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Compiled:
        return compile_graph(
            module, inputs, mode=mode, options={**ours, **(options or {})}, report=tell
        )

    return vitkern


def _checked(
    mode: str | None, options: Mapping[str, Any] | None
) -> tuple[str, str | None, dict[str, Any]]:
    """The rest, the backend, and options for Inductor."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict or None, got {type(options).__name__}")
    given = dict(options or {})
    rest, backend = given.pop("rest", "inductor"), given.pop("backend", None)
    if rest not in RESTS:
        raise ValueError(f"rest must be one of {', '.join(map(repr, RESTS))}, got {rest!r}")
    check_backend_name(backend)
    if rest != "inductor" and (given or mode):
        what = f"options {', '.join(given)}" if given else f"mode {mode!r}"
        raise ValueError(f"{what}: for Inductor, but the rest is for {rest!r}")
    return rest, backend, given


def _lookup(name: str) -> Compiler:
    from torch._dynamo.backends.registry import lookup_backend

    found: Compiler = lookup_backend(name)
    return found


def _inductor(
    module: fx.GraphModule,
    inputs: Sequence[torch.Tensor],
    mode: str | None,
    options: dict[str, Any],
) -> Compiled:
    """Inductor on the rewritten graph."""
    import torch._inductor
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.exc import InvalidCxxCompiler

    patches = {**torch._inductor.list_mode_options(mode or "default"), **options}
    try:
        # compile_fx gives what to call, unless it is asked for other kinds of output.
        compiled: Any = compile_fx(module, inputs, config_patches=patches or None)
    except Exception as error:
        if InvalidCxxCompiler not in (type(error), type(getattr(error, "inner_exception", None))):
            raise
        raise RuntimeError(
            "Inductor finds no C++ compiler (see its error above). Install one, or leave the rest"
            ' to PyTorch: torch.compile(..., backend="vitkern", options={"rest": "aot_eager"})'
        ) from error
    found: Compiled = compiled
    return found
