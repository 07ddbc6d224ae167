"""Graph-level patching: ``torch.compile(model, backend="vitkern")``.

Dynamo captures the model's graph, whatever library it is from, or none; patterns of it become ops,
and Inductor compiles the rest::

    compiled = torch.compile(model, backend="vitkern")

    reports = []
    compiled = torch.compile(model, backend=vitkern.graph_backend(report=reports))
    compiled(images)
    print(*reports, sep="\\n")  # one for each graph: what became an op, and what did not and why

The reports go to the logger ``vitkern.graph`` as well, at level INFO.

Patterns (``patterns/``, a file each)
    * A linear layer and what follows it: activation (GELU exact and tanh, ReLU, SiLU, QuickGELU),
      second linear layer, LayerScale, residual. A linear layer by itself where that gains.
    * Attention, as ``F.scaled_dot_product_attention``, ``F.multi_head_attention_forward`` without
      weights, or written out, with bias, mask, dropout.
    * Attention in windows of a map, as Swin's: with shift, padding, partition, position bias, mask,
      and the linear layers before and behind, however it is written.
    * A convolution whose stride is its kernel, with the flatten and transpose that make it tokens.
    * A layer norm of a sum.

What is computed is what was: who else uses a value, in-place operations, autocast and hooks (which
Dynamo captures) are seen, and ``rewriting.py`` says when a pattern may be replaced. Two things are
not bit by bit as before: attention dropout draws other random numbers, and a query whose keys are
all masked with minus infinity by written-out attention gets zeros instead of NaN.

Of windows the values in buffers are read: relative positions, and the mask. Each call looks whether
they were written to. If so, and not with the same values, the graph runs as it was captured, and a
warning says so. Maps whose height or width is dynamic keep their windows (a dynamic batch is fine).

What is in higher-order operators (activation checkpointing inside of the graph, ``cond``) is left
as it is.

The name is an entry point of the installed package: ``torch.compile`` finds it without an import of
vitkern. A source tree that is not installed has none: there ``graph_backend()`` is the backend.
"""

from vitkern.patching.graph.backend import compile_graph, graph_backend
from vitkern.patching.graph.registration import register
from vitkern.patching.graph.report import GraphReport, Left, Replaced

__all__ = ["GraphReport", "Left", "Replaced", "compile_graph", "graph_backend"]

register()
