"""The kernels of ``attention`` in Triton and their configurations.

Tiles are of BLOCK_M queries and BLOCK_N keys. What is listed was chosen by compiling: tiles that
spilled a register for any compute capability are not here. 8.0 and 12.0 bound most of them, where
operands of products are in registers. Addresses of a bias and dropout's integers take many more,
in ways no model tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitkern.ops._triton.kernel import Config, Kernel, Model, Resources, Space, config, pow2

FUSED = 128
"""Up to so many queries, a program with all keys makes all gradients of an image and head."""

_MODULE = "vitkern.ops.attention.triton_kernels"

Tiles = Sequence[tuple[int, int, int, int]]
"""BLOCK_M, BLOCK_N, warps and stages of configurations; a BLOCK_N of 0 is all keys."""


def whole(keys: int, block_d: int, itemsize: int) -> int:
    """The rows of a tile of all keys; 0 where they are too many to be one."""
    most = 64 if itemsize == 2 and block_d <= 64 else 16
    return pow2(keys, 16) if 0 < keys <= most else 0


def _space(
    plain: Tiles, beside: Tiles, wide: Tiles, single: Tiles, single_wide: Tiles, whole: Tiles
) -> Space:
    """Configurations by what bounds them.

    Args:
        plain: in half precision, of a head_dim up to 64.
        beside: of such, beside a bias or with dropout.
        wide: in half precision, of a wider head_dim.
        single, single_wide: the same in float32.
        whole: where all keys are one tile.
    """

    def space(constants: Mapping[str, Any], itemsize: int) -> Sequence[Config]:
        if constants.get("WHOLE"):
            tiles = whole
        elif itemsize == 4:
            tiles = single if constants["BLOCK_D"] <= 64 else single_wide
        elif constants["BLOCK_D"] > 64:
            # Rows of more than 128 elements are too much for four warps.
            tiles = [one for one in wide if one[2] == 8 or constants["BLOCK_D"] <= 128]
        else:
            tiles = beside if constants["NATURAL"] or constants["DROPS"] else plain
        return [
            config(warps, stages, BLOCK_M=m, BLOCK_N=n or constants["WHOLE"])
            for m, n, warps, stages in tiles
        ]

    return space


def _model(stay: str, move: str, sums: str, scores: int) -> Model:
    """Estimates from a program's tiles.

    Args:
        stay: ``M`` or ``N`` for each tile of rows that a program keeps, by its number of rows.
        move: the same for those that a step of the loop loads; two steps are under way, but where
            all keys are one tile.
        sums: the same for sums.
        scores: tiles of scores that live at a time.
    """

    def model(c: Mapping[str, Any], itemsize: int) -> Resources:
        m, n, d = c["BLOCK_M"], c["BLOCK_N"], c["BLOCK_D"]
        steps = 1 if c.get("WHOLE") else 2
        rows = sum(m if one == "M" else n for one in stay + steps * move)
        summed = sum(m if one == "M" else n for one in sums)
        return Resources((rows * d + m * n) * itemsize, summed * d + scores * m * n)

    return model


FORWARD = Kernel(
    _MODULE,
    "forward",
    _space(
        plain=((64, 64, 4, 3), (128, 64, 8, 2), (64, 32, 4, 2), (32, 64, 4, 2)),
        beside=((64, 32, 4, 2), (128, 32, 8, 2)),
        wide=((32, 32, 4, 2), (16, 32, 8, 2)),
        single=((32, 32, 4, 2), (16, 32, 4, 1)),
        single_wide=((16, 16, 4, 2), (16, 16, 8, 2)),
        whole=((64, 0, 4, 1), (32, 0, 4, 1), (16, 0, 4, 1)),
    ),
    _model(stay="M", move="NN", sums="M", scores=2),
)
QUERIES = Kernel(
    _MODULE,
    "backward_queries",
    _space(
        plain=((64, 64, 4, 3), (128, 64, 8, 2), (64, 32, 4, 2), (32, 64, 4, 2)),
        beside=((64, 32, 4, 2), (32, 32, 4, 2)),
        wide=((32, 32, 4, 2), (16, 32, 8, 2)),
        single=((32, 32, 4, 2), (16, 32, 4, 1)),
        single_wide=((16, 16, 4, 2),),
        whole=(),
    ),
    _model(stay="MM", move="NN", sums="M", scores=2),
)
KEYS = Kernel(
    _MODULE,
    "backward_keys",
    _space(
        plain=((32, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2)),
        beside=((32, 32, 4, 2),),
        wide=((32, 32, 8, 2),),
        single=((16, 32, 4, 1), (16, 32, 8, 1)),
        single_wide=((16, 16, 4, 1),),
        whole=((32, 0, 8, 1), (16, 0, 4, 1)),
    ),
    _model(stay="NN", move="MM", sums="NN", scores=2),
)
BIAS = Kernel(
    _MODULE,
    "backward_bias",
    _space(
        plain=(),
        beside=((32, 64, 4, 2),),
        wide=((32, 32, 8, 2), (16, 32, 8, 2)),
        single=((16, 32, 8, 1), (16, 16, 4, 1)),
        single_wide=((16, 16, 4, 1),),
        whole=((32, 0, 4, 1), (32, 0, 8, 1), (16, 0, 4, 1)),
    ),
    _model(stay="", move="MMNN", sums="", scores=3),
)
