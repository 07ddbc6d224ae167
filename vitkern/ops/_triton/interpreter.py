"""Mends of Triton's interpreter, so that its bfloat16 results are those of a GPU.

As of Triton 3.8 the interpreter keeps bfloat16 values as 16-bit integers, multiplies these integers
in ``tl.dot``, and cuts off the low half of a float32 instead of rounding it. Its float16 ``tl.dot``
rounds every product and sum to the accumulator that numpy chooses. With the mends, products of
half-precision operands are summed in float32, and float32 is rounded to the nearest bfloat16, ties
to even, as GPUs do. Arithmetic on bfloat16 values themselves stays wrong there: kernels compute in
float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_NAN = np.uint16(0x7FC0)


def mend() -> None:
    """Replace the interpreter's ``dot`` and casts, once a process."""
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    if getattr(builder, "vitkern_mended", False):
        return
    import triton.language as tl

    plain_dot, plain_cast, handle = builder.create_dot, builder.cast_impl, interpreter.TensorHandle

    def dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        halves = (tl.bfloat16, tl.float16)
        if a.dtype.scalar not in halves or b.dtype.scalar not in halves:
            return plain_dot(self, a, b, d, *rest)
        product = np.matmul(_widened(a, tl), _widened(b, tl))
        return handle((product + d.data).astype(d.data.dtype), d.dtype.scalar)

    def cast(self: Any, source: Any, target: Any) -> Any:
        pair = (source.dtype.scalar, target.scalar)
        if pair == (tl.float32, tl.bfloat16):
            return handle(to_bfloat16_bits(source.data), tl.bfloat16)
        if pair == (tl.bfloat16, tl.float32):
            return handle(from_bfloat16_bits(source.data), tl.float32)
        return plain_cast(self, source, target)

    def convert(self: Any, source: Any, target: Any, rounding: Any) -> Any:
        return cast(self, source, target) if rounding is None else plain_convert(
            self, source, target, rounding
        )  # fmt: skip

    plain_convert = builder.create_fp_to_fp
    builder.create_dot = dot
    builder.cast_impl = cast
    builder.create_fp_ext = builder.create_fp_trunc = cast
    builder.create_fp_to_fp = convert
    builder.vitkern_mended = True


def to_bfloat16_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """The bits of float32 values rounded to bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    return np.where(np.isnan(values), _NAN, rounded.astype(np.uint16))


def from_bfloat16_bits(bits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The float32 values that bfloat16 bits stand for."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _widened(value: Any, tl: Any) -> npt.NDArray[np.float32]:
    if value.dtype.scalar == tl.bfloat16:
        return from_bfloat16_bits(value.data)
    widened: npt.NDArray[np.float32] = value.data.astype(np.float32)
    return widened
