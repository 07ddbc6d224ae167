"""What ``quantize`` did: which layers are in int8, over which ranges, at which error."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer with a weight, in int8 or kept as it was.

    Attributes:
        name: as in ``model.named_modules()``.
        shape: of its weight.
        form: "int8" or "kept".
        reason: why it is kept; empty if it is not.
        range: the calibrated range of its input; None where each token has its own.
        weight_error: of the weight in int8, ``||w8 - w|| / ||w||``; None if it is kept.
        output_error: the same of its output, for the input that it has in the float model; None
            where nothing was measured.
    """

    name: str
    shape: tuple[int, ...]
    form: str
    reason: str = ""
    range: tuple[float, float] | None = None
    weight_error: float | None = None
    output_error: float | None = None


@dataclass(frozen=True)
class QuantizationReport:
    """The outcome of ``quantize``. ``print(report)`` shows a table, ``rich.print`` in colour.

    Attributes:
        layers: all layers of the model with a weight matrix or a convolution.
        activations: "static" or "dynamic".
        observer: what made ranges of what was seen; empty where activations are dynamic.
        backend: the backends that compute the int8 products, joined by " + ".
        note: what to know about that, or empty.
        error: of the model's output on the calibration data, ``||y8 - y|| / ||y||``; None where
            nothing was measured.
        cosine: similarity of the two outputs, 1 where they are the same.
    """

    layers: tuple[QuantizedLayer, ...]
    activations: str
    observer: str = ""
    backend: str = ""
    note: str = ""
    error: float | None = None
    cosine: float | None = None

    @property
    def quantized(self) -> tuple[QuantizedLayer, ...]:
        """The layers in int8."""
        return tuple(layer for layer in self.layers if layer.form == "int8")

    @property
    def kept(self) -> tuple[QuantizedLayer, ...]:
        """The layers that are as they were."""
        return tuple(layer for layer in self.layers if layer.form != "int8")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, for JSON."""
        values = asdict(self)
        for layer in values["layers"]:
            layer["shape"] = list(layer["shape"])
            layer["range"] = None if layer["range"] is None else list(layer["range"])
        values["layers"] = list(values["layers"])
        return values

    def __str__(self) -> str:
        rows = [_HEADINGS, *map(self._row, self.layers)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
        lines = [
            "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
        return "\n".join([*lines, *self._summary()])

    def __repr__(self) -> str:
        return f"<QuantizationReport: {self._summary()[0]}>"

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title="vitkern.quantize")
        for index, heading in enumerate(_HEADINGS):
            # A name that is cut off says nothing: it takes another line instead.
            table.add_column(heading, overflow="fold" if index == 0 else "ellipsis")
        for layer in self.layers:
            style = "" if layer.form == "int8" else "yellow"
            table.add_row(*map(Text, self._row(layer)), style=style)
        table.caption = Text("\n".join(self._summary()))
        table.caption_justify = "left"
        return table

    def _row(self, layer: QuantizedLayer) -> tuple[str, ...]:
        if layer.form != "int8":
            inputs = layer.reason
        elif layer.range is None:
            inputs = "per token"
        else:
            inputs = f"{layer.range[0]:.4g} to {layer.range[1]:.4g}"
        return (
            layer.name or "(the model)",
            "×".join(map(str, layer.shape)),
            layer.form,
            inputs,
            _percent(layer.weight_error),
            _percent(layer.output_error),
        )

    def _summary(self) -> list[str]:
        how = f"{self.activations} activations" + (f", {self.observer}" if self.observer else "")
        lines = [
            f"{len(self.quantized)} layers in int8 ({how}) on {self.backend}, {len(self.kept)} kept"
        ]
        if self.error is not None and self.cosine is not None:
            lines.append(
                f"output: relative error {_percent(self.error)}, cosine similarity"
                f" {self.cosine:.6f}, on the calibration data"
            )
        return lines + [self.note] * bool(self.note)


_HEADINGS = ("layer", "weight", "form", "input, or why kept", "weight error", "output error")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3g} %"
