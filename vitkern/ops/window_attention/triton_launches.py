"""How ``window_attention`` in Triton launches its kernels, and what these then do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vitkern.ops._triton.kernel import cdiv, pow2, target_for
from vitkern.ops._triton.recorder import SCORE_INSTRUCTIONS, Work
from vitkern.ops._triton.sums import column_sums
from vitkern.ops.window_attention import triton_spaces as kernels

WHOLE = 64
"""Most positions of a window whose scores are one tile."""

WIDE = 2**31
"""Offsets within an image from which on they need 64 bits."""


def is_whole(qkv: torch.Tensor, heads: int, window: tuple[int, int]) -> bool:
    """Whether the windows' scores are one tile each: few positions, and heads that are not wide."""
    width = pow2(qkv.shape[-1] // (3 * heads), 16) * qkv.element_size()
    return window[0] * window[1] <= WHOLE and width <= 256


class Windows:
    """What all kernels need to know of a call: sizes, strides, and the constants of its windows."""

    def __init__(
        self,
        qkv: torch.Tensor,
        table: torch.Tensor | None,
        pad: torch.Tensor | None,
        heads: int,
        window: tuple[int, int],
        shift: tuple[int, int],
        scale: float,
        pad_first: bool,
        dout: torch.Tensor | None = None,
    ) -> None:
        batch, height, width, channels = qkv.shape
        down, across = cdiv(height, window[0]), cdiv(width, window[1])
        self.qkv, self.table, self.pad, self.heads = qkv, table, pad, heads
        self.window, self.positions = window, window[0] * window[1]
        self.windows = batch * down * across
        self.head_dim = channels // (3 * heads)
        self.block_d = pow2(self.head_dim, 16)
        self.itemsize = qkv.element_size()
        self.whole = is_whole(qkv, heads, window)
        target = target_for(qkv.device)
        self.processors, self.capability = target.processors, target.capability
        if table is not None and not self.whole:
            # Each tile gathers from it: a head's entries next to each other.
            table = table.t().contiguous().t()
        self.arguments: dict[str, Any] = {
            "QKV": qkv, "TABLE": table, "PAD": pad,
            "height": height, "width": width, "down": down, "across": across,
            "shift_y": shift[0], "shift_x": shift[1], "scale": scale,
            "qkv_image": qkv.stride(0), "qkv_y": qkv.stride(1), "qkv_x": qkv.stride(2),
            "qkv_channel": qkv.stride(3),
            "table_row": 0 if table is None else table.stride(0),
            "table_head": 0 if table is None else table.stride(1),
            "pad_step": 0 if pad is None else pad.stride(0),
        }  # fmt: skip
        if dout is not None:
            names = ("dout_image", "dout_y", "dout_x", "dout_channel")
            self.arguments |= {"DOUT": dout, **dict(zip(names, dout.stride(), strict=True))}
        # Offsets within an image, of what is read as of what is written.
        reach = max(_reach(qkv), 0 if dout is None else _reach(dout), height * width * channels)
        self.constants: dict[str, Any] = {
            "WINDOW_H": window[0], "WINDOW_W": window[1], "HEAD_DIM": self.head_dim,
            "BLOCK_D": self.block_d, "SHIFTED": any(shift),
            "PADDED": bool(height % window[0] or width % window[1]), "PAD_FIRST": pad_first,
            "WIDE": reach > WIDE,
        }  # fmt: skip
        # Bytes of q in the map (k, v, dout have as many), of a head's table, of a float a row.
        self.part = batch * height * width * heads * self.head_dim * self.itemsize
        self.column = 0 if table is None else table.shape[0] * self.itemsize
        self.rows = self.windows * heads * self.positions * 4

    def flops(self, products: int, block_m: int, block_n: int) -> dict[str, float]:
        """Work's of so many products of each window's scores, in tiles."""
        n = self.positions
        pairs = 2.0 * self.windows * self.heads * products
        rows, columns = cdiv(n, block_m) * block_m, cdiv(n, block_n) * block_n
        return {
            "flops": pairs * rows * columns * self.block_d,
            "useful": pairs * n * n * self.head_dim,
            "exponentials": 1.0 * self.windows * self.heads * rows * columns,
            "scalar": SCORE_INSTRUCTIONS * self.windows * self.heads * rows * columns,
        }

    def share(self, programs: int) -> int:
        """How many programs share a head's windows: so that all heads have about ``programs``."""
        most = min(max(cdiv(programs, self.heads), 1), max(self.windows, 1))
        return cdiv(self.windows, cdiv(self.windows, most)) if self.windows else 1


def _reach(x: torch.Tensor) -> int:
    """The offset behind the last element of an image."""
    return 1 + sum((n - 1) * step for n, step in zip(x.shape[1:], x.stride()[1:], strict=True))


def _bytes(*tensors: torch.Tensor | None) -> float:
    return float(sum(t.numel() * t.element_size() for t in tensors if t is not None))


def whole_forward(w: Windows, out: torch.Tensor) -> None:
    """One kernel; a program has a head and every so many-th window."""

    def work(c: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        tables = grid[0] * grid[1] * w.column
        return Work(
            **w.flops(2, c["BLOCK_N"], c["BLOCK_N"]),
            read=3 * w.part + tables, unique=3 * w.part + w.heads * w.column, written=w.part,
        )  # fmt: skip

    kernels.WHOLE_FORWARD(
        lambda c: (w.heads, w.share(c["PER_PROCESSOR"] * w.processors)),
        {**w.arguments, "OUT": out, "windows": w.windows},
        {**w.constants, "BLOCK_N": pow2(w.positions, 16)},
        work,
        operand=w.qkv,
    )


def whole_backward(
    w: Windows,
    dqkv: torch.Tensor | None,
    dtable: torch.Tensor | None,
    dpad: torch.Tensor | None,
) -> None:
    """One kernel recomputes the scores; it leaves sums of a program's windows, if these matter.

    Where the sum of the scores' gradients and the other gradients do not fit in registers together,
    it is launched twice.
    """
    block = pow2(w.positions, 16)
    # As many programs as are on the device at once, whatever the configuration: each leaves sums.
    programs = w.share(2 * WHOLE // block * w.processors)
    dscores = _sums_of_scores(w, programs, dtable)
    partial_pad = None if dpad is None else _floats(w.qkv, programs, dpad.numel())

    def launch(
        dqkv: torch.Tensor | None, dscores: torch.Tensor | None, partial_pad: torch.Tensor | None
    ) -> None:
        products = 2 if dqkv is None and partial_pad is None else 4 if dqkv is None else 5

        def work(c: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
            return Work(
                **w.flops(products, block, block),
                read=4 * w.part + grid[0] * grid[1] * w.column,
                unique=4 * w.part + w.heads * w.column,
                written=_bytes(dqkv, dscores, partial_pad),
            )

        kernels.WHOLE_BACKWARD(
            lambda c: (w.heads, programs),
            {**w.arguments, "DQKV": dqkv, "DSCORES": dscores, "PARTIAL_PAD": partial_pad,
             "windows": w.windows},
            {**w.constants, "BLOCK_N": block}, work, operand=w.qkv,
        )  # fmt: skip

    others = dqkv is not None or partial_pad is not None
    if dscores is None or not others or _has_registers(w, block):
        launch(dqkv, dscores, partial_pad)
    else:
        launch(dqkv, None, partial_pad)
        launch(None, dscores, None)
    _finish(w, dscores, dtable, partial_pad, dpad)


def _has_registers(w: Windows, block: int) -> bool:
    """Whether one program can have all gradients of whole windows: measured by compiling.

    Hopper multiplies from shared memory; elsewhere operands are in registers too.
    """
    return block < WHOLE or (w.itemsize == 2 and w.block_d <= 32 and w.capability[0] == 9)


def blocked_forward(w: Windows, out: torch.Tensor, log_sums: torch.Tensor | None) -> None:
    """One kernel; a program has a block of queries of one head and window."""

    def work(c: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        blocks = cdiv(w.positions, c["BLOCK_M"])
        return Work(
            **w.flops(2, c["BLOCK_M"], c["BLOCK_N"]),
            read=w.part + 2 * blocks * w.part + grid[0] * w.column,
            unique=3 * w.part + w.heads * w.column,
            written=_bytes(out, log_sums),
        )

    kernels.BLOCKED_FORWARD(
        lambda c: (cdiv(w.positions, c["BLOCK_M"]) * w.heads * w.windows,),
        {**w.arguments, "OUT": out, "LOG_SUMS": log_sums, "heads": w.heads},
        {**w.constants, "SAVE": log_sums is not None},
        work,
        operand=w.qkv,
    )


def blocked_backward(
    w: Windows,
    out: torch.Tensor,
    log_sums: torch.Tensor,
    dqkv: torch.Tensor | None,
    dtable: torch.Tensor | None,
    dpad: torch.Tensor | None,
) -> None:
    """A kernel each for the gradients of queries, of keys and values, and of scores."""
    delta = torch.empty_like(log_sums)
    arguments = {**w.arguments, "LOG_SUMS": log_sums, "DELTA": delta,
                 "heads": w.heads}  # fmt: skip
    # Programs for keys leave sums of theirs, whose number no configuration may change.
    keys = min(64 if w.block_d * w.itemsize <= 256 else 32, pow2(w.positions, 16))
    key_blocks = cdiv(w.positions, keys)
    dscores = _sums_of_scores(
        w, w.share(2 * cdiv(w.processors, cdiv(w.positions, WHOLE) ** 2)), dtable
    )
    partial_pad = None if dpad is None else _floats(w.qkv, w.windows * key_blocks, dpad.numel())

    def queries_work(c: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        if dqkv is None:
            return Work(read=2 * w.part, unique=2 * w.part, written=w.rows)
        blocks = cdiv(w.positions, c["BLOCK_M"])
        return Work(
            **w.flops(3, c["BLOCK_M"], c["BLOCK_N"]),
            read=3 * w.part + w.rows + 2 * blocks * w.part + grid[0] * w.column,
            unique=5 * w.part + w.rows + w.heads * w.column,
            written=w.part + w.rows,
        )

    def keys_work(c: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        return Work(
            **w.flops(4, c["BLOCK_M"], c["BLOCK_N"]),
            read=2 * w.part + 2 * key_blocks * (w.part + w.rows) + grid[0] * w.column,
            unique=4 * w.part + 2 * w.rows + w.heads * w.column,
            written=(0 if dqkv is None else 2 * w.part) + _bytes(partial_pad),
        )

    def scores_work(c: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        rows, columns = (cdiv(w.positions, c[name]) for name in ("BLOCK_M", "BLOCK_N"))
        return Work(
            **w.flops(2, c["BLOCK_M"], c["BLOCK_N"]),
            read=2 * columns * (w.part + w.rows) + 2 * rows * w.part
            + grid[0] * grid[1] * w.column,
            unique=4 * w.part + 2 * w.rows + w.heads * w.column,
            written=_bytes(dscores),
        )  # fmt: skip

    if w.windows:
        kernels.BLOCKED_QUERIES(
            lambda c: (cdiv(w.positions, c["BLOCK_M"]) * w.heads * w.windows,),
            {**arguments, "OUT": out, "DQKV": dqkv},
            w.constants, queries_work, operand=w.qkv,
        )  # fmt: skip
    if w.windows and (dqkv is not None or dpad is not None):
        kernels.BLOCKED_KEYS(
            lambda c: (key_blocks * w.heads * w.windows,),
            {**arguments, "DQKV": dqkv, "PARTIAL_PAD": partial_pad},
            {**w.constants, "BLOCK_N": keys}, keys_work, operand=w.qkv,
        )  # fmt: skip
    if dscores is not None:
        kernels.BLOCKED_SCORES(
            lambda c: (
                cdiv(w.positions, c["BLOCK_M"]) * cdiv(w.positions, c["BLOCK_N"]) * w.heads,
                dscores.shape[0],
            ),
            {**arguments, "DSCORES": dscores, "windows": w.windows},
            w.constants, scores_work, operand=w.qkv,
        )  # fmt: skip
    _finish(w, dscores, dtable, partial_pad, dpad)


def _floats(like: torch.Tensor, *shape: int) -> torch.Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def _sums_of_scores(w: Windows, programs: int, dtable: torch.Tensor | None) -> torch.Tensor | None:
    """For the gradient of each head's scores, summed over each program's windows."""
    if dtable is None:
        return None
    return _floats(w.qkv, programs, w.heads, w.positions, w.positions)


def _finish(
    w: Windows,
    dscores: torch.Tensor | None,
    dtable: torch.Tensor | None,
    partial_pad: torch.Tensor | None,
    dpad: torch.Tensor | None,
) -> None:
    """The gradients of the table and of the padding's value from what programs left."""
    if partial_pad is not None and dpad is not None:
        column_sums(partial_pad, dpad)
    if dscores is None or dtable is None:
        return
    if dscores.shape[0] > 1:
        total = _floats(w.qkv, *dscores.shape[1:])
        column_sums(dscores, total)
        dscores = total
    read, written = float(w.heads * w.positions**2 * 4), _bytes(dtable)
    kernels.TABLE(
        lambda c: (cdiv(dtable.shape[0], c["BLOCK_R"]), w.heads),
        {"DSCORES": dscores, "DTABLE": dtable, "heads": w.heads},
        {"WINDOW_H": w.window[0], "WINDOW_W": w.window[1]},
        lambda c, grid: Work(read=read, unique=read, written=written),
        operand=dscores,
    )
