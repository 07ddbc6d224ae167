"""Which layers to keep in float so that a model's output stays within an error budget."""

from __future__ import annotations

from collections.abc import Callable

from vitkern.quantization.layers import CannotQuantize, Layer


def meet_budget(
    layers: list[Layer],
    budget: float,
    measure: Callable[[], float],
    estimate: Callable[[], float],
) -> dict[str, float]:
    """Quantizes as many of ``layers`` as the budget allows, and leaves them so.

    How sensitive a layer is, is the error of the model's output where it alone is quantized: not
    that of its own output, for what a layer's error does depends on what comes after it. The most
    sensitive ones are kept, and as few as the budget asks for: their number is found by bisection,
    each step of which is a real run of the whole model, the last of them included.

    Args:
        layers: all in float, ready to be quantized.
        budget: the largest error.
        measure: the error of the model as it is now.
        estimate: the same, quicker: one for each layer is enough to put them in order.

    Returns:
        Of each layer that is kept, its error alone.

    Raises:
        CannotQuantize: not even with only the least sensitive layer quantized; says the smallest
            error reached.
    """
    for layer in layers:
        layer.quantize()
    error = measure()
    if error <= budget:
        return {}
    for layer in layers:
        layer.restore()
    alone = {}
    for layer in layers:
        layer.quantize()
        alone[layer.name] = estimate()
        layer.restore()
    order = sorted(layers, key=lambda layer: -alone[layer.name])

    def keep(count: int) -> float:
        for index, layer in enumerate(order):
            if index < count:
                layer.restore()
            else:
                layer.quantize()
        return measure()

    too_few, enough = 0, len(order) - 1
    least = keep(enough) if enough else error
    if least > budget:
        raise CannotQuantize(
            f"error_budget={budget:g} cannot be met: with nothing but {order[-1].name} in int8 the"
            f" output's relative error is {least:.3g}, and with all layers {error:.3g}"
        )
    state = enough
    while enough - too_few > 1:
        state = (too_few + enough) // 2
        if keep(state) <= budget:
            enough = state
        else:
            too_few = state
    if state != enough:
        keep(enough)
    return {layer.name: alone[layer.name] for layer in order[:enough]}
