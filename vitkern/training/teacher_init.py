"""A student's first weights, cut from its teacher's."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

__all__ = ["init_from_teacher"]

_BLOCK = re.compile(r"^((?:layers\.\d+\.)?blocks)\.(\d+)\.(.*)$")


@torch.no_grad()
def init_from_teacher(student: nn.Module, teacher: nn.Module) -> str:
    """Fills a student with layers of its teacher, evenly picked, and slices of their widths.

    Of each tensor the first channels are taken, of query, key and value the first heads and the
    first channels of each. So the student begins with parts of the teacher's features, not with its
    function.

    Args:
        student: a ViT or Swin of ``vitkern.models`` or timm.
        teacher: the same kind, with as many stages, no narrower and no shallower in any.

    Returns:
        One line: which blocks were taken.

    Raises:
        ValueError: a tensor of the student has no counterpart in the teacher that is as large; the
            student is unchanged.
    """
    source, target = teacher.state_dict(), student.state_dict()
    picks = {stage: _pick(n, _depths(source).get(stage, 0)) for stage, n in _depths(target).items()}
    values: dict[str, torch.Tensor] = {}
    wrong: list[str] = []
    for name, old in target.items():
        from_name = _counterpart(name, picks)
        new = source.get(from_name) if from_name is not None else None
        if new is None:
            wrong.append(f"the teacher has nothing for {name}")
            continue
        cut = _cut(name, new, old, _heads(teacher, from_name), _heads(student, name))
        if cut is None:
            wrong.append(f"{name} is {tuple(old.shape)} of the teacher's {tuple(new.shape)}")
        else:
            values[name] = cut
    if wrong:
        raise ValueError(f"the student cannot be cut from its teacher: {'; '.join(wrong[:5])}")
    student.load_state_dict(values, strict=True)
    return ", ".join(f"{stage} {blocks}" for stage, blocks in picks.items())


def _depths(weights: dict[str, Any]) -> dict[str, int]:
    """Blocks of each stage; a ViT has one."""
    depths: dict[str, int] = {}
    for name in weights:
        found = _BLOCK.match(name)
        if found is not None:
            depths[found[1]] = max(depths.get(found[1], 0), int(found[2]) + 1)
    return depths


def _pick(wanted: int, available: int) -> list[int]:
    """So many of the teacher's blocks, the first and the last among them."""
    if wanted > available:
        raise ValueError(
            f"the student cannot be cut from its teacher: {wanted} blocks of {available}"
        )
    if wanted == 1:
        return [available - 1]
    return [round(place * (available - 1) / (wanted - 1)) for place in range(wanted)]


def _counterpart(name: str, picks: dict[str, list[int]]) -> str | None:
    found = _BLOCK.match(name)
    if found is None:
        return name
    return f"{found[1]}.{picks[found[1]][int(found[2])]}.{found[3]}"


def _heads(model: nn.Module, name: str | None) -> int:
    """Attention heads of the module that a parameter is in; 1 where it is in none."""
    path = (name or "").split(".")
    for length in range(len(path) - 1, 0, -1):
        heads = getattr(model.get_submodule(".".join(path[:length])), "num_heads", None)
        if isinstance(heads, int):
            return heads
    return 1


def _cut(
    name: str, new: torch.Tensor, old: torch.Tensor, many: int, few: int
) -> torch.Tensor | None:
    """``new`` cut to the shape of ``old``; None where it is too small."""
    if name.endswith(("qkv.weight", "qkv.bias")):  # (3, heads, channels of a head, ...)
        rest = new.shape[1:]
        return _slice(
            new.reshape(3, many, -1, *rest), old.reshape(3, few, -1, *old.shape[1:]), old.shape
        )
    if name.endswith("attn.proj.weight"):  # its inputs are heads
        return _slice(new.reshape(len(new), many, -1), old.reshape(len(old), few, -1), old.shape)
    if ".downsample." in name and new.ndim and new.shape[-1] % 4 == 0 == old.shape[-1] % 4:
        # Its inputs are the channels of four neighbours.
        return _slice(
            new.reshape(*new.shape[:-1], 4, -1), old.reshape(*old.shape[:-1], 4, -1), old.shape
        )
    if name.endswith("pos_embed") and new.shape[1] != old.shape[1]:
        return None  # another grid: the first positions are no smaller image
    if name.endswith("relative_position_bias_table") and len(new) != len(old):
        return None
    if name.startswith("head.") and len(new) != len(old):
        return None  # other classes
    return _slice(new, old, old.shape)


def _slice(new: torch.Tensor, like: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    if new.ndim != like.ndim or any(a < b for a, b in zip(new.shape, like.shape, strict=True)):
        return None
    return new[tuple(slice(size) for size in like.shape)].reshape(shape).clone()
