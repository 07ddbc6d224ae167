"""``tune``: measure, ahead of use, which backend is the fastest for each op of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitkern.dispatch.measured import STORE, Use, measuring
from vitkern.dispatch.measured.timing import MARGIN
from vitkern.patching import PatchReport, patched
from vitkern.patching.report import NOTHING as NOTHING_TO_PATCH
from vitkern.patching.swap import is_patched

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = ["TuneReport", "tune"]

NOTHING = "nothing to tune: no op of the model chooses its backend by itself"


@dataclass(frozen=True)
class TuneReport:
    """The outcome of ``tune``. ``print(report)`` shows it as a table, ``rich.print`` in colour.

    Attributes:
        uses: every kind of call that the model made and that chose its backend automatically: what
            it is, how long each backend takes, which one computes it from now on, and whether that
            was known before.
        path: the file that has the decisions; None where there is none.
        note: why no module was patched, where ``tune`` tried it and none was.
    """

    uses: tuple[Use, ...]
    path: str | None = None
    note: str = ""

    @property
    def measured(self) -> int:
        """How many kinds of calls were timed now."""
        return sum(use.decision is not None and not use.cached for use in self.uses)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, for JSON. The path is not in it: it names the user's folder."""
        return {"uses": [asdict(use) for use in self.uses], "note": self.note}

    def __str__(self) -> str:
        if not self.uses:
            return self._summary()
        lines = [_HEADER, *self._rows()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADER))]
        text = ["  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip()
                for line in lines]  # fmt: skip
        text.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
        return "\n".join([*text, self._summary()])

    def __repr__(self) -> str:
        return f"<TuneReport: {self._summary()}>"

    def __rich__(self) -> Table | Text:
        from rich.table import Table
        from rich.text import Text

        if not self.uses:
            return Text(self._summary())
        table = Table(*_HEADER, title="vitkern.tune")
        for use, row in zip(self.uses, self._rows(), strict=True):
            style = "yellow" if use.decision and use.backend != use.decision.static else ""
            table.add_row(*map(Text, row), style=style)
        table.caption = Text(self._summary())
        table.caption_justify = "left"
        return table

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                use.op,
                " ".join("x".join(map(str, shape)) for shape in use.shapes),
                use.dtype
                + ", backward" * use.trained
                + (f", weights {use.form}" if use.form else ""),
                str(use.calls),
                _times(use),
                use.backend,
                "-" if use.decision is None else "yes" if use.cached else "no",
            )
            for use in self.uses
        ]

    def _summary(self) -> str:
        if not self.uses:
            return NOTHING + (f" ({self.note})" if self.note else "")
        others = sum(
            use.decision is not None and use.backend != use.decision.static for use in self.uses
        )
        return (
            f"{len(self.uses)} kinds of calls, {self.measured} measured now; {others} take another"
            " backend than the first of the fixed order, where that was slower in three quarters of"
            f" the rounds and by {MARGIN:.0%}"
        )


_HEADER = ("op", "shapes", "dtype", "calls", "milliseconds", "winner", "cached")


def _times(use: Use) -> str:
    if use.decision is None:
        return "only one backend, or none could be timed"
    return ", ".join(f"{name} {1e3 * s:.3g}" for name, s in use.decision.seconds.items())


def tune(model: nn.Module, *inputs: Any) -> TuneReport:
    """Times the backends for every op of ``model``, and remembers the winners, on disk too.

    The model runs once, in its mode: under ``inference_mode`` in evaluation, forward and backward
    in training. Kinds of calls that were measured before, by whichever model, are not timed again.
    From then on calls of these kinds take the winner, in this process and in later ones on the same
    machine with the same number of threads. See :mod:`vitkern.dispatch.measured`.

    A model that is not patched is patched for the run only. Parameters, gradients, buffers and the
    states of random generators are as before afterwards; a backward runs the hooks of tensors, but
    none that wait for accumulated gradients. Tune what DDP wraps, not the wrapper.

    Args:
        model: the model, patched or not.
        inputs: what it is called with. Only their shapes, dtypes and layout matter.

    Returns:
        What was met and measured. Ops that run on a backend asked for by name are not in it.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: no inputs; or the output of a model in training depends on no parameter.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not inputs:
        raise ValueError("inputs must be what the model is called with, got none")
    block: AbstractContextManager[Any] = nullcontext() if is_patched(model) else patched(model)
    with block as done, _random_states(model), _buffers(model), measuring() as measurement:
        (_train if model.training else _infer)(model, inputs)
    path = STORE.path
    return TuneReport(
        measurement.uses,
        str(path) if path is not None and path.is_file() else None,
        "" if done is None or done.patched else _why_not(done),
    )


def _why_not(report: PatchReport) -> str:
    return next((module.why() for module in report.skipped), NOTHING_TO_PATCH)


def _infer(model: nn.Module, inputs: Sequence[Any]) -> None:
    with torch.inference_mode():
        model(*inputs)


def _train(model: nn.Module, inputs: Sequence[Any]) -> None:
    """Forward and backward. The backward is for recomputed forwards (gradient checkpointing)."""
    with torch.enable_grad():
        own = [
            x.detach().requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) else x
            for x in inputs
        ]
        outputs = [y for y in _tensors(model(*own)) if y.requires_grad]
        leaves = [p for p in (*own, *model.parameters()) if _wants_gradient(p)]
        if not outputs or not leaves:
            raise ValueError(
                f"model is a {type(model).__name__} in training, and its output depends on no"
                " parameter that requires a gradient: call model.eval(), or let parameters require"
                " gradients"
            )
        ones = [torch.ones_like(y) for y in outputs]
        torch.autograd.grad(outputs, leaves, ones, allow_unused=True)


def _wants_gradient(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """All tensors in an output, which may be nested."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)


@contextmanager
def _random_states(model: nn.Module) -> Iterator[None]:
    """Draws in the block change no generator of PyTorch's."""
    cards = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(cards)):
        yield


@contextmanager
def _buffers(model: nn.Module) -> Iterator[None]:
    """Buffers that the block changes or replaces, such as running means, are put back."""
    before = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, values in before:
            module._buffers[name] = buffer
            # Equal ones are not written: their version stays.
            if not torch.equal(buffer, values):
                with torch.no_grad():
                    buffer.copy_(values)
