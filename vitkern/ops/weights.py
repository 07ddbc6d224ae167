"""Weights that products take in another form than their own: bfloat16 or int8.

Ops that take a ``weight`` (``linear``, ``mlp``, the fused blocks) take one of these in its place.
They are for inference, hold the parameter itself, and follow it: what is derived from it is made
anew when its version or its memory changes. Autocast has no say over such a product.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

LEVELS = 255
"""Steps that the range of activations is cut into."""
LARGEST = 127
"""The largest magnitude of a weight as int8."""
MOST_PAIRED = 128
"""The largest magnitude of two neighbours' sum that LEVELS times stays in 16 bits."""
MOST_INPUTS = (2**31 - 1) // (LEVELS * LARGEST)
"""The largest K whose sums of products fit into 32 bits."""
SMALLEST_STEP = 1e-37
"""What is below counts as 0: with fewer bits a quotient is not exact, and 1 / step overflows."""


class ConvertedWeight:
    """A weight (N, K) and the form in which products take it.

    It stands where ops expect the weight, and answers to what their checks ask of a tensor.

    Attributes:
        source: the weight itself, float32 or bfloat16.
        form: "bfloat16" or "int8".
    """

    form: str
    requires_grad = False

    def __init__(self, source: torch.Tensor) -> None:
        if not isinstance(source, torch.Tensor) or source.dim() != 2:
            got = tuple(source.shape) if isinstance(source, torch.Tensor) else type(source).__name__
            raise ValueError(f"source must be a tensor with 2 dimensions, got {got}")
        if source.dtype not in (torch.float32, torch.bfloat16):
            raise TypeError(f"source must be float32 or bfloat16, got {source.dtype}")
        self.source = source

    @property
    def shape(self) -> torch.Size:
        """(N, K)."""
        return self.source.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the activations that it goes with: that of the weight itself."""
        return self.source.dtype

    @property
    def device(self) -> torch.device:
        """Where the weight is."""
        return self.source.device

    @property
    def is_cpu(self) -> bool:
        """Whether that is the CPU."""
        return self.source.is_cpu

    @property
    def layout(self) -> torch.layout:
        """The weight's."""
        return self.source.layout

    @property
    def dynamic(self) -> bool:
        """Whether each token has its own range."""
        return False

    def dim(self) -> int:
        """2."""
        return 2

    def of(self, source: torch.Tensor) -> ConvertedWeight:
        """The same form of another weight; itself where the weight is its own."""
        raise NotImplementedError

    def product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """``x @ weight.T + bias`` as this form defines it, in plain PyTorch: the reference."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{self.form}[{'x'.join(map(str, self.shape))}]"


class Bfloat16Weight(ConvertedWeight):
    """Operands rounded to bfloat16, products and sums in float32; activations stay float32."""

    form = "bfloat16"

    def of(self, source: torch.Tensor) -> Bfloat16Weight:
        return self if source is self.source else Bfloat16Weight(source)

    def product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        def rounded(t: torch.Tensor) -> torch.Tensor:
            return t.to(torch.bfloat16).to(x.dtype)

        return F.linear(rounded(x), rounded(self.source), bias)


class Int8Weight(ConvertedWeight):
    """Weights as int8 with a scale for each output channel, activations as unsigned integers.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2017 (arXiv 1712.05877). Weights are symmetric:
    ``w ~ values * scale[:, None]``.
    Activations are asymmetric: of the whole tensor, over the calibrated range ``(low, high)``, or,
    where it is None, of each token over its own range. The range always includes 0.

    AVX2 sums two neighbouring products in 16 bits, which 255 * 127 * 2 overflows. ``paired`` scales
    each channel so that no two neighbours can: by some 1.3 of what its largest weight needs,
    instead of the 2 that one bit less would cost.

    Args:
        source: (N, K), float32 or bfloat16.
        low, high: the calibrated range of activations, or None for each token's own.
        paired: whether sums of two products fit into 16 bits; None is what this machine needs.

    Raises:
        TypeError, ValueError: not such a weight; a range that makes no sense.
    """

    form = "int8"

    def __init__(
        self,
        source: torch.Tensor,
        low: float | None = None,
        high: float | None = None,
        *,
        paired: bool | None = None,
    ) -> None:
        super().__init__(source)
        if (low is None) != (high is None):
            raise ValueError("low and high must both be given, or neither")
        if low is not None and high is not None:
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"low and high must be finite and in order, got {low} and {high}")
            low, high = min(float(low), 0.0), max(float(high), 0.0)
            if high - low > torch.finfo(torch.float32).max:
                raise ValueError(
                    f"low and high must be at most {torch.finfo(torch.float32).max:.5g} apart"
                    f" (with 0 between them), got {low:g} and {high:g}"
                )
        self.low, self.high = low, high
        self.paired = needs_pairs() if paired is None else paired
        # Of which state of the source, an alias of that, values and scale, and whether these were
        # given. One tuple, so that threads see all of it or nothing; the alias keeps the memory
        # from being handed out again.
        self._made: tuple[State, torch.Tensor, torch.Tensor, torch.Tensor, bool] | None = None

    @property
    def dynamic(self) -> bool:
        return self.low is None

    def quantized(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``values`` (N, K) int8, within -127 and 127, and ``scale`` (N,) float32."""
        source = self.source
        # Compiled code has to follow the weight by itself; inference tensors have no version.
        if torch.compiler.is_compiling() or source.is_inference():
            return quantize_rows(source.detach(), self.paired)
        state, made = state_of(source), self._made
        if made is None or made[0] != state:
            alias = source.detach()
            made = self._made = (state, alias, *quantize_rows(alias, self.paired), False)
        return made[2], made[3]

    def adopt(self, values: torch.Tensor, scale: torch.Tensor) -> None:
        """Takes this as the int8 form of the weight as it is now, and until it changes.

        For weights that come from such a form: quantized again they could differ by one in ties of
        rounding, and do in code that torch.compile makes, which quantizes for itself.

        Raises:
            ValueError: it is no such form.
        """
        check_quantized(values, scale, self.paired)
        if values.shape != self.shape:
            raise ValueError(f"values must be {tuple(self.shape)}, got {tuple(values.shape)}")
        if not self.source.is_inference():
            self._made = (state_of(self.source), self.source.detach(), values, scale, True)

    def _given(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What was given to :meth:`adopt`, if it still holds."""
        made = self._made
        if made is None or not made[4] or made[0] != state_of(self.source):
            return None
        return made[2], made[3]

    def of(self, source: torch.Tensor) -> Int8Weight:
        if source is self.source:
            return self
        return Int8Weight(source, self.low, self.high, paired=self.paired)

    def product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        values, scale = self.quantized()
        weight = values.to(x.dtype) * scale.to(x.dtype)[:, None]
        return F.linear(self.round(x), weight, bias)

    def round(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (..., K) where its integers put it."""
        if x.shape[-1] == 0:
            return x
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        if self.low is None or self.high is None:
            low, high = wide.aminmax(dim=-1, keepdim=True)
            low, high = low.clamp_max(0.0), high.clamp_min(0.0)
        else:
            low, high = wide.new_tensor(self.low), wide.new_tensor(self.high)
        step = (high - low) / LEVELS
        step = torch.where(step >= SMALLEST_STEP, step, torch.ones_like(step))
        zero = (-low / step).round()
        q = ((wide / step).round() + zero).clamp(0, LEVELS)
        return ((q - zero) * step).to(x.dtype)

    def __repr__(self) -> str:
        how = "dynamic" if self.dynamic else f"{self.low:.4g}..{self.high:.4g}"
        return f"{super().__repr__()} ({how})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Weight:
        import copy

        # Derived values are made again: copies of them would not know of which weight they are.
        source, given = copy.deepcopy(self.source, memo), self._given()
        copied = Int8Weight(source, self.low, self.high, paired=self.paired)
        if given is not None:
            copied.adopt(*given)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made": self._given()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # As needed where it is read, which may not be where it was written.
        paired, given = state["paired"] or needs_pairs(), state["_made"]
        vars(self).update(state, paired=paired, _made=None)
        if given is not None and paired == state["paired"]:
            self.adopt(*given)


State = tuple[Any, ...]


def state_of(source: torch.Tensor) -> State:
    """What changes where a weight does: values that are derived from it hold for one state.

    Its version (in-place updates, optimizer steps and ``load_state_dict`` raise it), and which
    memory it is and how that is read (``.to()`` and ``.data = ...`` change it).
    """
    return (
        source._version,
        source.data_ptr(),
        source.dtype,
        source.shape,
        source.stride(),
    )


def check_quantized(values: torch.Tensor, scale: torch.Tensor, paired: bool) -> None:
    """``values`` (N, K) and ``scale`` (N,) are what :func:`quantize_rows` could give.

    Raises:
        ValueError: they are not.
    """
    if values.dim() != 2 or values.dtype != torch.int8:
        raise ValueError(f"values must be (N, K) int8, got {tuple(values.shape)} {values.dtype}")
    if scale.shape != values.shape[:1] or scale.dtype != torch.float32:
        raise ValueError(
            f"scale must be ({values.shape[0]},) float32, got {tuple(scale.shape)} {scale.dtype}"
        )
    if not bool((scale.isfinite() & (scale >= 0)).all()):
        raise ValueError("scale must be finite and not negative")
    wide = values.to(torch.int16)
    if bool((wide < -LARGEST).any()):
        raise ValueError(f"values must be at least {-LARGEST}")
    if paired and bool((wide[:, :-1:2] + wide[:, 1::2]).abs().gt(MOST_PAIRED).any()):
        raise ValueError(f"values must be paired: two neighbours at most {MOST_PAIRED} together")


def quantize_rows(weight: torch.Tensor, paired: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row of ``weight`` (N, K) as int8 in [-127, 127], and the scales (N,) float32.

    ``paired``: neighbours (2 i, 2 i + 1) of one sign are at most MOST_PAIRED together.
    """
    # A copy: another thread may write the weight between one look at it and the next.
    wide = weight.to(torch.float32, copy=True)
    largest = wide.abs().amax(dim=1) if wide.shape[1] else wide.new_zeros(wide.shape[0])
    if paired and wide.shape[1]:
        even = F.pad(wide, (0, wide.shape[1] % 2)).unflatten(1, (-1, 2))
        for part in (even.clamp_min(0.0), even.clamp_max(0.0)):
            largest = torch.maximum(largest, part.sum(dim=2).abs().amax(dim=1))
    scale = largest / LARGEST
    scale = torch.where(scale < SMALLEST_STEP, torch.zeros_like(scale), scale)
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    values = (wide / safe[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8)
    return values, scale


def product(
    x: torch.Tensor, weight: torch.Tensor | ConvertedWeight, bias: torch.Tensor | None
) -> torch.Tensor:
    """``x @ weight.T + bias`` in plain PyTorch, in the weight's form."""
    if isinstance(weight, ConvertedWeight):
        if x.is_meta or not torch.is_autocast_enabled(x.device.type):
            return weight.product(x, bias)
        with torch.autocast(x.device.type, enabled=False):
            return weight.product(x, bias)
    if x.dtype is torch.bfloat16 and x.is_cpu:
        # On AMX PyTorch 2.14 reads behind rows of odd length that lie apart: 0 times NaN there.
        y = F.linear(x.contiguous(), weight.contiguous(), bias)
        if y.requires_grad and not torch.compiler.is_compiling():  # which lays out its gradients
            y.register_hook(torch.Tensor.contiguous)
        return y
    return F.linear(x, weight, bias)


def needs_pairs() -> bool:
    """Whether this machine's kernels take ``paired`` weights only."""
    from vitkern.ops import _cpu

    return _cpu.sums_pairs()


def source(weight: torch.Tensor | ConvertedWeight) -> torch.Tensor | ConvertedWeight:
    """The tensor that kernels load: the weight, or that which they round to bfloat16."""
    return weight.source if isinstance(weight, Bfloat16Weight) else weight


def rounds(weight: torch.Tensor | ConvertedWeight) -> bool:
    """Whether kernels round the operands of a product with this weight to bfloat16."""
    return isinstance(weight, Bfloat16Weight) and weight.dtype is torch.float32
